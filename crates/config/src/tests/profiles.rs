//! Tests of `profiles.toml`: which values are accepted, which errors are reported at which line,
//! and that `docs/pki.md` agrees.

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn load(text: &str) -> Result<Profiles, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("profiles.toml");
    fs::write(&path, text).unwrap();
    profiles(&path, &domain())
}

/// Checks that the file `text` has exactly one error and that it is at `line`. Returns the message
/// and the remedy.
#[track_caller]
fn refused(text: &str, line: usize) -> String {
    let errors = load(text).unwrap_err();
    let records = errors.records();
    assert_eq!(records.len(), 1, "{errors}");
    assert_eq!(records[0].line, Some(line), "{errors}");
    assert!(
        errors
            .to_string()
            .starts_with("the profiles file has 1 error")
    );
    let help = records[0].help.clone().unwrap_or_default();
    assert!(!help.is_empty(), "{errors}");
    format!("{}; {help}", records[0].message)
}

#[test]
fn without_a_file_there_are_the_built_in_ones() {
    let directory = tempfile::tempdir().unwrap();
    let found = profiles(&directory.path().join("none.toml"), &domain()).unwrap();
    assert_eq!(found, Profiles::default());
    assert_eq!(load("").unwrap(), Profiles::default());
}

#[test]
fn everything_a_profile_says_is_read() {
    let found = load(
        r#"
        [[profile]]
        name = "batch"
        usages = ["client"]
        lifetime = "8h"
        max_lifetime = "2d"
        identities = ["spiffe://example.org/ns/batch/**", "dns:*.batch.example.org"]
        key_types = ["p384", "p256"]
        crl_urls = ["http://pki.example.org/intermediate.crl"]
        issuer_urls = ["http://pki.example.org/intermediate.der"]
        organization = "Example"
        organizational_unit = "Batch"
        common_name = "none"

        [[profile]]
        name = "server"
        lifetime = "90d"

        [[profile]]
        name = "intermediate"
        lifetime = "365d"
        key_types = ["p384"]
        organization = "Example"
        "#,
    )
    .unwrap();
    let batch = found.leaf("batch").unwrap();
    assert_eq!(batch.usages().unwrap().words(), ["client"]);
    assert_eq!(batch.lifetime(), Lifetime::hours(8));
    assert_eq!(batch.max_lifetime(), Lifetime::days(2));
    assert_eq!(batch.new_key_type(), KeyAlgorithm::P384);
    let rules = batch.rules();
    assert_eq!(rules.identities.len(), 2);
    assert_eq!(rules.crl_urls, ["http://pki.example.org/intermediate.crl"]);
    assert_eq!(
        rules.issuer_urls,
        ["http://pki.example.org/intermediate.der"]
    );
    assert_eq!(rules.organization.as_deref(), Some("Example"));
    assert_eq!(rules.organizational_unit.as_deref(), Some("Batch"));
    assert!(rules.without_common_name);
    let server = found.leaf("server").unwrap();
    assert_eq!(server.usages().unwrap().words(), ["server"]);
    assert_eq!(server.lifetime(), Lifetime::days(90));
    assert_eq!(server.max_lifetime(), MAX_LEAF_LIFETIME);
    assert_eq!(found.intermediate().lifetime(), Lifetime::days(365));
    assert_eq!(found.intermediate().new_key_type(), KeyAlgorithm::P384);
    assert_eq!(found.leaf("client"), Some(&CertificateProfile::CLIENT));
    // If `max_lifetime` is shorter than the default lifetime of the built-in profile, it is also
    // the new default lifetime.
    let short = load("[[profile]]\nname = \"client\"\nmax_lifetime = \"1h\"").unwrap();
    assert_eq!(short.leaf("client").unwrap().lifetime(), Lifetime::hours(1));
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_a_remedy() {
    let new = "[[profile]]\nname = \"batch\"\nusages = [\"client\"]\n";
    for (more, words) in [
        ("lifetimes = \"1h\"", "did you mean `lifetime`"),
        ("address = \"a\"", "[[profile]] knows:"),
        ("lifetime = \"1w\"", "not a lifetime"),
        ("lifetime = 24", "must be a lifetime"),
        ("lifetime = \"900d\"", "longer than `max_lifetime`"),
        ("max_lifetime = \"900d\"", "at most \"825d\""),
        (
            "lifetime = \"2h\"\nmax_lifetime = \"1h\"",
            "longer than `max_lifetime`",
        ),
        (
            "identities = [\"spiffe://other.org/**\"]",
            "does not vouch for trust domain other.org",
        ),
        ("identities = [\"alice\"]", "not an identity pattern"),
        ("identities = []", "this list is empty"),
        ("key_types = [\"p521\"]", "unknown word"),
        ("key_types = [\"p38\"]", "did you mean \"p384\""),
        (
            "crl_urls = [\"ldap://a/b\"]",
            "must begin with https:// or http://",
        ),
        ("organization = \"\"", "empty"),
        ("common_name = \"always\"", "unknown word"),
    ] {
        let said = refused(&format!("{new}{more}"), 4);
        assert!(said.contains(words), "{more}: {said}");
    }
    let long = format!("{new}organization = \"{}\"", "x".repeat(65));
    assert!(refused(&long, 4).contains("too long"));
    for (text, line, words) in [
        ("[[profile]]\nname = \"Batch\"", 2, "cannot name a profile"),
        ("[[profile]]\nname = \"root\"", 2, "pki init"),
        ("[[profile]]\nname = \"batch\"", 2, "has no `usages`"),
        ("[[profile]]\nusages = [\"client\"]", 1, "has no `name`"),
        (
            "[[profile]]\nname = \"a\"\nusages = [\"call\"]",
            3,
            "unknown word",
        ),
        (
            "[[profile]]\nname = \"intermediate\"\nusages = [\"client\"]",
            3,
            "signs certificates",
        ),
        (
            "[[profile]]\nname = \"intermediate\"\nidentities = [\"*\"]",
            3,
            "signs certificates",
        ),
        (
            "[[profile]]\nname = \"intermediate\"\ncommon_name = \"none\"",
            3,
            "signs certificates",
        ),
        (
            "[[profile]]\nname = \"peer\"\n[[profile]]\nname = \"peer\"",
            4,
            "two profiles",
        ),
        ("[profile]\nname = \"peer\"", 1, "two brackets"),
        (
            "[[profiles]]\nname = \"peer\"",
            1,
            "did you mean [[profile]]",
        ),
        ("name = \"peer\"", 1, "belongs below [[profile]]"),
        ("[[profile]\nname = 1", 1, "TOML"),
    ] {
        let said = refused(text, line);
        assert!(said.contains(words), "{text}: {said}");
    }
}

#[test]
fn all_errors_come_at_once() {
    let errors = load(
        "[[profile]]\nname = \"a\"\nusages = [\"x\"]\nlifetime = 1\n[[profile]]\nname = \"B\"\nx = 1",
    )
    .unwrap_err();
    let lines: Vec<_> = errors
        .records()
        .iter()
        .filter_map(|error| error.line)
        .collect();
    assert_eq!(lines, [3, 4, 6, 7]);
}

#[test]
fn the_document_and_the_known_keys_agree() {
    let text = include_str!("../../../../docs/pki.md");
    let (_, section) = text.split_once("## Profiles").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let documented: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let known: Vec<&str> = ProfileSection::SECTION
        .keys
        .iter()
        .map(|(key, _)| *key)
        .collect();
    assert_eq!(documented, known);
    // The example in `docs/pki.md` loads without errors.
    let example = section.split("```toml").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    load(example).unwrap();
}
