//! Tests of names: which names are accepted, and with which reason code the others are refused.

use proptest::prelude::*;

use super::*;
use crate::{CertificateAuthority, CertificateProfile};

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn reason(result: Result<impl fmt::Debug, RequestError>) -> ReasonCode {
    result.unwrap_err().reason
}

#[test]
fn malformed_names_of_every_type_are_refused() {
    let new = SubjectNames::new;
    for text in [
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/a b",
        "spiffe://Example.org/a",
        "SPIFFE://example.org/a",
        "https://example.org/a",
        "a",
        "/",
        "//a",
        "/a/",
        "/a\0b",
    ] {
        // The SPIFFE ID of a trust domain, without a path, is well-formed. But `check` must refuse
        // it for a leaf.
        let result = new()
            .spiffe_text(text, &domain())
            .and_then(|names| names.check(&CertificateProfile::CLIENT, &domain()));
        assert_eq!(reason(result), ReasonCode::MalformedIdentity, "{text:?}");
    }
    for name in [
        "", "a..b", "-a", "a b", "a\0b", "*", "*.", "*.org", "a.*.b", "**.a.b", "10.0.0.1", "::1",
        "é.org",
    ] {
        assert_eq!(
            reason(new().dns(name)),
            ReasonCode::MalformedIdentity,
            "{name:?}"
        );
    }
    for address in ["", "a", "@b", "a@", "a@b@c", "a\0@b.c", "*@b.c", "a@b c"] {
        assert_eq!(
            reason(new().email(address)),
            ReasonCode::MalformedIdentity,
            "{address:?}"
        );
    }
    for address in [
        "",
        "localhost",
        "10.0.0",
        "10.0.0.256",
        "10.0.0.1/8",
        "10.0.0.1\0",
        "::1%lo",
    ] {
        assert_eq!(
            reason(new().ip_text(address)),
            ReasonCode::MalformedIdentity,
            "{address:?}"
        );
    }
    for uri in [
        "",
        "nothing",
        "dns:a",
        "ip:10.0.0.1",
        "mailto:a@b",
        "client:a/b",
        "api-key:a",
        "https://a/\0",
        "spiffe:a",
    ] {
        assert_eq!(
            reason(new().uri(uri)),
            ReasonCode::MalformedIdentity,
            "{uri:?}"
        );
    }
}

#[test]
fn a_spiffe_id_stands_alone_among_uris_and_in_its_trust_domain() {
    let names = SubjectNames::new().spiffe_text("/a", &domain()).unwrap();
    assert_eq!(
        names.spiffe_id().unwrap().as_str(),
        "spiffe://example.org/a"
    );
    let check = |names: &SubjectNames| names.check(&CertificateProfile::CLIENT, &domain());
    assert!(check(&names.clone().dns("a.example.org").unwrap()).is_ok());
    let second = names.clone().uri("https://example.org/a").unwrap();
    assert_eq!(reason(check(&second)), ReasonCode::AmbiguousIdentity);
    let second = names.clone().spiffe_text("/b", &domain()).unwrap();
    assert_eq!(reason(check(&second)), ReasonCode::AmbiguousIdentity);
    let foreign = SubjectNames::new().uri("spiffe://example.com/a").unwrap();
    assert_eq!(reason(check(&foreign)), ReasonCode::TrustDomainMismatch);
    let wildcard = names.dns("*.example.org").unwrap();
    assert_eq!(reason(check(&wildcard)), ReasonCode::MalformedIdentity);
}

#[test]
fn a_spiffe_leaf_always_carries_both_usages() {
    let names = SubjectNames::new().spiffe_text("/a", &domain()).unwrap();
    for asked in CertificateProfile::LEAVES {
        assert_eq!(names.check(&asked, &domain()), Ok(CertificateProfile::PEER));
    }
}

#[test]
fn wildcards_are_for_servers_only() {
    let names = SubjectNames::new().dns("*.Example.org").unwrap();
    assert_eq!(
        names.iter().next().unwrap().to_string(),
        "dns:*.example.org"
    );
    assert_eq!(names.natural_profile(), CertificateProfile::SERVER);
    assert!(names.check(&CertificateProfile::SERVER, &domain()).is_ok());
    for asked in [CertificateProfile::CLIENT, CertificateProfile::PEER] {
        assert_eq!(
            reason(names.check(&asked, &domain())),
            ReasonCode::MalformedIdentity
        );
    }
}

#[test]
fn without_or_with_too_many_names_nothing_is_issued() {
    let check = |names: SubjectNames| names.check(&CertificateProfile::CLIENT, &domain());
    assert_eq!(reason(check(SubjectNames::new())), ReasonCode::NoIdentity);
    let many = (0..=MAX_NAMES).fold(SubjectNames::new(), |names, index| {
        names.dns(&format!("a{index}.example.org")).unwrap()
    });
    assert_eq!(reason(check(many)), ReasonCode::ChainTooLong);
}

#[test]
fn the_profile_follows_the_names() {
    let new = SubjectNames::new;
    for (names, profile) in [
        (new().spiffe_text("/a", &domain()), "peer"),
        (new().dns("a.example.org"), "peer"),
        (new().ip_text("10.0.0.1"), "peer"),
        (new().email("a@example.org"), "client"),
        (new().uri("urn:example:a"), "client"),
        (new().dns("*.example.org"), "server"),
    ] {
        assert_eq!(names.unwrap().natural_profile().name(), profile);
    }
}

#[test]
fn a_name_counts_where_no_other_is_given() {
    let names = |given: SubjectNames, name: &str| {
        given.or_name(name).map(|names| {
            names
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        })
    };
    let given = || SubjectNames::new().dns("b").unwrap();
    assert_eq!(
        names(SubjectNames::new(), "a.example.org").unwrap(),
        "dns:a.example.org"
    );
    assert_eq!(
        names(SubjectNames::new(), "10.0.0.1").unwrap(),
        "ip:10.0.0.1"
    );
    assert_eq!(names(SubjectNames::new(), "::1").unwrap(), "ip:::1");
    assert_eq!(names(given(), "a.example.org").unwrap(), "dns:b");
    assert_eq!(
        names(given(), "spiffe://example.org/a").unwrap(),
        "spiffe://example.org/a dns:b"
    );
    let same = given().spiffe_text("/a", &domain()).unwrap();
    assert_eq!(
        names(same.clone(), "spiffe://example.org/a").unwrap(),
        "spiffe://example.org/a dns:b"
    );
    assert_eq!(
        reason(same.or_name("spiffe://example.org/b")),
        ReasonCode::AmbiguousIdentity
    );
    assert_eq!(
        reason(SubjectNames::new().or_name("two words")),
        ReasonCode::NoIdentity
    );
    assert_eq!(
        reason(SubjectNames::new().or_name("spiffe://example.org/")),
        ReasonCode::MalformedIdentity
    );
}

proptest! {
    #[test]
    fn nothing_panics(text in ".{0,60}") {
        let names = SubjectNames::new();
        let _ = names.clone().spiffe_text(&text, &domain());
        let _ = names.clone().dns(&text);
        let _ = names.clone().email(&text);
        let _ = names.clone().ip_text(&text);
        let _ = names.clone().uri(&text);
        let _ = names.or_name(&text);
    }

    /// A certificate with the requested names must contain them, and [`carries`] must find them.
    #[test]
    fn names_read_back_as_they_were_asked_for(
        path in "(/[a-zA-Z0-9][a-zA-Z0-9._-]{0,8}){1,3}",
        host in "[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]{1,6}){1,3}",
        address: IpAddr,
        local in "[a-z0-9][a-z0-9._+-]{0,8}[a-z0-9]",
    ) {
        const NOW: i64 = 1_800_000_000;
        let names = SubjectNames::new()
            .spiffe_text(&path, &domain())
            .and_then(|names| names.dns(&host))
            .map(|names| names.ip(address));
        // If `email` refuses the address, the leaf has no mail address.
        let mail = format!("{local}@{host}");
        let names = match names.clone().and_then(|names| names.email(&mail)) {
            Ok(names) => names,
            Err(_) => names.unwrap(),
        };
        let profile = names.check(&CertificateProfile::CLIENT, &domain()).unwrap();
        let root = CertificateAuthority::new_root(&domain(), NOW).unwrap();
        let key = crate::store::key::generate().unwrap();
        let signed = root.sign_leaf(&key, &names, "a", &profile, None, NOW).unwrap();
        for name in names.iter() {
            prop_assert!(carries(&signed.facts, &name.to_string()), "{}", name);
        }
        let sans = &signed.facts.sans;
        let count = sans.uri.len() + sans.dns.len() + sans.ip.len() + sans.email.len();
        prop_assert_eq!(count, names.iter().count());
        let own = domain();
        let lookalikes = [format!("{host}.x"), format!("spiffe://{own}{path}x"), format!("x{mail}")];
        prop_assert!(!lookalikes.iter().any(|name| carries(&signed.facts, name)));
    }
}
