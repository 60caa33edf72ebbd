//! Authorities whose root key is elsewhere: offline, or with a corporate authority. The root signs
//! the intermediate from a request.

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_testkit::skipped::has_tool;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints, RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use time::{Duration, OffsetDateTime};

use super::{certificates, pki};
use crate::support::Run;

/// A root whose key is not in the authority's directory, and a temporary directory for both.
pub(super) struct Offline {
    home: tempfile::TempDir,
    pub(super) root: CertificateParams,
    pub(super) key: KeyPair,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(900);
    params.use_authority_key_identifier_extension = true;
    params
}

impl Offline {
    pub(super) fn new() -> Self {
        Self::with("Corporate root", |_| {})
    }

    pub(super) fn with(name: &str, alter: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut root = authority_params(name);
        alter(&mut root);
        let offline = Self {
            home: tempfile::tempdir().unwrap(),
            root,
            key: KeyPair::generate().unwrap(),
        };
        let certificate = offline.root.self_signed(&offline.key).unwrap();
        std::fs::write(offline.path("root.pem"), certificate.pem()).unwrap();
        std::fs::write(offline.path("root.key"), offline.key.serialize_pem()).unwrap();
        offline
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(super) fn word(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(super) fn run(&self, verb: &[&str], arguments: &[&str]) -> Run {
        let mut command = pki(verb);
        command.arg("--dir").arg(self.path("certs")).args(arguments);
        Run::of(&mut command)
    }

    pub(super) fn init(&self, arguments: &[&str]) -> Run {
        let common = ["--trust-domain", "example.org"];
        self.run(&["init"], &[&common, arguments].concat())
    }

    /// Requests the first intermediate, with an unencrypted key.
    pub(super) fn request(&self) {
        let file = self.word("first.csr");
        self.init(&["--no-passphrase", "--intermediate-csr", &file])
            .done();
    }

    /// Signs an intermediate for the key of a request. `alter` can change the certificate before it
    /// is signed. Returns the path of the certificate.
    pub(super) fn sign(
        &self,
        csr: &str,
        out: &str,
        alter: impl FnOnce(&mut CertificateParams),
    ) -> String {
        self.sign_by(&self.key, csr, out, alter)
    }

    fn sign_by(
        &self,
        key: &KeyPair,
        csr: &str,
        out: &str,
        alter: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let content = std::fs::read(self.path(csr)).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(&content).unwrap();
        let (_, request) = {
            use x509_parser::prelude::FromDer as _;
            x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
                .unwrap()
        };
        let public = request.certification_request_info.subject_pki.raw;
        let mut params = authority_params(&format!("Intermediate {out}"));
        let id = Ia5String::try_from("spiffe://example.org").unwrap();
        params.subject_alt_names = vec![SanType::URI(id)];
        alter(&mut params);
        let issuer = Issuer::from_params(&self.root, key);
        let public = SubjectPublicKeyInfo::from_der(public).unwrap();
        let signed = params.signed_by(&public, &issuer).unwrap();
        std::fs::write(self.path(out), signed.pem()).unwrap();
        self.word(out)
    }

    /// Signs a revocation list with the root's key. The list expires in about `days` days. Returns
    /// the path of the list.
    pub(super) fn list(&self, out: &str, number: u64, revoked: &[Vec<u8>], days: i64) -> String {
        self.list_from(out, number, revoked, [-2, days * 24 - 1])
    }

    /// Same as [`Self::list`], valid between these two hours from now.
    pub(super) fn list_from(
        &self,
        out: &str,
        number: u64,
        revoked: &[Vec<u8>],
        [from, until]: [i64; 2],
    ) -> String {
        let end = OffsetDateTime::now_utc() + Duration::hours(until);
        let now = OffsetDateTime::now_utc() + Duration::hours(from);
        let entries = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: end,
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: entries.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.root, &self.key);
        let signed = list.signed_by(&issuer).unwrap();
        std::fs::write(self.path(out), signed.pem().unwrap()).unwrap();
        self.word(out)
    }

    /// Creates an authority below the root. The root's revocation list has the number 5.
    pub(super) fn authority() -> Self {
        let offline = Self::new();
        offline.request();
        let intermediate = offline.sign("first.csr", "first.pem", |_| {});
        let list = offline.list("root.crl", 5, &[], 30);
        offline.complete(&[&intermediate, "--ca-crl", &list]).done();
        offline
    }

    /// Creates an authority with this root, whose key is in the directory.
    pub(super) fn import(&self, arguments: &[&str]) -> Run {
        let [certificate, key] = [self.word("root.pem"), self.word("root.key")];
        let common = [
            "--no-passphrase",
            "--ca-cert",
            &certificate,
            "--ca-key",
            &key,
        ];
        self.init(&[&common, arguments].concat())
    }

    /// Completes the authority. The first argument is the file with the intermediate's certificate.
    pub(super) fn complete(&self, arguments: &[&str]) -> Run {
        let root = self.word("root.pem");
        let common = ["--ca-cert", &root, "--intermediate-cert"];
        self.init(&[&common, arguments].concat())
    }

    /// Tries to complete the authority. This must fail with `words`, and must keep the request.
    pub(super) fn refuses(&self, arguments: &[&str], words: &str) {
        self.complete(arguments).refused(1, words);
        assert!(!self.path("certs/root.pem").exists(), "{words}");
        assert!(self.path("certs/pending/intermediate.key").exists());
    }

    pub(super) fn issue(&self, name: &str) -> Run {
        self.run(&["issue"], &[&format!("spiffe://example.org/{name}")])
    }

    /// Verifies a leaf by the gateway's rules, with the published lists.
    pub(super) fn verify(&self, name: &str) -> Run {
        let mut command = pki(&["verify", "--purpose", "client", "--roots"]);
        command.arg(self.path("certs/trust.pem"));
        for list in ["root.crl", "intermediate.crl"] {
            let list = self.path("certs/crl").join(list);
            if list.exists() {
                command.arg("--crl").arg(list);
            }
        }
        Run::of(command.arg(self.path(&format!("certs/issued/{name}.pem"))))
    }
}

pub(super) fn serial_of(file: &Path) -> Vec<u8> {
    let der = certificates(file).swap_remove(0);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    certificate.raw_serial().to_vec()
}

#[test]
fn an_authority_works_without_the_key_of_its_root() {
    let offline = Offline::new();
    let file = offline.word("first.csr");
    let phrase = offline.word("phrase");
    std::fs::write(&phrase, "correct horse\n").unwrap();
    offline
        .init(&["--intermediate-csr", &file, "--passphrase-file", &phrase])
        .done();
    let key = std::fs::read_to_string(offline.path("certs/pending/intermediate.key")).unwrap();
    assert!(key.contains("ENCRYPTED"));
    // Until the signed certificate is given, no leaf can be issued. Each command says why.
    offline.issue("a").refused(1, "waits for its intermediate");
    offline
        .init(&["--no-passphrase"])
        .refused(1, "not come back signed yet");
    let other = offline.word("other.csr");
    offline
        .init(&["--no-passphrase", "--intermediate-csr", &other])
        .refused(1, "not come back signed yet");
    let intermediate = offline.sign("first.csr", "first.pem", |_| {});
    let list = offline.list("root.crl", 5, &[], 30);
    let arguments = [&intermediate, "--ca-crl", &list, "--passphrase-file"];
    let wrong = offline.word("root.pem");
    offline
        .complete(&[&arguments[..], &[&wrong]].concat())
        .refused(1, "passphrase");
    let made = offline
        .complete(&[&arguments[..], &[&phrase, "--json"]].concat())
        .done()
        .json();
    assert_eq!(made["keys_encrypted"], true);
    assert!(made["root"]["key"].is_null());
    assert!(!offline.path("certs/root.key").exists());
    assert!(!offline.path("certs/pending").exists());
    let key = std::fs::read_to_string(offline.path("certs/intermediate.key")).unwrap();
    assert!(key.contains("ENCRYPTED"));
    offline
        .run(
            &["issue"],
            &["spiffe://example.org/a", "--passphrase-file", &phrase],
        )
        .done();
    offline.verify("a").done();
    // The root's list cannot be signed here. The error names the option for a list that was signed
    // elsewhere.
    offline
        .run(
            &["crl"],
            &["--issuer", "root", "--passphrase-file", &phrase],
        )
        .refused(1, "--root-crl");
    offline
        .run(&["crl"], &["--passphrase-file", &phrase])
        .done();
}

#[test]
fn openssl_signs_the_request_as_the_program_says() {
    if !has_tool("openssl", "version") {
        return;
    }
    let offline = Offline::new();
    let file = offline.word("first.csr");
    let said = offline
        .init(&["--no-passphrase", "--intermediate-csr", &file])
        .done();
    let line = "openssl x509 -req -in ";
    assert!(said.stdout.contains(line), "{}", said.stdout);
    let mut openssl = Command::new("openssl");
    openssl.current_dir(offline.home.path()).args([
        "x509",
        "-req",
        "-in",
        "first.csr",
        "-CA",
        "root.pem",
        "-CAkey",
        "root.key",
        "-CAcreateserial",
        "-days",
        "300",
        "-copy_extensions",
        "copy",
        "-out",
        "first.pem",
    ]);
    Run::of(&mut openssl).done();
    let done = offline.complete(&[&offline.word("first.pem")]).done();
    // Without the root's list, gateways that require revocation lists refuse all callers. So the
    // command names the option for this list.
    assert!(done.stderr.contains("--root-crl"), "{}", done.stderr);
    offline.issue("a").done();
    offline.verify("a").ended(3, "revocation-unknown");
    let list = offline.list("root.crl", 1, &[], 30);
    offline.run(&["crl"], &["--root-crl", &list]).done();
    offline.verify("a").done();
    let der = certificates(&offline.path("certs/intermediate.pem")).swap_remove(0);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap().value;
    assert_eq!(constraints.path_len_constraint, Some(0));
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
}

type Alteration = fn(&mut CertificateParams);

#[test]
fn an_intermediate_that_gateways_would_refuse_is_refused() {
    let cases: [(Alteration, &str); 9] = [
        (|p| p.is_ca = IsCa::ExplicitNoCa, "-copy_extensions copy"),
        (
            |p| p.key_usages = vec![KeyUsagePurpose::CrlSign],
            "keyCertSign",
        ),
        (|p| p.key_usages.clear(), "keyCertSign"),
        (
            |p| p.not_after = rcgen::date_time_ymd(2020, 1, 1),
            "expired",
        ),
        (
            |p| p.not_before = OffsetDateTime::now_utc() + Duration::days(2),
            "not valid before",
        ),
        (
            |p| {
                let id = Ia5String::try_from("spiffe://other.org").unwrap();
                p.subject_alt_names = vec![SanType::URI(id)];
            },
            "trust domain other.org",
        ),
        (
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
            "gateways would refuse",
        ),
        (
            |p| {
                // A name constraint on URIs. With such a constraint, rustls refuses all URIs.
                p.custom_extensions = vec![CustomExtension::from_oid_content(
                    &[2, 5, 29, 30],
                    [
                        &[0x30, 17, 0xa0, 15, 0x30, 13, 0x86, 11][..],
                        b"example.org",
                    ]
                    .concat(),
                )];
            },
            "gateways would refuse",
        ),
        (
            |p| {
                let mut unknown =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
                unknown.set_criticality(true);
                p.custom_extensions = vec![unknown];
            },
            "gateways would refuse",
        ),
    ];
    let offline = Offline::new();
    offline.request();
    for (index, (alter, words)) in cases.into_iter().enumerate() {
        let file = offline.sign("first.csr", &format!("bad-{index}.pem"), alter);
        offline.refuses(&[&file], words);
    }
    // The pending request can still be used.
    let good = offline.sign("first.csr", "good.pem", |_| {});
    offline.complete(&[&good]).done();
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let offline = Offline::new();
    offline.request();
    // The first certificate is for another key. Another root has signed the second one.
    let elsewhere = Offline::new();
    elsewhere.request();
    std::fs::copy(elsewhere.path("first.csr"), offline.path("other.csr")).unwrap();
    let other = offline.sign("other.csr", "other.pem", |_| {});
    offline.refuses(&[&other], "not for the key");
    let foreign = offline.sign_by(&elsewhere.key, "first.csr", "foreign.pem", |_| {});
    offline.refuses(&[&foreign], "has not signed it");
    // Gateways cannot use these revocation lists, so each of them is refused.
    let good = offline.sign("first.csr", "good.pem", |_| {});
    let another = Offline::with("Another", |_| {});
    let serial = serial_of(Path::new(&good));
    for (list, words) in [
        (offline.list("revokes.crl", 1, &[serial], 30), "revoked"),
        (offline.list("stale.crl", 1, &[], 0), "out of date"),
        (elsewhere.list("forged.crl", 1, &[], 30), "signed by none"),
        (another.list("another.crl", 1, &[], 30), "not of the root"),
    ] {
        offline.refuses(&[&good, "--ca-crl", &list], words);
    }
    offline.complete(&[&good]).done();
    let again = offline.word("again.csr");
    offline
        .init(&["--no-passphrase", "--force", "--intermediate-csr", &again])
        .refused(2, "rotate prepare");
}

#[test]
fn a_root_that_gateways_would_refuse_is_refused() {
    let shut = Offline::with("Shut", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
    });
    shut.request();
    let file = shut.sign("first.csr", "first.pem", |_| {});
    shut.complete(&[&file]).refused(1, "gateways would refuse");
    let weak = Offline::with("Weak", |p| p.key_usages = vec![KeyUsagePurpose::CrlSign]);
    weak.request();
    let file = weak.sign("first.csr", "first.pem", |_| {});
    weak.complete(&[&file])
        .refused(1, "-addext keyUsage=critical,keyCertSign,cRLSign");
    let empty = Offline::new();
    empty.complete(&["x.pem"]).refused(2, "there is no request");
}

#[test]
fn name_constraints_of_the_root_hold_for_what_is_issued() {
    let offline = Offline::with("Constrained", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("inside.test".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    });
    offline.request();
    let file = offline.sign("first.csr", "first.pem", |_| {});
    offline.complete(&[&file]).done();
    offline.issue("a").done();
    // Name constraints also apply to a common name that looks like a host name.
    offline.issue("a.b").refused(2, "name-constraint");
    let profiles = "[[profile]]\nname = \"plain\"\nusages = [\"client\"]\ncommon_name = \"none\"\n";
    std::fs::write(offline.path("certs/profiles.toml"), profiles).unwrap();
    offline
        .run(
            &["issue"],
            &["spiffe://example.org/a.b", "--profile", "plain"],
        )
        .done();
    let host = |name: &str| {
        let arguments = [name, "--profile", "server", "--dns", name];
        offline.run(&["issue"], &arguments)
    };
    host("a.inside.test").done();
    host("a.outside.test").refused(2, "name-constraint");
    assert!(!offline.path("certs/issued/a.outside.test.pem").exists());
    let names = offline.word("names");
    std::fs::write(&names, "b.inside.test\nb.outside.test\n").unwrap();
    let many = offline.run(&["issue"], &["--from", &names, "--profile", "server"]);
    many.ended(2, "name-constraint");
}
