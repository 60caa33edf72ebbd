//! Tests of token issuers, API keys, and the demands of routes on them.

use super::*;

const ISSUER: &str = r#"[[token_issuer]]
name = "corporate"
issuer = "https://idp.example.org"
audience = ["orders-api"]
"#;
const API_KEYS: &str = r#"[api_keys]
hmac_key = "api-keys.hmac"
"#;
const API_KEY: &str = r#"[[api_key]]
name = "batch"
id = "0123456789abcdef"
hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"#;
const ASKED: &str = r#"[token_issuer.introspection]
endpoint = "https://idp.example.org/ask"
client_id = "gateway"
authentication = "certificate"
certificate = "certs/issued/gateway.pem"
private_key = "certs/issued/gateway.key"
"#;
const TOKEN: &str = "token = { issuer = \"corporate\" }";

fn place() -> Place {
    let place = Place::new();
    place.write("keys.json", KEYS);
    place.write_private("api-keys.hmac", [7; 32]);
    place
}

fn issuer(more: &str) -> String {
    format!("{}\n{ISSUER}{more}\n", whole())
}

#[test]
fn keys_come_from_one_known_place() {
    let place = place();
    let loaded = place.good(&issuer("jwks_file = \"keys.json\""));
    assert_eq!(loaded.snapshot.token_issuers.len(), 1);
    assert!(loaded.files.contains(&place.path("keys.json")));
    place.good(&issuer("roots = [\"certs/trust.pem\"]"));
    for (more, marker, parts) in [
        ("", "issuer = \"https://idp", &["has no `roots`"][..]),
        (
            "jwks_uri = \"http://idp.example.org/keys\"",
            "jwks_uri = ",
            &["nothing can be fetched", "https"],
        ),
        (
            "jwks_uri = \"https://idp.example.org/keys\"\njwks_file = \"keys.json\"\nroots = [\"certs/trust.pem\"]",
            "jwks_uri = ",
            &["keys come from one place"],
        ),
        (
            "jwks_file = \"certs/trust.pem\"",
            "jwks_file = ",
            &["is no JWK set"],
        ),
        (
            "format = \"opaque\"",
            "[[token_issuer]]",
            &["`introspection` is missing"],
        ),
        (
            "jwks_file = \"keys.json\"\ncertificate_binding = \"off\"",
            "certificate_binding = ",
            &["whoever steals them", "allow_unbound = true"],
        ),
        (
            "jwks_file = \"keys.json\"\nalgorithms = [\"HS256\"]",
            "algorithms = ",
            &["unknown word \"HS256\""],
        ),
        (
            "jwks_file = \"keys.json\"\nskew = \"10m\"",
            "skew = ",
            &["between 0s and 5m"],
        ),
    ] {
        place.refuses(&issuer(more), marker, parts);
    }
    for (keys, part) in [
        ("{\"keys\":[]}", "has no keys"),
        (
            "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}",
            "has no key that can be used",
        ),
    ] {
        place.write("keys.json", keys);
        let text = issuer("jwks_file = \"keys.json\"");
        place.refuses(&text, "jwks_file = ", &[part]);
    }
    let text = issuer("jwks_file = \"keys.json\"").replace("\"corporate\"", "\"a/b\"");
    place.write("keys.json", KEYS);
    place.refuses(&text, "name = \"a/b\"", &["cannot name a token issuer"]);
}

#[test]
fn the_gateway_authenticates_in_one_way() {
    let place = place();
    place.write_private("secret", "0123456789abcdef\n");
    let text = |change: &dyn Fn(&str) -> String| {
        let roots = "roots = [\"certs/trust.pem\"]\n";
        issuer(&format!("{roots}{}", change(ASKED)))
    };
    place.good(&text(&str::to_owned));
    let basic = ASKED
        .replace("\"certificate\"", "\"basic\"")
        .replace("certificate = \"certs/issued/gateway.pem\"\n", "")
        .replace(
            "private_key = \"certs/issued/gateway.key\"",
            "secret_file = \"secret\"",
        );
    place.good(&text(&|_| basic.clone()));
    let signed = ASKED
        .replace("\"certificate\"", "\"private-key-jwt\"")
        .replace("certificate = \"certs/issued/gateway.pem\"\n", "");
    place.good(&text(&|_| signed.clone()));
    for (section, marker, part) in [
        (
            ASKED.replace("https:", "http:"),
            "endpoint = ",
            "nobody can be asked here",
        ),
        (
            basic.replace("secret_file = \"secret\"\n", ""),
            "authentication = ",
            "needs `secret_file`",
        ),
        (
            format!("{basic}key_id = \"a\"\n"),
            "key_id = ",
            "`key_id` has no meaning",
        ),
        (
            basic.replace("\"secret\"", "\"keys.json\""),
            "secret_file = ",
            "holds no secret",
        ),
        (
            signed.replace("certs/issued/gateway.key", "secret"),
            "private_key = \"secret\"",
            "holds no PEM private key",
        ),
    ] {
        let shown = place.errors(&text(&|_| section.clone()));
        assert!(shown.contains(part), "{part}: {shown}");
        let line = line_of(&text(&|_| section.clone()), marker);
        assert!(
            shown.contains(&format!("countersign.toml:{line}:")),
            "{shown}"
        );
    }
}

#[test]
fn routes_say_which_credentials_they_take() {
    let place = place();
    let with = |lines: &str| {
        format!(
            "{}\n{ISSUER}jwks_file = \"keys.json\"\n{API_KEYS}{API_KEY}",
            plus(ROUTE, lines)
        )
    };
    for (lines, methods) in [
        (TOKEN, "all of certificate, token"),
        ("authenticate = { all = [\"api-key\"] }", "all of api-key"),
        ("authenticate = { any = [\"certificate\"] }", "certificate"),
        (
            "authenticate = { any = [\"certificate\", \"api-key\"] }\ntoken = { issuer = \"corporate\" }",
            "any of certificate, api-key, token",
        ),
        (
            "authenticate = { all = [\"token\"] }\ntoken = { issuer = \"corporate\" }",
            "all of token",
        ),
    ] {
        let loaded = place.good(&with(lines));
        let route = &loaded.snapshot.routes.routes()[0];
        assert_eq!(route.rule.authentication.to_string(), methods);
        assert_eq!(route.authenticators.is_empty(), methods == "certificate");
    }
    for (lines, marker, parts) in [
        (
            "authenticate = { all = [\"token\"] }",
            "authenticate = ",
            &["does not say which tokens it takes"][..],
        ),
        (
            "authenticate = { all = [\"api-key\", \"token\"] }\ntoken = { issuer = \"corporate\" }",
            "authenticate = ",
            &["would name two callers"],
        ),
        (
            "authenticate = { any = [\"token\", \"token\"] }\ntoken = { issuer = \"corporate\" }",
            "authenticate = ",
            &["stands twice"],
        ),
        (
            "forward_token = true",
            "forward_token",
            &["no token to forward"],
        ),
        (
            "token = { issuer = \"corprate\" }",
            "token = ",
            &["no token_issuer named", "did you mean \"corporate\"?"],
        ),
        (
            "token = { issuer = \"corporate\", audience = \"x\" }",
            "token = ",
            &["does not have \"x\""],
        ),
        (
            "token = { issuer = \"corporate\", introspect = \"always\" }",
            "token = ",
            &["cannot be asked about tokens"],
        ),
        (
            "token = { issuer = \"corporate\", introspect = \"never\" }",
            "token = ",
            &["how often the issuer is asked", "once_per"],
        ),
        (
            "token = { issuer = \"corporate\", resource = \"http://a\" }",
            "token = ",
            &["does not identify a protected resource"],
        ),
        (
            "token = { issuer = \"corporate\", claims = { a = 1.5 } }",
            "token = ",
            &["must be a text, a whole number"],
        ),
        (
            "token = { isuer = \"corporate\", issuer = \"corporate\" }",
            "token = ",
            &["did you mean `issuer`?"],
        ),
        ("token = \"corporate\"", "token = ", &["must be a table"]),
    ] {
        place.refuses(&with(lines), marker, parts);
    }
    let open = "authenticate = \"none\"\ntoken = { issuer = \"corporate\" }";
    let shown = place.errors(&with(open).replace("callers = [\"spiffe://example.org/**\"]\n", ""));
    assert!(
        shown.contains("`token` has no meaning where nobody"),
        "{shown}"
    );
    for callers in ["api-key:other", "client:other/*"] {
        let text = with(TOKEN).replace("spiffe://example.org/**", callers);
        place.warns(
            &text,
            "callers = ",
            &format!("no caller can match {callers}"),
        );
    }
    for line in [
        "vouches_for = [\"api-key:*\"]",
        "vouches_for = [\"client:a/*\"]",
    ] {
        place.refuses(
            &plus(TRUST, line),
            line,
            &["no certificate carries such a name"],
        );
    }
}

#[test]
fn rate_limits_count_something() {
    let place = place();
    let text = plus(
        ROUTE,
        "rate_limit = [{ per = \"caller\", requests = 10, window = \"1s\", burst = 20 }, { per = \"route\", requests = 100, window = \"1s\" }]",
    );
    assert_eq!(
        place.good(&text).snapshot.routes.routes()[0].limits.len(),
        2
    );
    for (line, parts) in [
        (
            "rate_limit = { per = \"subject\", requests = 1, window = \"1s\" }",
            &["nothing would be counted per subject"][..],
        ),
        (
            "rate_limit = { per = \"api-key\", requests = 1, window = \"1s\" }",
            &["nothing would be counted per api-key"],
        ),
        (
            "rate_limit = { per = \"user\", requests = 1, window = \"1s\" }",
            &["unknown word \"user\""],
        ),
        (
            "rate_limit = { per = \"caller\", requests = 0, window = \"1s\" }",
            &["out of range"],
        ),
        (
            "rate_limit = { per = \"caller\", requests = 1, window = \"0s\" }",
            &["no rate limit", "between 1 ms and 1 day"],
        ),
        (
            "rate_limit = { per = \"caller\", requests = 1 }",
            &["[route.rate_limit] has no `window`"],
        ),
        ("rate_limit = []", &["this list is empty"]),
        ("rate_limit = \"10/s\"", &["must be a table"]),
    ] {
        place.refuses(&plus(ROUTE, line), line, parts);
    }
    let line = "keys = 30000000";
    let text = format!("{}\n[rate_limits]\n{line}\n", whole());
    place.refuses(&text, line, &["are too many"]);
}

#[test]
fn a_shared_store_needs_a_build_that_knows_it() {
    let place = place();
    place.write_private("redis.password", "secret\n");
    let with = |lines: &str| format!("{}\n[rate_limits.redis]\n{lines}\n", whole());
    let all = "url = \"rediss://redis.internal:6379/1\"\non_store_failure = \"local\"\n\
               username = \"gateway\"\npassword_file = \"redis.password\"\n\
               roots = \"certs/trust.pem\"\nallow_plaintext = false\ntimeout = \"50ms\"\n\
               prefix = \"cs:\"";
    if cfg!(not(feature = "redis")) {
        place.refuses(
            &with(all),
            "[rate_limits.redis]",
            &["knows no Redis", "--features redis"],
        );
        return;
    }
    assert!(place.good(&with(all)).snapshot.limiter.shared().is_some());
    place.good(&with(
        "url = \"redis://127.0.0.1:6379\"\non_store_failure = \"deny\"",
    ));
    for (lines, marker, part) in [
        (
            "url = \"redis://127.0.0.1\"",
            "[rate_limits.redis]",
            "has no `on_store_failure`",
        ),
        (
            "url = \"redis://:secret@127.0.0.1\"\non_store_failure = \"deny\"",
            "url = ",
            "a password has no place",
        ),
        (
            "url = \"redis://10.0.0.1\"\non_store_failure = \"deny\"",
            "url = ",
            "could be forged",
        ),
        (
            "url = \"redis+unix:///run/redis.sock?db=1&pass=secret\"\non_store_failure = \"deny\"",
            "url = ",
            "a password has no place",
        ),
        (
            "url = \"rediss://10.0.0.1/#insecure\"\non_store_failure = \"deny\"",
            "url = ",
            "after #",
        ),
        (
            "url = \"http://127.0.0.1\"\non_store_failure = \"deny\"",
            "url = ",
            "is no store",
        ),
        // These schemes are refused although the redis library supports them, because they are not
        // encrypted.
        (
            "url = \"valkey://10.0.0.1\"\non_store_failure = \"deny\"",
            "url = ",
            "is no store",
        ),
        (
            "url = \"REDIS://10.0.0.1\"\non_store_failure = \"deny\"",
            "url = ",
            "is no store",
        ),
        (
            "url = \"redis://127.0.0.1\"\non_store_failure = \"open\"",
            "on_store_failure = ",
            "unknown word",
        ),
    ] {
        place.refuses(&with(lines), marker, &[part]);
    }
}

#[test]
fn api_keys_are_checked_where_they_stand() {
    let place = place();
    let with = |keys: &str, section: &str| format!("{}\n{section}{keys}", whole());
    place.good(&with(API_KEY, API_KEYS));
    for (from, to, marker, part) in [
        (
            "\"batch\"",
            "\"a b\"",
            "name = \"a b\"",
            "cannot name an API key",
        ),
        (
            "0123456789abcdef",
            "0123",
            "id = ",
            "no identifier of an API key",
        ),
        (
            "hash = \"A",
            "hash = \"",
            "hash = ",
            "no hash of an API key",
        ),
        (
            "hash",
            "routes = [\"order\"]\nhash",
            "routes = ",
            "did you mean \"orders\"?",
        ),
        (
            "hash",
            "networks = [\"10.0.0.0/33\"]\nhash",
            "networks = ",
            "is not a network",
        ),
        (
            "hash",
            "expires = \"tomorrow\"\nhash",
            "expires = ",
            "is not a moment",
        ),
        (
            "hash",
            "expires = 2030-01-01\nhash",
            "expires = ",
            "is not a moment",
        ),
    ] {
        let text = with(&API_KEY.replacen(from, to, 1), API_KEYS);
        place.refuses(&text, marker, &[part]);
    }
    place.refuses(
        &with(API_KEY, ""),
        "[[api_key]]",
        &["no [api_keys] section"],
    );
    let twice = format!("{API_KEY}{}", API_KEY.replace("batch", "other"));
    place.refuses(
        &with(&twice, API_KEYS),
        "name = \"other\"",
        &["have the same id"],
    );
    for (header, part) in [
        ("Authorization", "has another purpose"),
        ("Countersign-Assertion", "has another purpose"),
    ] {
        let section = format!("{API_KEYS}header = \"{header}\"\n");
        let text = with(API_KEY, &section);
        place.refuses(&text, &format!("header = \"{header}\"\n"), &[part]);
    }
    place.write_private("api-keys.hmac", "short");
    place.refuses(&with(API_KEY, API_KEYS), "hmac_key = ", &["is no HMAC key"]);
}
