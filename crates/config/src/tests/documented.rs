//! Tests that `docs/configuration.md` agrees with the program.

use super::*;
use crate::upstream::forgeable::removed_by_default;
use crate::upstream::header_rules::ALWAYS_PASSED;

/// Returns the sections in the tables of `docs/configuration.md`. Each has its keys, and for each
/// key whether it is required.
fn documented() -> Vec<(String, Vec<(String, bool)>)> {
    let text = include_str!("../../../../docs/configuration.md");
    let mut sections: Vec<(String, Vec<(String, bool)>)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line
            .strip_prefix("## `")
            .and_then(|rest| rest.strip_suffix('`'))
        {
            sections.push((title.to_owned(), Vec::new()));
        } else if let Some(rest) = line.strip_prefix("| `")
            && let (Some((key, cells)), Some((_, keys))) =
                (rest.split_once('`'), sections.last_mut())
        {
            let default = cells.split('|').nth(1).unwrap().trim();
            keys.push((key.to_owned(), default == "required"));
        }
    }
    sections
}

#[test]
fn the_document_and_the_known_keys_agree() {
    let known: Vec<(String, Vec<(String, bool)>)> = document::raw::SECTIONS
        .sections
        .iter()
        .map(|section| {
            let keys = section.keys.iter();
            let keys = keys
                .map(|(key, need)| ((*key).to_owned(), *need == document::schema::Need::Required));
            (section.title.to_owned(), keys.collect())
        })
        .collect();
    assert_eq!(documented(), known);
}

/// Returns a section as TOML, in which each key has its documented default. Leaves out defaults
/// that are described in words.
fn documented_keys(text: &str, title: &str) -> String {
    let (_, section) = text.split_once(&format!("## `[{title}]`")).unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut said = format!("[{title}]\n");
    for line in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let key = line.split('`').next().unwrap();
        let default = line.split('|').nth(1).unwrap().trim();
        if let Some(default) = default.strip_prefix('`') {
            said.push_str(&format!("{key} = {}\n", default.trim_matches('`')));
        }
    }
    said
}

#[test]
fn documented_limits_are_the_defaults() {
    let place = Place::new();
    let text = include_str!("../../../../docs/configuration.md");
    let mut limits = documented_keys(text, "limits");
    assert_eq!(limits.lines().count(), 10, "{limits}");
    limits.push_str(&documented_keys(text, "limits.caller"));
    assert_eq!(limits.lines().count(), 15, "{limits}");
    limits.push_str(&documented_keys(text, "limits.address"));
    assert_eq!(limits.lines().count(), 17, "{limits}");
    let said = place
        .good(&format!("{}\n{limits}", whole()))
        .snapshot
        .limits;
    assert_eq!(format!("{said:?}"), format!("{:?}", Limits::default()));
}

#[test]
fn the_documented_examples_load_together() {
    let text = include_str!("../../../../docs/configuration.md");
    let mut whole = String::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```toml" => inside = true,
            "```" => inside = false,
            _ if inside => whole.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    let place = Place::new();
    let mut pki = Pki::open(&place.path("certs")).unwrap();
    let names = SubjectNames::new().dns("orders.example.org").unwrap();
    let request = IssueRequest::new("orders".parse().unwrap(), names);
    pki.issue(&request.profile(CertificateProfile::SERVER))
        .unwrap();
    place.write_private("certs/api-keys.hmac", [7; 32]);
    assert_eq!(place.good(&whole).warnings, [""; 0]);
}

/// Returns the names in backquotes between `marker` and the end of the paragraph.
fn names_after(text: &str, marker: &str) -> Vec<String> {
    let (_, rest) = text.split_once(marker).unwrap();
    let (part, _) = rest.split_once("\n\n").unwrap();
    let names = part.split('`').skip(1).step_by(2);
    let mut names: Vec<_> = names
        .filter(|name| !name.contains('[') && !name.contains("forward_"))
        .map(str::to_ascii_lowercase)
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_document_lists_the_fields_that_are_removed_and_those_that_always_pass() {
    let text = include_str!("../../../../docs/configuration.md");
    let mut removed: Vec<_> = removed_by_default().map(str::to_owned).collect();
    removed.push("authorization".to_owned());
    removed.sort_unstable();
    assert_eq!(names_after(text, "<!-- removed by default -->"), removed);
    assert_eq!(names_after(text, "<!-- always passed -->"), ALWAYS_PASSED);
}
