//! The operations that `kill_tests` kills. Each operation is an ignored test, so that `kill_tests`
//! can run it in a child process.

use super::*;

fn open(home: &Path) -> Pki {
    Pki::open(&home.join("certs")).unwrap()
}

#[test]
#[ignore = "a child process"]
fn issue() {
    let Some(home) = directory() else { return };
    let mut pki = open(&home);
    pki.issue(&request(&pki, "new")).unwrap();
}

#[test]
#[ignore = "a child process"]
fn issue_elsewhere() {
    let Some(home) = directory() else { return };
    let mut pki = open(&home);
    let request = request(&pki, "new").out(home.join("out/new"));
    pki.issue(&request).unwrap();
}

#[test]
#[ignore = "a child process"]
fn sign() {
    let Some(home) = directory() else { return };
    let mut pki = open(&home);
    let content = std::fs::read(home.join("out/request")).unwrap();
    let signing = SigningRequest::read(&content).unwrap();
    pki.sign(&signing, &request(&pki, "new")).unwrap();
}

#[test]
#[ignore = "a child process"]
fn renew() {
    let Some(home) = directory() else { return };
    let mut pki = open(&home);
    let renewal = pki.renewal(&home.join("certs/issued/old.pem")).unwrap();
    pki.renew(&renewal, false).unwrap();
}

#[test]
#[ignore = "a child process"]
fn issue_many() {
    let Some(home) = directory() else { return };
    let mut pki = open(&home);
    let requests = ["a", "b"].map(|name| request(&pki, name));
    pki.issue_many(&requests, &mut |_| {}).unwrap();
}

#[test]
#[ignore = "a child process"]
fn revoke() {
    let Some(home) = directory() else { return };
    let mut pki = open(&home);
    let target = RevocationTarget::Name(pki.printed_name("/old"), Among::All);
    let done = pki
        .revoke(&target, RevocationReason::KeyCompromise)
        .unwrap();
    assert_eq!((done.revoked.len(), done.crls.len()), (2, 2));
}

#[test]
#[ignore = "a child process"]
fn revoke_intermediate() {
    let Some(home) = directory() else { return };
    let mut pki = open(&home);
    let target = RevocationTarget::File(home.join("certs/earlier/intermediate.pem"));
    pki.revoke(&target, RevocationReason::CaCompromise).unwrap();
}

#[test]
#[ignore = "a child process"]
fn sign_lists() {
    let Some(home) = directory() else { return };
    let lists = open(&home).sign_crls(AuthorityName::Intermediate, None);
    assert_eq!(lists.unwrap().len(), 2);
}

#[test]
#[ignore = "a child process"]
fn prepare() {
    let Some(home) = directory() else { return };
    let options = RotationOptions::default();
    open(&home).prepare_rotation(&options).unwrap();
}

#[test]
#[ignore = "a child process"]
fn prepare_intermediate() {
    let Some(home) = directory() else { return };
    let options = RotationOptions {
        root: RootSource::Present { key: None },
        ..RotationOptions::default()
    };
    open(&home).prepare_rotation(&options).unwrap();
}

#[test]
#[ignore = "a child process"]
fn retire() {
    let Some(home) = directory() else { return };
    open(&home).retire(true).unwrap();
}

#[test]
#[ignore = "a child process"]
fn create() {
    let Some(home) = directory() else { return };
    let mut options = AuthorityOptions::new(KeyProtection::Plain);
    let certs = home.join("certs");
    options.beside = vec![(certs.join("countersign-crl.timer"), "timer".to_owned())];
    Pki::create_as(&certs, &domain(), &options).unwrap();
}

#[test]
#[ignore = "a child process"]
fn replace() {
    let Some(home) = directory() else { return };
    Pki::replace(&home.join("certs"), &domain(), &KeyProtection::Plain).unwrap();
}

#[test]
#[ignore = "a child process"]
fn list() {
    let Some(home) = directory() else { return };
    open(&home).issued(&Filter::default()).unwrap();
}
