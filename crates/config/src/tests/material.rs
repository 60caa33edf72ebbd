//! Tests of the files that a configuration names: certificates, private keys, roots and CRLs. Files
//! that cannot be used are refused with the file and its place in the configuration.

use super::*;

#[test]
fn certificates_and_keys_that_do_not_fit_are_refused() {
    let place = Place::new();
    let mut other = place.authority("other", "other.example");
    let names = SubjectNames::new().dns("other.example").unwrap();
    let request = IssueRequest::new("other".parse().unwrap(), names);
    other
        .issue(&request.profile(CertificateProfile::SERVER))
        .unwrap();
    place.write("empty", "");
    place.write("text", "hello\n");
    place.write("cut", &place.read("certs/issued/gateway.pem")[..300]);
    let certificate = "certificate = \"certs/issued/gateway.pem\"";
    let key = "private_key = \"certs/issued/gateway.key\"";
    for (from, to, part) in [
        (
            certificate,
            "certificate = \"nowhere.pem\"",
            "nowhere.pem: No such file",
        ),
        (certificate, "certificate = \"certs\"", "it is a directory"),
        (certificate, "certificate = \"empty\"", "is empty"),
        (
            certificate,
            "certificate = \"text\"",
            "holds no PEM certificate",
        ),
        (
            certificate,
            "certificate = \"cut\"",
            "cut, line 1: -----BEGIN CERTIFICATE----- has no -----END",
        ),
        (
            certificate,
            "certificate = \"certs/issued/gateway.key\"",
            "holds a private key and no certificate",
        ),
        (
            key,
            "private_key = \"nowhere.key\"",
            "nowhere.key: No such file",
        ),
        (key, "private_key = \"text\"", "holds no PEM private key"),
        (
            key,
            "private_key = \"certs/trust.pem\"",
            "holds a certificate and no private key",
        ),
        (
            key,
            "private_key = \"other/issued/other.key\"",
            "does not belong to",
        ),
    ] {
        let shown = place.errors(&with(from, to));
        let line = line_of(&whole(), from);
        for part in [part, &format!("countersign.toml:{line}:"), "^"] {
            assert!(shown.contains(part), "{part} {shown}");
        }
    }
    let sealed = KeyProtection::passphrase("secret".to_owned().into()).unwrap();
    let domain = TrustDomain::parse("sealed.example").unwrap();
    Pki::create(&place.path("sealed"), &domain, &sealed).unwrap();
    let text = with(key, "private_key = \"sealed/root.key\"");
    place.refuses(
        &text,
        "private_key",
        &["protected by a passphrase", "openssl pkey"],
    );
}

#[test]
fn an_expired_server_certificate_is_refused() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    place.write(
        "certs/issued/gateway.pem",
        params.self_signed(&key).unwrap().pem(),
    );
    place.write("certs/issued/gateway.key", key.serialize_pem());
    place.refuses(
        &whole(),
        "certificate = ",
        &[
            "the certificate expired at 2021-01-01T00:00:00Z",
            "renew the certificate",
        ],
    );
    params.not_before = rcgen::date_time_ymd(2120, 1, 1);
    params.not_after = rcgen::date_time_ymd(2121, 1, 1);
    place.write(
        "certs/issued/gateway.pem",
        params.self_signed(&key).unwrap().pem(),
    );
    place.refuses(&whole(), "certificate = ", &["valid only from 2120"]);
}

#[test]
fn private_keys_that_others_can_read_are_warned_of() {
    let place = Place::new();
    let key = place.path("certs/issued/gateway.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    place.warns(
        &whole(),
        "private_key",
        &format!("chmod 600 {}", key.display()),
    );
}

#[test]
fn roots_are_taken_whole_or_not_at_all() {
    let place = Place::new();
    let trust = place.read("certs/trust.pem");
    let key = place.read("certs/root.key");
    let end = trust.find("-----END").unwrap();
    for (content, part) in [
        (String::new(), "is empty"),
        ("hello\n".to_owned(), "holds no PEM certificate"),
        (
            format!("{trust}{key}"),
            "a private key must not stand among trusted material",
        ),
        (
            place.read("certs/crl/root.crl"),
            "line 1: there is a X509 CRL block; only CERTIFICATE blocks belong here",
        ),
        (
            trust[..end].to_owned(),
            "roots.pem, line 1: -----BEGIN CERTIFICATE----- has no",
        ),
        (
            format!("{trust}{}", &trust[..end]),
            "-----BEGIN CERTIFICATE----- has no",
        ),
        (
            format!("{trust}{}", trust.replace("-----BEGIN", "> -----BEGIN")),
            "there is text before -----BEGIN",
        ),
        (
            trust.replace("MII", "!!!"),
            "line 2: there is a character that is not base64",
        ),
        (
            trust.replace(
                "-----BEGIN CERTIFICATE-----\n",
                "-----BEGIN CERTIFICATE-----\nAAAA",
            ),
            "a root certificate cannot be used",
        ),
        (
            place.read("certs/issued/gateway.pem"),
            "not a certificate authority",
        ),
    ] {
        place.write("roots.pem", content);
        let text = with("certs/trust.pem", "roots.pem");
        let shown = place.errors(&text);
        let line = line_of(&text, "roots = ");
        for part in [part, &format!("countersign.toml:{line}:"), "roots.pem"] {
            assert!(shown.contains(part), "{part} {shown}");
        }
    }
    place.refuses(
        &with("certs/trust.pem", "nowhere.pem"),
        "roots = ",
        &["No such file"],
    );
}

#[test]
fn an_expired_root_alone_is_refused_and_beside_a_valid_one_left_out() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired = params.self_signed(&key).unwrap().pem();
    place.write("old.pem", &expired);
    place.refuses(
        &with("certs/trust.pem", "old.pem"),
        "name = \"example.org\"",
        &["has no root certificate that is valid now"],
    );
    place.write("old.pem", expired + &place.read("certs/trust.pem"));
    place.warns(
        &with("certs/trust.pem", "old.pem"),
        "name = \"example.org\"",
        "was left out",
    );
}

#[test]
fn revocation_is_said_or_there_are_lists() {
    let place = Place::new();
    let crls = "crls = [\"certs/crl/*.crl\"]";
    for posture in ["hard", "soft"] {
        let text = with(crls, &format!("revocation = \"{posture}\""));
        place.refuses(&text, "revocation = ", &["no list to check", "\"off\""]);
    }
    place.good(&with(crls, "revocation = \"off\""));
    place.good(&with(crls, "crls = []\nrevocation = \"off\""));
    let text = plus(TRUST, "revocation = \"off\"");
    place.warns(&text, "revocation = \"off\"", "revoked callers are let in");
    for (written, parts) in [
        (
            "https://ca.example.org/a.crl",
            &["there is no [crl_fetch]"][..],
        ),
        ("http://ca.example.org/a.crl", &["no URL that lists are"]),
        ("certs/crl/*.pem", &["no file matches"]),
        ("certs/*/root.crl", &["'*' may stand in the file name only"]),
        ("nowhere/*.crl", &["cannot list"]),
        (
            "certs/trust.pem",
            &["line 1: there is a CERTIFICATE block; only X509 CRL blocks belong here"],
        ),
        ("countersign.toml", &["holds no PEM revocation list"]),
    ] {
        let text = with(crls, &format!("crls = [\"{written}\"]"));
        place.refuses(&text, "crls = ", parts);
    }
    place.write("bad.crl", [0x30, 0x81, 0x03, 1, 2, 3]);
    let text = with(crls, "crls = [\"bad.crl\"]");
    place.refuses(&text, "crls = ", &["bad.crl", "cannot be used"]);
}

#[test]
fn revocation_lists_may_be_der_or_several_in_one_file() {
    use rustls_pki_types::pem::PemObject as _;
    let place = Place::new();
    let both = place.read("certs/crl/root.crl") + &place.read("certs/crl/intermediate.crl");
    let lists: Vec<_> =
        rustls_pki_types::CertificateRevocationListDer::pem_slice_iter(both.as_bytes())
            .map(Result::unwrap)
            .collect();
    place.write("both.crl", &both);
    place.write("one.der", lists[0].as_ref());
    let text = with("certs/crl/*.crl", "both.crl\", \"one.der");
    place.write("countersign.toml", &text);
    let (_, inventory) = inspect(&place.path("countersign.toml")).unwrap();
    let found = &inventory.trust_domains[0].revocation_lists;
    assert_eq!(found.len(), 3);
    assert!(
        found
            .iter()
            .all(|list| list.next_update.is_some() && list.revoked == 0)
    );
}
