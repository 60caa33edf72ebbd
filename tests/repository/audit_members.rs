//! `docs/audit.md` must name exactly the members that audit lines can have.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::root;

type Members = BTreeSet<String>;

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Returns the members that the document names for each event. The value says whether the member
/// is always present.
pub(crate) fn documented() -> BTreeMap<String, BTreeMap<String, bool>> {
    let mut events = BTreeMap::new();
    let mut event = String::new();
    for line in read("docs/audit.md").lines() {
        if let Some(name) = line.strip_prefix("`\"event\": \"") {
            name.split('"').next().unwrap().clone_into(&mut event);
        } else if let Some(row) = line.strip_prefix("| `") {
            let (name, cells) = row.split_once('`').unwrap();
            let always = cells.split('|').nth(1).unwrap().trim() == "always";
            let members: &mut BTreeMap<_, _> = events.entry(event.clone()).or_default();
            let other = members.insert(name.to_owned(), always);
            assert!(other.is_none(), "{event} has {name} twice");
        }
    }
    events
}

/// Returns the member name at the beginning of `text`, before `end`.
fn name<'a>(text: &'a str, end: &str) -> Option<&'a str> {
    let (name, _) = text.split_once(end)?;
    let is_name = |name: &str| {
        let mut octets = name.bytes();
        octets.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    Some(name).filter(|name| !name.is_empty() && is_name(name))
}

/// Returns the members that the code writes as text.
fn written(code: &str) -> Members {
    let starts = [
        ("\\\"", "\\\":"),
        ("push_member(line, \"", "\""),
        ("push_milliseconds(line, \"", "\""),
    ];
    let mut members = Members::new();
    for (start, end) in starts {
        for (at, _) in code.match_indices(start) {
            members.extend(name(&code[at + start.len()..], end).map(str::to_owned));
        }
    }
    members
}

/// Returns the members that serialization writes for the fields of a struct.
fn fields(code: &str, structure: &str) -> Members {
    let (_, rest) = code
        .split_once(&format!("struct {structure}"))
        .unwrap_or_else(|| panic!("there is no {structure}"));
    let (_, body) = rest.split_once("{\n").unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let mut left_out = false;
    let mut members = Members::new();
    for line in body.lines().map(str::trim) {
        if line.starts_with('#') {
            assert!(!line.contains("rename"), "{structure}: {line}");
            left_out |= line == "#[serde(skip)]" || line == "#[serde(flatten)]";
        } else if let Some(field) = name(line.trim_start_matches("pub "), ":")
            && !std::mem::take(&mut left_out)
        {
            members.insert(field.to_owned());
        }
    }
    members
}

#[test]
fn the_document_and_the_lines_have_the_same_members() {
    let record = read("crates/core/src/telemetry/record.rs");
    let audit = read("crates/core/src/telemetry/audit.rs");
    let caller = fields(&audit, "AuditCaller");
    assert!(caller.contains("caller") && caller.len() > 2, "{caller:?}");
    let credentials = fields(&record, "CredentialFacts");
    let request = &(&written(&record) | &credentials) | &caller;
    let connection = &fields(&record, "ConnectionCut") | &caller;
    let handshake = fields(&audit, "HandshakeFailure");
    let operator = read("crates/core/src/telemetry/operator.rs");
    let operator = &fields(&operator, "OperatorFacts") | &fields(&operator, "Line");
    let documented = documented();
    for (event, code) in [
        ("request", request),
        ("connection", connection),
        ("handshake", handshake),
        ("operator", operator),
        ("gap", fields(&audit, "Gap")),
    ] {
        let said: Members = documented[event].keys().cloned().collect();
        let missing: Vec<_> = code.difference(&said).collect();
        let invented: Vec<_> = said.difference(&code).collect();
        assert!(
            missing.is_empty() && invented.is_empty(),
            "docs/audit.md, {event}: {missing:?} are not documented, {invented:?} are not written"
        );
    }
    assert_eq!(documented.len(), 5);
}
