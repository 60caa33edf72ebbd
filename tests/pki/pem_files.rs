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
