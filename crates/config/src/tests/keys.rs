//! Tests of single keys and sections that are unknown, missing, of the wrong type or out of range.

use super::*;

#[test]
fn unknown_keys_and_sections_are_refused_with_a_suggestion() {
    let place = Place::new();
    for (section, line, help) in [
        (
            LISTENER,
            "client_certifcate = \"required\"",
            "did you mean `client_certificate`?",
        ),
        (TRUST, "vouches = []", "did you mean `vouches_for`?"),
        (
            UPSTREAM,
            "lifetime = \"1s\"",
            "`lifetime` is a key of [assertion]",
        ),
        (ROUTE, "colour = 1", "[[route]] knows: name, hosts"),
        (
            ROUTE,
            "forward_tokens = true",
            "did you mean `forward_token`?",
        ),
        (LISTENER, "backlog = 1", "[listener] knows: "),
    ] {
        let key = line.split(' ').next().unwrap();
        let text = plus(section, line);
        place.refuses(&text, line, &[&format!("unknown key `{key}`"), help]);
    }
    for (more, part) in [
        ("[[routes]]\nname = \"a\"\n", "did you mean [[route]]?"),
        (
            "[[certificate]]\nname = \"a\"\n",
            "the sections are [listener], ",
        ),
    ] {
        let text = format!("{}\n{more}", whole());
        place.refuses(&text, more.trim_end(), &["unknown section", part]);
    }
    let text = format!("workers = 2\n{}", whole());
    place.refuses(
        &text,
        "workers",
        &["outside any section", "belongs below [runtime]"],
    );
    let text = whole().replace("[[route]]", "[route]");
    place.refuses(&text, "[route]", &["written with two brackets"]);
    let text = whole().replace("[listener]", "[[listener]]");
    let shown = place.errors(&text);
    assert!(shown.contains("[listener] must stand once"), "{shown}");
}

#[test]
fn syntax_errors_are_shown_like_all_others() {
    let place = Place::new();
    for (line, part) in [
        ("host = unquoted", "syntax: "),
        ("host = \"a", "syntax: "),
        ("name = \"again\"", "duplicate key"),
        ("= 1", "syntax: "),
    ] {
        let text = plus(UPSTREAM, line);
        let shown = place.errors(&text);
        let place = format!("countersign.toml:{}:", line_of(&text, line));
        for part in [part, &place, "^", "help: "] {
            assert!(shown.contains(part), "{part} {shown}");
        }
    }
    let errors = load(&place.path("nowhere.toml")).unwrap_err().to_string();
    assert!(
        errors.contains("cannot read") && errors.contains("nowhere.toml"),
        "{errors}"
    );
    assert!(errors.contains("countersign init"), "{errors}");
    place.write("binary.toml", [0xff, 0xfe]);
    let errors = load(&place.path("binary.toml")).unwrap_err().to_string();
    assert!(errors.contains("not UTF-8"), "{errors}");
}

#[test]
fn wrong_types_are_refused_where_they_stand() {
    let place = Place::new();
    for (section, line, parts) in [
        (
            LISTENER,
            "trust_domains = \"example.org\"",
            &["must be a list, not a text"][..],
        ),
        (
            LISTENER,
            "client_certificate = true",
            &["must be one of \"required\", \"optional\""],
        ),
        (
            LISTENER,
            "client_certificate = \"optionl\"",
            &["did you mean \"optional\"?"],
        ),
        (
            TRUST,
            "intermediates = [1]",
            &["must be a text in quotes, not a whole number"],
        ),
        (
            TRUST,
            "identity_from = [\"cn\"]",
            &["unknown word \"cn\"", "\"spiffe\", \"uri\""],
        ),
        (
            TRUST,
            "identity_from = [\"spiffe\", \"spiffe\"]",
            &["stands twice"],
        ),
        (
            TRUST,
            "revocation_depth = \"all\"",
            &["\"chain\", \"leaf\""],
        ),
        (
            ASSERTION,
            "lifetime = 30",
            &["must be a duration, not a whole number"],
        ),
        (
            ASSERTION,
            "lifetime = \"30\"",
            &["is not a duration", "\"30s\""],
        ),
        (ASSERTION, "lifetime = \"301s\"", &["between 1s and 5m"]),
        (ASSERTION, "lifetime = \"1500ms\"", &["whole seconds"]),
        (
            ASSERTION,
            "algorithm = \"RS256\"",
            &["expected one of \"ES256\", \"EdDSA\""],
        ),
        (
            ASSERTION,
            "header = \"a b\"",
            &["is not a header field name"],
        ),
        (
            ASSERTION,
            "header = \"Authorization\"",
            &["has another purpose"],
        ),
        (PUBLIC, "serve = []", &["this list is empty"]),
        (PUBLIC, "serve = [\"key\"]", &["did you mean \"keys\"?"]),
        (
            UPSTREAM,
            "connect_timeout = \"0s\"",
            &["between 1ms and 24h"],
        ),
        (
            UPSTREAM,
            "allow_plaintext = \"yes\"",
            &["must be true or false, not a text"],
        ),
        (
            UPSTREAM,
            "host = \"a/b\"",
            &["cannot stand in a Host field"],
        ),
        (UPSTREAM, "host = \"\"", &["this text is empty"]),
        (
            ROUTE,
            "methods = [\"get\"]",
            &["is not an HTTP method", "in capitals"],
        ),
        (ROUTE, "methods = []", &["this list is empty"]),
        (ROUTE, "hosts = [\"a*\"]", &["is not a host pattern"]),
        (ROUTE, "except = [\"alice\"]", &["does not say its type"]),
        (ROUTE, "authenticate = \"no\"", &["does not say how"]),
        (
            ROUTE,
            "authenticate = { all = [\"cookie\"] }",
            &["unknown word \"cookie\"", "\"api-key\", \"token\""],
        ),
        (
            ROUTE,
            "authenticate = { some = [\"certificate\"] }",
            &["does not say how"],
        ),
        (
            ROUTE,
            "authenticate = { all = [] }",
            &["this list is empty"],
        ),
        (ROUTE, "binding = \"none\"", &["\"request\", \"caller\""]),
    ] {
        place.refuses(&plus(section, line), line, parts);
    }
    for (section, parts) in [
        ("[limits]\nconnections = 0", &["out of range"][..]),
        ("[limits]\nstreams = -1", &["out of range"]),
        ("[limits]\nstreams = 1.5", &["not a decimal number"]),
        (
            "[limits]\nheader_size = \"1KiB\"",
            &["between 8KiB and 1MiB"],
        ),
        (
            "[limits]\nheader_fields = 1001",
            &["1001 is out of bounds", "between 16 and 1000"],
        ),
        ("[limits]\nbody_size = \"0B\"", &["at least 1B"]),
        (
            "[limits]\nbody_size = \"1MB\"",
            &["is not a size", "\"32KiB\""],
        ),
        ("[runtime]\nworkers = 5000", &["more than 1024 workers"]),
        (
            "[admin]\naddress = \"localhost:1\"",
            &["is not an IP address with a port"],
        ),
        (
            "[admin]\naddress = \"0.0.0.0:9901\"",
            &["must be on loopback"],
        ),
    ] {
        let text = format!("{}\n{section}\n", whole());
        let shown = place.errors(&text);
        for part in parts.iter().chain(&["^"]) {
            assert!(shown.contains(part), "{part} {shown}");
        }
        assert_eq!(shown.matches("error: ").count(), 1, "{shown}");
    }
}

#[test]
fn missing_keys_and_sections_are_named() {
    let place = Place::new();
    let shown = place.errors("");
    for title in [
        "[listener]",
        "[[trust_domain]]",
        "[assertion]",
        "[[upstream]]",
        "[[route]]",
    ] {
        assert!(
            shown.contains(&format!("there is no {title} section")),
            "{shown}"
        );
    }
    for (line, section, part) in [
        (
            "address = \"127.0.0.1:8443\"\n",
            "[listener]",
            "has no `address`",
        ),
        (
            "certificate = \"certs/issued/gateway.pem\"\n",
            "[listener]",
            "and no `certificate`",
        ),
        (
            "private_key = \"certs/issued/gateway.key\"\n",
            "[listener]",
            "and no `private_key`",
        ),
        (
            "name = \"example.org\"\n",
            "[[trust_domain]]",
            "has no `name`",
        ),
        (
            "roots = [\"certs/trust.pem\"]\n",
            "[[trust_domain]]",
            "has no `roots`",
        ),
        (
            "crls = [\"certs/crl/*.crl\"]\n",
            "[[trust_domain]]",
            "revocation = \"off\"",
        ),
        (
            "issuer = \"https://gateway.example.org:9080\"\n",
            "[assertion]",
            "has no `issuer`",
        ),
        ("keys = \"certs/signing\"\n", "[assertion]", "has no `keys`"),
        (
            "endpoints = [\"http://127.0.0.1:9001\"]\n",
            "[[upstream]]",
            "has no `endpoints`",
        ),
        ("paths = [\"/**\"]\n", "[[route]]", "has no `paths`"),
        (
            "callers = [\"spiffe://example.org/**\"]\n",
            "[[route]]",
            "callers = [\"*\"]",
        ),
        ("upstream = \"orders\"\n", "[[route]]", "has no `upstream`"),
        ("audience = \"orders\"\n", "[[route]]", "has no `audience`"),
    ] {
        place.refuses(&with(line, ""), section, &[part]);
    }
}
