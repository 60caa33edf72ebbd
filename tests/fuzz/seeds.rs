//! The seeds of the fuzz targets (`fuzz/seeds`). All properties hold for each seed. The seeds are
//! in sections, such as `[refused]`, that name the expected result.

use countersign_proxy::wire::framing::FramingMachine;
use countersign_proxy::wire::path::{CheckedPath, checked_path};

use super::bodies;
use crate::support::root;

struct Seed {
    name: String,
    section: String,
    octets: Vec<u8>,
}

/// Decodes the escapes `\r \n \t \\ \xNN`. Other escapes are errors.
fn unescaped(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        assert!(character.is_ascii(), "{text}");
        octets.push(match (character, character == '\\') {
            (_, false) => character as u8,
            (_, true) => match rest.next() {
                Some('r') => b'\r',
                Some('n') => b'\n',
                Some('t') => b'\t',
                Some('\\') => b'\\',
                Some('x') => {
                    let digits: String = rest.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).unwrap()
                }
                other => panic!("{text}: {other:?} is no escape"),
            },
        });
    }
    octets
}

/// Returns the seeds of a target. Fails if there are none.
fn seeds(target: &str) -> Vec<Seed> {
    let text = std::fs::read_to_string(root().join(format!("fuzz/seeds/{target}.txt"))).unwrap();
    let mut section = "";
    let mut seeds = Vec::new();
    let mut words = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
        } else if let Some((name, octets)) = line.split_once(": ") {
            let octets = unescaped(octets);
            match section {
                "[words]" => words += 1,
                _ => seeds.push(Seed {
                    name: name.to_owned(),
                    section: section.to_owned(),
                    octets,
                }),
            }
        } else {
            assert_eq!(line, "", "{target}: neither a name nor octets");
        }
    }
    assert!(
        seeds.len() >= 8 && words >= 5,
        "{target}: hardly a beginning"
    );
    seeds
}

#[test]
fn every_target_has_seeds_that_hold() {
    let first = |octet: u8, seed: &Seed| [&[octet], &seed.octets[..]].concat();
    for (target, body) in [
        ("configuration", bodies::configuration as fn(&[u8])),
        ("crl", bodies::crl),
        ("csr", bodies::csr),
        ("http2", bodies::http2),
        ("headers", bodies::headers),
        ("jose", bodies::jose),
        ("paths", bodies::paths),
        ("patterns", bodies::patterns),
        ("proxy_header", bodies::proxy_header),
    ] {
        for seed in seeds(target) {
            eprintln!("{target}: {}", seed.name);
            body(&seed.octets);
        }
    }
    for seed in seeds("framing") {
        eprintln!("framing: {}", seed.name);
        bodies::framing(&first(6, &seed));
    }
    for seed in seeds("leaf") {
        eprintln!("leaf: {}", seed.name);
        bodies::leaf(&first(1, &seed));
    }
    // Fails if the list above lacks a target.
    let targets = std::fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap();
    assert_eq!(targets.count(), 11);
}

#[test]
fn framing_tricks_are_refused_and_whole_requests_pass() {
    for seed in seeds("framing") {
        let mut machine = FramingMachine::new(32 * 1024);
        let step = machine.advance(&seed.octets);
        let whole = machine.heads() > 0 && machine.is_at_head() && !machine.is_inside_head();
        let became = match (step.error.is_some(), whole) {
            (true, _) => "[refused]",
            (false, true) => "[passed]",
            (false, false) => "[unfinished]",
        };
        assert_eq!(became, seed.section, "{}: {step:?}", seed.name);
    }
}

#[test]
fn paths_with_two_readings_are_refused() {
    for seed in seeds("paths") {
        let text = std::str::from_utf8(&seed.octets).unwrap();
        let became = match checked_path(text).and_then(CheckedPath::strict) {
            _ if seed.section == "[hosts]" => continue,
            Ok(_) => "[passed]",
            Err(_) => "[refused]",
        };
        assert_eq!(became, seed.section, "{}", seed.name);
    }
}

#[test]
fn configurations_are_taken_or_refused() {
    for seed in seeds("configuration") {
        let became = match bodies::loads(&seed.octets) {
            true => "[passed]",
            false => "[refused]",
        };
        assert_eq!(became, seed.section, "{}", seed.name);
    }
}
