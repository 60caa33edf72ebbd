//! Tests of the PEM reader: each accepted form, each refused form, and damage of single characters.
//! Damage of one character must never remove a block without an error.

use proptest::prelude::*;

use super::*;

/// Two short blocks. Their content is not a real CRL, because the reader does not decode DER.
const ONE: &str = "-----BEGIN X509 CRL-----\nAAEC\n-----END X509 CRL-----\n";
const TWO: &str = "-----BEGIN X509 CRL-----\nAwQ=\n-----END X509 CRL-----\n";

fn ders(content: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>, PemError> {
    let blocks = blocks(content.as_ref())?;
    Ok(blocks.iter().map(|block| block.der().to_vec()).collect())
}

fn problem(content: impl AsRef<[u8]>) -> String {
    match ders(content.as_ref()) {
        Err(error) => {
            assert!(!error.remedy().is_empty());
            error.to_string()
        }
        Ok(read) => panic!(
            "{:?} was read as {read:?}",
            String::from_utf8_lossy(content.as_ref())
        ),
    }
}

#[test]
fn real_files_are_read_whole() {
    let glued = format!("{}{}", ONE.trim_end(), TWO.trim_end());
    assert!(glued.contains("-----END X509 CRL----------BEGIN X509 CRL-----"));
    let both = format!("{ONE}{TWO}");
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("two", both.clone().into()),
        ("glued", glued.clone().into()),
        ("glued with CR LF", glued.replace('\n', "\r\n").into()),
        (
            "glued with a blank",
            glued.replace("----------", "----- -----").into(),
        ),
        (
            "glued with a mark",
            glued.replace("----------", "-----\u{feff}-----").into(),
        ),
        ("a mark", format!("\u{feff}{both}").into()),
        ("a mark in the middle", format!("{ONE}\u{feff}{TWO}").into()),
        ("a mark on its own line", format!("\u{feff}\n{both}").into()),
        ("CR LF", both.replace('\n', "\r\n").into()),
        ("CR alone", both.replace('\n', "\r").into()),
        (
            "mixed line ends",
            format!("{}{TWO}", ONE.replace('\n', "\r")).into(),
        ),
        ("CR CR LF", both.replace('\n', "\r\r\n").into()),
        ("blank lines", both.replace('\n', "\n\n \t\n").into()),
        ("blanks behind", both.replace('\n', " \t\n").into()),
        (
            "blanks in front",
            format!("  {}", both.trim_end().replace('\n', "\n\t  ")).into(),
        ),
        ("no final line end", both.trim_end().into()),
        (
            "base64 of many lines",
            both.replace("AAEC", "A\nAE\nC").into(),
        ),
        (
            "explanatory text",
            format!(
                "# Our lists. They begin below -- the older one first.\n\
                 -- both --\n---\nBEGIN\nThe END\n\
                 ---- BACKEND and FRONTEND ----\nDNS:ends.xn--p1ai, DNS:xn--endpoint\n\
                 Certificate Revocation List (CRL):\n    Version 2 (0x1)\n\t03:04\n{ONE}\
                 Bag Attributes\n    localKeyID: 01 00\nsubject=/CN=\u{e4}\n\n{TWO}The end.\n"
            )
            .into(),
        ),
        (
            "Latin-1",
            [b"# Caf\xe9\n".as_slice(), both.as_bytes()].concat(),
        ),
    ];
    for (form, content) in forms {
        assert_eq!(
            ders(&content),
            Ok(vec![vec![0, 1, 2], vec![3, 4]]),
            "{form}: {:?}",
            String::from_utf8_lossy(&content)
        );
    }
}

const BEGIN: &str = "-----BEGIN X509 CRL-----";
const END: &str = "-----END X509 CRL-----";

const TEXT_BEFORE_BEGIN: &str = "there is text before -----BEGIN";
const TEXT_BEFORE_END: &str = "there is text before -----END";
const TEXT_AFTER_BEGIN: &str = "there is text after the last dash of the -----BEGIN line";
const TEXT_AFTER_END: &str = "there is text after the last dash of the -----END line";
const DAMAGED: &str = "this looks like the first or last line of a PEM block and is none";
const NO_BEGIN: &str = "-----END X509 CRL----- has no -----BEGIN X509 CRL-----";
const NO_END: &str = "-----BEGIN X509 CRL----- has no -----END X509 CRL-----";
const OTHER_LABEL: &str = "the block ends as CERTIFICATE and begins as X509 CRL (line 4)";
const ESCAPED: &str = "line ends are written as \\n";
const LENGTH: &str = "the base64 of the block is incomplete";
const PADDING: &str = "the base64 of the block does not end as base64 does";
const AFTER_PADDING: &str = "base64 goes on after its end (=)";
const CHARACTER: &str = "there is a character that is not base64";
const BLANK: &str = "there is a blank within the base64";
const HEADER: &str = "there are header lines in the block";
const OLD_FORM: &str = "the private key is encrypted in OpenSSL's old form";
const EMPTY: &str = "the block is empty";
const BASE64_OUTSIDE: &str = "there is base64 outside of PEM blocks";
const ENCODED_TWICE: &str = "this is a PEM file that was encoded in base64 once more";
const BINARY: &str = "there are binary data outside of PEM blocks";

/// Checks that the reader refuses each damaged block with the expected line number and message.
/// Each element of `second` is a damaged block, the line number and the message. A good block
/// before or after the damaged block must not hide the error.
#[track_caller]
fn assert_refused(second: &[(String, usize, &str)]) {
    for (second, line, why) in second {
        let content = format!("{ONE}{second}");
        assert_eq!(
            problem(&content),
            format!("line {line}: {why}"),
            "{content:?}"
        );
        let _ = problem(format!("{second}\n{ONE}"));
        let _ = problem(second);
    }
}

#[test]
fn a_damaged_first_line_is_refused() {
    let with = |text: &str| TWO.replace("-----B", text);
    assert_refused(&[
        (with("> -----B"), 4, TEXT_BEFORE_BEGIN),
        (with("# -----B"), 4, TEXT_BEFORE_BEGIN),
        (with("key: -----B"), 4, TEXT_BEFORE_BEGIN),
        (with("\u{a0}-----B"), 4, TEXT_BEFORE_BEGIN),
        (with("----B"), 4, DAMAGED),
        (with("------B"), 4, DAMAGED),
        (with("--B"), 4, DAMAGED),
        (with("-B"), 4, DAMAGED),
        (with("B"), 4, DAMAGED),
        (with("\u{2014}\u{2013}B"), 4, DAMAGED),
        (with("=====B"), 4, DAMAGED),
        (TWO.replace("BEGIN ", "BEGIN"), 4, DAMAGED),
        (TWO.replace("BEGIN", "Begin"), 4, DAMAGED),
        (TWO.replace("BEGIN", "BEGIN "), 4, DAMAGED),
        (TWO.replacen("CRL-", "CRL -", 1), 4, DAMAGED),
        (TWO.replacen("X509 CRL", "", 1), 4, DAMAGED),
        (TWO.replacen("X509", "X\u{b5}09", 1), 4, DAMAGED),
        (TWO.replacen("CRL-----\n", "CRL----\n", 1), 4, DAMAGED),
        (TWO.replacen("CRL-----\n", "CRL------\n", 1), 4, DAMAGED),
        (TWO.replacen("-----\n", "-----", 1), 4, TEXT_AFTER_BEGIN),
        (TWO.replace('\n', " "), 4, TEXT_AFTER_BEGIN),
        (TWO.replace('\n', "\\n"), 4, ESCAPED),
        (TWO.replace(BEGIN, "no block"), 6, NO_BEGIN),
        (
            TWO.replace("X509 CRL-----\nA", "CRL-----\nA"),
            6,
            "the block ends as X509 CRL and begins as CRL (line 4)",
        ),
    ]);
}

#[test]
fn a_damaged_last_line_is_refused() {
    let with = |text: &str| TWO.replace("-----E", text);
    let goes_on = |text: &str| format!("{}{text}\n", TWO.trim_end());
    assert_refused(&[
        (with("----E"), 6, DAMAGED),
        (with("------E"), 6, DAMAGED),
        (with("> -----E"), 6, TEXT_BEFORE_END),
        (TWO.replace("\n-----E", "-----E"), 5, TEXT_BEFORE_END),
        (goes_on("-"), 6, DAMAGED),
        (goes_on(" ."), 6, TEXT_AFTER_END),
        (goes_on("----BEGIN X509 CRL-----"), 6, DAMAGED),
        (goes_on("------BEGIN X509 CRL-----"), 6, DAMAGED),
        (goes_on(END), 6, NO_BEGIN),
        (goes_on(BEGIN), 6, NO_END),
        (TWO.replace(END, ""), 4, NO_END),
        (TWO.replace(END, BEGIN), 4, NO_END),
        (format!("{BEGIN}\n{TWO}"), 4, NO_END),
        (format!("{TWO}{BEGIN}"), 7, NO_END),
        (
            TWO.replace("END X509 CRL", "END CERTIFICATE"),
            6,
            OTHER_LABEL,
        ),
    ]);
}

#[test]
fn damaged_base64_is_refused() {
    let with = |text: &str| TWO.replace("AwQ=", text);
    assert_refused(&[
        (with("AwQ"), 6, LENGTH),
        (with("A"), 6, LENGTH),
        (with("AwQ=="), 6, LENGTH),
        (with("AwR="), 6, PADDING),
        (with("===="), 6, PADDING),
        (with("A==="), 6, PADDING),
        (with("AwQ=AwQ="), 5, AFTER_PADDING),
        (with("AwQ=\nAwQ="), 6, AFTER_PADDING),
        (with("AwQ,"), 5, CHARACTER),
        (with("Aw_="), 5, CHARACTER),
        (with("Aw\0="), 5, CHARACTER),
        (with("AwQ=\u{feff}AwQ="), 5, CHARACTER),
        (with("Aw Q="), 5, BLANK),
        (with("Comment: x\n\nAwQ="), 5, HEADER),
        (
            with("Proc-Type: 4,ENCRYPTED\nDEK-Info: DES\n\nAwQ="),
            5,
            OLD_FORM,
        ),
        (with("AwQ=\\n"), 5, ESCAPED),
        (with(""), 4, EMPTY),
        (with("\n \n"), 4, EMPTY),
    ]);
}

#[test]
fn remains_beside_blocks_are_refused() {
    let base64 = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA";
    let twice = Base64::encode_string(TWO.as_bytes());
    let sixteen_bits: String = TWO.chars().flat_map(|c| [c, '\0']).collect();
    assert_refused(&[
        (format!("{base64}\n{TWO}"), 4, BASE64_OUTSIDE),
        (format!("{twice}\n{TWO}"), 4, ENCODED_TWICE),
        (format!("0\u{2}\u{1}\n{TWO}"), 4, BINARY),
        (sixteen_bits, 4, BINARY),
    ]);
}

#[test]
fn files_of_another_kind_are_named() {
    assert_eq!(problem(""), "it holds no PEM block");
    assert_eq!(problem("only text\n"), "it holds no PEM block");
    assert_eq!(
        problem([0x30, 0x82, 1, 2]),
        "it is in DER form, and PEM is expected"
    );
    assert_eq!(problem(b"\xff\xfe-\0-\0"), "it is UTF-16 text");
    assert_eq!(problem(b"\xfe\xff\0-\0-"), "it is UTF-16 text");
    let error = certificates(b"").unwrap_err();
    assert_eq!(error.to_string(), "it holds no PEM certificate");
    assert_eq!(error.in_file("a.pem"), "a.pem: it holds no PEM certificate");
    let error = certificates(ONE.replace("-----B", "----B").as_bytes()).unwrap_err();
    assert!(
        error.in_file("a.pem").starts_with("a.pem, line 1: "),
        "{error}"
    );
}

fn block(label: &str) -> String {
    encode(label, &[1])
}

#[test]
fn labels_that_do_not_belong_are_refused_with_what_to_do() {
    let certificate = block("CERTIFICATE");
    for (label, remedy) in [
        ("TRUSTED CERTIFICATE", "openssl x509 -in"),
        (
            "X.509 CERTIFICATE",
            "write CERTIFICATE in place of X.509 CERTIFICATE",
        ),
        ("PKCS7", "openssl pkcs7 -print_certs"),
        ("CERTIFICATE REQUEST", "that was issued for it"),
        ("X509 CRL", "move the X509 CRL block to a file of its own"),
        ("PRIVATE KEY", "must not stand among trusted material"),
        ("certificate", "a file of its own"),
    ] {
        let error = certificates(format!("{certificate}{}", block(label)).as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("line 4: there is a {label} block; only CERTIFICATE blocks belong here")
        );
        assert!(
            error.remedy().contains(remedy),
            "{label}: {}",
            error.remedy()
        );
    }
    for (label, remedy) in [
        ("CRL", "write X509 CRL in place of CRL"),
        ("CERTIFICATE", "a file of its own"),
        (
            "ENCRYPTED PRIVATE KEY",
            "must not stand among trusted material",
        ),
    ] {
        let error = revocation_lists(format!("{ONE}{}", block(label)).as_bytes()).unwrap_err();
        assert!(
            error.remedy().contains(remedy),
            "{label}: {}",
            error.remedy()
        );
    }
}

#[test]
fn old_labels_of_the_same_content_are_read() {
    let content = format!("{}{}", block("X509 CERTIFICATE"), block("CERTIFICATE"));
    assert_eq!(certificates(content.as_bytes()).unwrap().len(), 2);
    for label in ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"] {
        assert_eq!(request(block(label).as_bytes()).unwrap(), [1]);
    }
    let two = block("CERTIFICATE REQUEST").repeat(2);
    let error = request(two.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "line 4: there is a second request");
}

#[test]
fn der_is_read_where_both_forms_are() {
    let der = [0x30, 0x82, 0, 0];
    assert_eq!(revocation_lists(&der).unwrap()[0].as_ref(), der);
    assert_eq!(request(&der).unwrap(), der);
    assert!(
        certificates(&der)
            .unwrap_err()
            .remedy()
            .contains("-inform DER")
    );
    assert!(
        private_key(&der)
            .unwrap_err()
            .remedy()
            .contains("-inform DER")
    );
}

#[test]
fn a_key_and_its_certificates_may_share_a_file() {
    let content = format!(
        "{}{}{}",
        block("EC PARAMETERS"),
        block("EC PRIVATE KEY"),
        block("CERTIFICATE")
    );
    let key = private_key(content.as_bytes()).unwrap();
    assert!(matches!(key, PrivateKeyDer::Sec1(_)));
    assert_eq!(
        certificates_beside_key(content.as_bytes()).unwrap().len(),
        1
    );
    assert!(certificates(content.as_bytes()).is_err());
    assert!(private_key(block("PRIVATE KEY").as_bytes()).is_ok());
    assert!(private_key(block("RSA PRIVATE KEY").as_bytes()).is_ok());
    for (content, why) in [
        (
            block("PRIVATE KEY").repeat(2),
            "line 4: there is a second private key",
        ),
        (
            block("CERTIFICATE"),
            "it holds a certificate and no private key",
        ),
        (block("EC PARAMETERS"), "it holds no PEM private key"),
        (
            block("OPENSSH PRIVATE KEY"),
            "line 1: there is a OPENSSH PRIVATE KEY block; only PRIVATE KEY blocks belong here",
        ),
    ] {
        let error = private_key(content.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), why);
    }
    let error = certificates_beside_key(block("PRIVATE KEY").as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "it holds a private key and no certificate"
    );
}

#[test]
fn keys_are_of_the_form_that_is_wanted() {
    let plain = block("PRIVATE KEY");
    assert!(!pkcs8_key(plain.as_bytes()).unwrap().is_encrypted());
    assert!(plain_pkcs8_key(plain.as_bytes()).is_ok());
    let sealed = block("ENCRYPTED PRIVATE KEY");
    assert!(pkcs8_key(sealed.as_bytes()).unwrap().is_encrypted());
    for error in [
        private_key(sealed.as_bytes()).unwrap_err(),
        plain_pkcs8_key(sealed.as_bytes()).unwrap_err(),
    ] {
        assert_eq!(
            error.to_string(),
            "line 1: the private key is protected by a passphrase"
        );
        assert!(error.remedy().contains("openssl pkey"));
    }
    for label in ["EC PRIVATE KEY", "RSA PRIVATE KEY"] {
        for read in [pkcs8_key, plain_pkcs8_key] {
            let error = read(block(label).as_bytes()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("line 1: the key is {label}, and PKCS#8 is expected")
            );
        }
    }
}

#[test]
fn keys_show_themselves_nowhere() {
    let content = encode("PRIVATE KEY", b"hidden content");
    let key = pkcs8_key(content.as_bytes()).unwrap();
    let shown = format!("{key:?} {:?}", blocks(content.as_bytes()).unwrap());
    assert!(
        !shown.contains("hidden") && !shown.contains("104"),
        "{shown}"
    );
}

#[test]
fn what_is_written_is_as_others_write_it() {
    let text = encode_certificate(&[7; 49]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "-----BEGIN CERTIFICATE-----");
    assert_eq!(lines[1].len(), 64);
    assert_eq!(lines[2], "Bw==");
    assert_eq!(lines[3], "-----END CERTIFICATE-----");
    assert_eq!(lines.len(), 4);
    assert!(text.ends_with('\n'));
    let text = encode_revocation_list(&[7; 48]);
    assert_eq!(text.lines().count(), 3, "no empty line: {text}");
}

/// Generates the text between two blocks: nothing, a byte order mark, or lines of explanatory text.
fn between() -> impl Strategy<Value = String> {
    let text = "[ -~äöü\t]{0,60}".prop_filter("it looks like the remains of a block", |text| {
        parse::blocks(text.as_bytes()).is_ok()
    });
    prop_oneof![
        Just(String::new()),
        Just("\u{feff}".to_owned()),
        Just(" \u{feff}\t".to_owned()),
        prop::collection::vec(text, 1..4).prop_map(|lines| format!("\n{}\n", lines.join("\n"))),
    ]
}

/// Formats a block with permitted blanks and line lengths. The result has no line end after the
/// last line.
fn decorated(der: &[u8], blanks: &[String], width: usize) -> String {
    let body = Base64::encode_string(der);
    let mut blanks = blanks.iter().cycle();
    let mut line = |text: &str| {
        let (before, after) = (blanks.next().unwrap(), blanks.next().unwrap());
        format!("{before}{text}{after}")
    };
    let mut lines = vec![line("-----BEGIN X509 CRL-----")];
    for chunk in body.as_bytes().chunks(width) {
        lines.push(line(str::from_utf8(chunk).unwrap()));
    }
    lines.push(line("-----END X509 CRL-----"));
    lines.join("\n")
}

proptest! {
    #[test]
    fn any_list_with_legal_decorations_reads_back(
        list in prop::collection::vec(
            (
                prop::collection::vec(any::<u8>(), 1..200),
                prop::collection::vec("[ \t]{0,3}|\n|\u{feff}", 1..7),
                1..80_usize,
                between(),
            ),
            1..6,
        ),
        first in between(),
        line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
    ) {
        let mut content = first;
        let mut expected = Vec::new();
        for (der, blanks, width, between) in list {
            content.push_str(&decorated(&der, &blanks, width));
            content.push_str(&between);
            expected.push(der);
        }
        let content = content.replace('\n', line_end);
        prop_assert_eq!(ders(&content), Ok(expected), "{:?}", content);
    }

    #[test]
    fn what_is_written_is_read(list in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 1..300), 1..5,
    )) {
        let content: String = list.iter().map(|der| encode_certificate(der)).collect();
        prop_assert_eq!(ders(content), Ok(list));
    }

    #[test]
    fn no_damage_of_one_character_loses_a_block(
        list in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..5),
        glued in any::<bool>(),
        at in any::<prop::sample::Index>(),
        damage in prop::sample::select(vec!["replace", "insert", "remove"]),
        with in prop_oneof![
            any::<u8>(),
            prop::sample::select(b"-\n\r =\0BEGIND>/A".to_vec()),
        ],
    ) {
        let blocks: Vec<String> = list.iter().map(|der| encode("X509 CRL", der)).collect();
        let mut content: Vec<u8> = match glued {
            true => blocks.concat().replace("-----\n-----B", "----------B").into(),
            false => blocks.concat().into(),
        };
        let at = at.index(content.len());
        match damage {
            "replace" => content[at] = with,
            "insert" => content.insert(at, with),
            _ => { content.remove(at); }
        }
        if let Ok(read) = ders(&content) {
            prop_assert!(
                read.len() == list.len(),
                "{} of {} blocks in {:?}",
                read.len(), list.len(), String::from_utf8_lossy(&content)
            );
        }
    }

    #[test]
    fn never_panics(content in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = blocks(&content);
        let _ = private_key(&content);
        let _ = certificates_beside_key(&content);
        let _ = request(&content);
        let _ = revocation_lists(&content);
    }
}
