//! PEM files as people and other programs write them. A command reads every block, or refuses the
//! file with a line number and advice.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_testkit::{Credentials, Crl, TestCa};

use countersign_testkit::skipped::has_tool;

use super::{Authority, Run, certificates, pki};

/// Joins blocks without the line ends between them, as `cat` does if a file does not end with a
/// line end.
fn glued(blocks: &[String]) -> String {
    let text = blocks.concat().replace("-----\n-----B", "----------B");
    assert!(text.contains("----------BEGIN "), "{text}");
    text.trim_end().to_owned()
}

fn quoted(block: &str) -> String {
    block.replacen("-----BEGIN", "> -----BEGIN", 1)
}

fn four_dashes(block: &str) -> String {
    block.replacen("-----BEGIN", "----BEGIN", 1)
}

/// Damages the last of these blocks in two ways. Returns each text with the text that names the
/// damaged line.
fn damaged(blocks: &[String]) -> [(String, String); 2] {
    let (last, others) = blocks.split_last().unwrap();
    let others = others.concat();
    let line = others.lines().count() + 1;
    [quoted(last), four_dashes(last)]
        .map(|last| (format!("{others}{last}"), format!(", line {line}: ")))
}

fn verify(leaf: &Path, roots: &Path, lists: &[&Path]) -> Run {
    let mut command = pki(&["verify", "--purpose", "client", "--json", "--roots"]);
    command.arg(roots);
    for list in lists {
        command.arg("--crl").arg(list);
    }
    Run::of(command.arg(leaf))
}

fn leaf(ca: &TestCa) -> (Credentials, PathBuf) {
    let leaf = ca.client("/a");
    let file = ca.write("leaf.pem", leaf.chain_pem());
    (leaf, file)
}

#[test]
fn verify_takes_every_list_of_a_file() {
    let ca = TestCa::new("example.org");
    let (leaf, file) = leaf(&ca);
    let lists = [
        Crl::new().pem_signed_by(ca.root()),
        Crl::new().pem_signed_by(ca.intermediate()),
        Crl::new()
            .number(2)
            .revoke(leaf.serial())
            .pem_signed_by(ca.intermediate()),
    ];
    let [root, older, newer] = &lists;
    for content in [
        glued(&lists),
        format!("\u{feff}{newer}{root}{older}"),
        format!("{root}{older}\u{feff}{newer}"),
        format!("{root}{older}\t{newer}"),
    ] {
        let list = ca.write("lists.pem", &content);
        let run = verify(&file, &ca.root_file(), &[&list]);
        assert_eq!(run.code, 3, "{content} {}{}", run.stdout, run.stderr);
        assert_eq!(run.json()["reason"], "certificate-revoked");
    }
    for (content, line) in damaged(&lists) {
        let list = ca.write("lists.pem", content);
        verify(&file, &ca.root_file(), &[&list]).refused(2, &line);
    }
    let rest = ca.write("lists.pem", format!("{root}{older}{}", leaf.chain_pem()));
    verify(&file, &ca.root_file(), &[&rest]).refused(2, "CERTIFICATE block");
}

#[test]
fn verify_takes_every_root_and_every_intermediate() {
    let (ca, other) = (TestCa::new("example.org"), TestCa::new("other.org"));
    let roots = [other.root().pem(), ca.root().pem()];
    let (leaf, file) = leaf(&ca);
    for content in [glued(&roots), format!("{}\u{feff}{}", roots[0], roots[1])] {
        let roots = ca.write("roots.pem", content);
        verify(&file, &roots, &[]).done();
    }
    for (content, line) in damaged(&roots) {
        let roots = ca.write("roots.pem", content);
        verify(&file, &roots, &[]).refused(2, &line);
    }
    let chain: Vec<String> = leaf
        .chain
        .iter()
        .map(|der| countersign_testkit::pem("CERTIFICATE", der))
        .collect();
    let chain_and_key = format!("{}{}", leaf.key_pem(), leaf.chain_pem());
    for content in [
        glued(&chain),
        format!("\u{feff}{}", chain.concat()),
        chain_and_key,
    ] {
        let file = ca.write("leaf.pem", content);
        verify(&file, &ca.root_file(), &[]).done();
    }
    for (content, line) in damaged(&chain) {
        let file = ca.write("leaf.pem", content);
        verify(&file, &ca.root_file(), &[]).refused(2, &line);
    }
}

#[test]
fn inspect_shows_every_block_or_says_where_it_stops() {
    let ca = TestCa::new("example.org");
    let blocks = [ca.root().pem(), ca.intermediate().pem()];
    let inspect = |content: &str| {
        let file = ca.write("bundle.pem", content);
        Run::of(pki(&["inspect", "--json"]).arg(file))
    };
    for content in [glued(&blocks), format!("\u{feff}{}", blocks.concat())] {
        let document = inspect(&content).done().json();
        assert_eq!(document["items"].as_array().unwrap().len(), 2, "{content}");
    }
    for (content, _) in damaged(&blocks) {
        inspect(&content).refused(1, "line ");
    }
}

#[test]
fn requests_and_chains_of_other_programs_are_read() {
    let authority = Authority::new();
    let id = "spiffe://example.org/a";
    authority
        .run(&["issue", id, "--out", "x/a"])
        .refused(1, "x");
    let issued = authority.run(&["issue", id, "--json"]).done().json();
    let file = PathBuf::from(issued["certificate"].as_str().unwrap());
    let chain = std::fs::read_to_string(&file).unwrap();
    let export = |content: &str| {
        let file = authority.path("copy.pem");
        std::fs::write(&file, content).unwrap();
        let out = authority.path("full.pem");
        let mut command = pki(&["export", "--format", "full-chain", "--force", "--out"]);
        let run = Run::of(command.arg(&out).arg(&file));
        (run, out)
    };
    let marked = format!("\u{feff}{}", chain.replace('\n', "\r\n"));
    for content in [chain.replace("-----\n-----B", "----------B"), marked] {
        let (run, out) = export(&content);
        run.done();
        assert_eq!(certificates(&out), certificates(&file), "{content}");
    }
    let damaged = chain.replace("-----\n-----B", "-----\n> -----B");
    export(&damaged)
        .0
        .refused(1, "there is text before -----BEGIN");
}

#[test]
fn a_protected_key_is_read_in_every_legal_form() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("certs");
    let passphrase = home.path().join("passphrase");
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    let run = |arguments: &[&str]| {
        let (verb, rest) = arguments.split_first().unwrap();
        let mut command = pki(&[verb, "--dir"]);
        command
            .arg(&dir)
            .args(rest)
            .arg("--passphrase-file")
            .arg(&passphrase);
        Run::of(&mut command)
    };
    run(&["init", "--trust-domain", "example.org"]).done();
    let path = dir.join("intermediate.key");
    let key = std::fs::read_to_string(&path).unwrap();
    assert!(key.contains("ENCRYPTED PRIVATE KEY"));
    for (name, content) in [
        ("a", format!("\u{feff}{}", key.replace('\n', "\r\n"))),
        (
            "b",
            format!(
                "Bag Attributes\n    localKeyID: 01\n{}",
                key.replace('\n', " \n")
            ),
        ),
    ] {
        std::fs::write(&path, content).unwrap();
        run(&["issue", &format!("spiffe://example.org/{name}")]).done();
    }
    std::fs::write(&path, quoted(&key)).unwrap();
    let refused = run(&["issue", "spiffe://example.org/c"]).refused(
        1,
        "intermediate.key, line 1: there is text before -----BEGIN",
    );
    assert!(refused.stderr.contains("remove what stands before it"));
    std::fs::write(&path, key.repeat(2)).unwrap();
    run(&["issue", "spiffe://example.org/c"]).refused(1, "there is a second private key");
}

#[test]
fn a_damaged_list_file_loses_no_list_during_a_rotation() {
    let authority = Authority::new();
    let issued = authority
        .run(&["issue", "spiffe://example.org/a", "--json"])
        .done()
        .json();
    let serial = issued["serial"].as_str().unwrap();
    let mut prepare = pki(&["rotate", "prepare", "--dir"]);
    Run::of(prepare.arg(authority.dir())).done();
    let path = authority.path("crl/intermediate.crl");
    let both = std::fs::read_to_string(&path).unwrap();
    let count = |content: &str| content.matches("-----BEGIN").count();
    assert_eq!(count(&both), 2);
    // The END line of one CRL and the BEGIN line of the next CRL are on one line.
    std::fs::write(&path, both.replace("-----\n-----B", "----------B")).unwrap();
    authority.run(&["revoke", "--serial", serial]).done();
    assert_eq!(count(&std::fs::read_to_string(&path).unwrap()), 2);
    // A CRL file that cannot be read is not overwritten, and nothing is recorded.
    std::fs::write(&path, both.replace("-----\n-----B", "-----\n> -----B")).unwrap();
    let again = authority
        .run(&["revoke", "--serial", serial])
        .refused(1, "there is text before -----BEGIN");
    assert!(
        again.stderr.contains("countersign pki crl"),
        "{}",
        again.stderr
    );
    authority.run(&["crl", "--issuer", "all"]).done();
    assert_eq!(count(&std::fs::read_to_string(&path).unwrap()), 2);
    authority.run(&["revoke", "--serial", serial]).done();
}

/// OpenSSL writes text around its blocks: the certificate as text, the attributes of PKCS#12 bags,
/// the output of `s_client`.
#[test]
fn files_of_openssl_are_read_whole() {
    if !has_tool("openssl", "version") {
        return;
    }
    let ca = TestCa::new("example.org");
    let (leaf, file) = leaf(&ca);
    let root = ca.root_file();
    let key = ca.write("leaf.key", leaf.key_pem());
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        let run = Run::of(command.args(arguments).stdin(Stdio::null())).done();
        run.stdout
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let in_words = openssl(&["x509", "-text", "-in", &text(&root)]);
    assert!(in_words.starts_with("Certificate:"), "{in_words}");
    let roots = ca.write("words.pem", in_words);
    let lists = [
        Crl::new().pem_signed_by(ca.root()),
        Crl::new().revoke(&[1]).pem_signed_by(ca.intermediate()),
    ]
    .map(|list| openssl(&["crl", "-text", "-in", &text(&ca.write("one.crl", list))]));
    let lists = ca.write("words.crl", lists.concat());
    let bag = text(&ca.directory().join("leaf.p12"));
    let mut export = vec![
        "pkcs12",
        "-export",
        "-passout",
        "pass:x",
        "-name",
        "-- END of it --",
    ];
    let (file, key) = (text(&file), text(&key));
    export.extend(["-in", &file, "-inkey", &key, "-out", &bag]);
    openssl(&export);
    let bags = openssl(&["pkcs12", "-nodes", "-passin", "pass:x", "-in", &bag]);
    assert!(bags.contains("Bag Attributes"), "{bags}");
    // This name looks like a line of a PEM block, so that a person must check the file.
    let bags = ca.write("bags.pem", bags);
    verify(&bags, &roots, &[&lists]).refused(2, "first or last line of a PEM block");
    let plain = std::fs::read_to_string(&bags)
        .unwrap()
        .replace("-- END of it --", "Zoë's END");
    let bags = ca.write("bags.pem", plain);
    verify(&bags, &roots, &[&lists]).done();
}

/// Runs OpenSSL in a directory.
fn openssl(home: &Path, arguments: &str) -> Run {
    let mut command = Command::new("openssl");
    command.current_dir(home).args(arguments.split(' '));
    Run::of(&mut command)
}

/// A temporary directory with an authority's key and certificate, in the forms that several
/// programs write.
struct Forms(tempfile::TempDir);

impl Forms {
    fn new() -> Self {
        let forms = Self(tempfile::tempdir().unwrap());
        for arguments in [
            "ecparam -name prime256v1 -genkey -noout -out sec1.key",
            "req -x509 -new -key sec1.key -subj /CN=Root -days 90 -addext \
             keyUsage=critical,keyCertSign,cRLSign -out root.pem",
            "pkey -in sec1.key -outform DER -out sec1.der",
            "pkcs8 -topk8 -nocrypt -in sec1.key -outform DER -out plain.der",
            "pkcs8 -topk8 -passout pass:secret -in sec1.key -outform DER -out sealed.der",
            "ec -in sec1.key -aes128 -passout pass:secret -out old.key",
            "pkcs12 -export -passout pass: -inkey sec1.key -in root.pem -out empty.p12",
            "crl2pkcs7 -nocrl -certfile root.pem -out bundle.p7b",
            "crl2pkcs7 -nocrl -certfile root.pem -outform DER -out bundle.p7c",
        ] {
            openssl(forms.0.path(), arguments).done();
        }
        // Java writes EC keys without the public part, which is the last element.
        let sec1 = std::fs::read(forms.path("sec1.der")).unwrap();
        let header = [0x30, 0x31, 2, 1, 1, 4, 0x20];
        let partial = [&header, &sec1[7..39], &sec1[39..51]].concat();
        std::fs::write(forms.path("partial.der"), partial).unwrap();
        let java = "pkcs8 -topk8 -nocrypt -inform DER -in partial.der -out java.key";
        openssl(forms.0.path(), java).done();
        assert!(std::fs::read(forms.path("java.key")).unwrap().len() < 180);
        forms
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn init(&self, certificate: &str, key: &str) -> Run {
        let mut command = pki(&["init", "--trust-domain", "example.org", "--no-passphrase"]);
        command.arg("--dir").arg(self.path("certs"));
        command.arg("--ca-cert").arg(self.path(certificate));
        Run::of(command.arg("--ca-key").arg(self.path(key)))
    }

    fn forget(&self) {
        std::fs::remove_dir_all(self.path("certs")).unwrap();
    }

    /// Runs the `openssl` command from an error message. `password` is the option for the password
    /// of the file, or empty.
    fn convert(&self, said: &str, password: &str) {
        let arguments = said.strip_prefix("openssl ").unwrap();
        openssl(self.0.path(), &format!("{arguments}{password}")).done();
    }
}

/// Keys that other programs have written are read if possible. Otherwise the error names the
/// command that converts the file, and this command must work.
#[test]
fn keys_of_other_programs_are_read_or_the_command_is_said() {
    if !has_tool("openssl", "version") {
        return;
    }
    let forms = Forms::new();
    for key in ["sec1.key", "java.key"] {
        forms.init("root.pem", key).done();
        for arguments in [
            &["issue", "spiffe://example.org/a", "--dir"][..],
            &["crl", "--issuer", "all", "--dir"],
        ] {
            Run::of(pki(arguments).arg(forms.path("certs"))).done();
        }
        forms.forget();
    }
    let secret = " -passin pass:secret";
    for (key, said, password) in [
        ("sec1.der", "pkey -inform DER -in KEY -out KEY.key", ""),
        ("plain.der", "pkey -inform DER -in KEY -out KEY.key", ""),
        (
            "sealed.der",
            "pkey -inform DER -in KEY -out KEY.key",
            secret,
        ),
        ("old.key", "pkey -in KEY -out KEY.key", secret),
        (
            "empty.p12",
            "pkcs12 -in KEY -nocerts -nodes -out KEY.key",
            " -passin pass:",
        ),
    ] {
        let file = forms.path(key);
        let said = format!("openssl {said}").replace("KEY", file.to_str().unwrap());
        forms.init("root.pem", key).ended(1, &said);
        assert!(!forms.path("certs").join("root.pem").exists(), "{key}");
        forms.convert(&said, password);
        forms.init("root.pem", &format!("{key}.key")).done();
        forms.forget();
    }
}

#[test]
fn certificates_of_other_programs_are_read_or_the_command_is_said() {
    if !has_tool("openssl", "version") {
        return;
    }
    let forms = Forms::new();
    for (certificate, said, password) in [
        (
            "bundle.p7b",
            "pkcs7 -print_certs -in FILE -out FILE.pem",
            "",
        ),
        (
            "bundle.p7c",
            "pkcs7 -inform DER -print_certs -in FILE -out FILE.pem",
            "",
        ),
        (
            "empty.p12",
            "pkcs12 -in FILE -nokeys -out FILE.pem",
            " -passin pass:",
        ),
    ] {
        let file = forms.path(certificate);
        let said = format!("openssl {said}").replace("FILE", file.to_str().unwrap());
        forms.init(certificate, "sec1.key").ended(1, &said);
        // A command that reads DER must name the same command.
        let mut verify = pki(&["verify", "--purpose", "client", "--roots"]);
        verify.arg(&file).arg(forms.path("root.pem"));
        Run::of(&mut verify).ended(2, &said);
        forms.convert(&said, password);
        forms.init(&format!("{certificate}.pem"), "sec1.key").done();
        forms.forget();
    }
    // No passphrase is needed for a PKCS#12 file with an empty password.
    Run::of(pki(&["inspect"]).arg(forms.path("empty.p12"))).ended(0, "");
}

#[test]
fn a_remedy_quotes_the_name_of_the_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("my FILE's key.p12");
    std::fs::write(&file, [0x30, 0x82, 1, 0, 2, 1, 3]).unwrap();
    let ca = TestCa::new("example.org");
    let (_, leaf) = leaf(&ca);
    let quoted = |suffix: &str| {
        let text = format!("{}{suffix}", file.display());
        format!("'{}'", text.replace('\'', r"'\''"))
    };
    let words = format!("pkcs12 -in {} -nokeys -out {}", quoted(""), quoted(".pem"));
    verify(&leaf, &file, &[]).ended(2, &words);
}
