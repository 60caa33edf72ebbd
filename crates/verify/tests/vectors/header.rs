//! Cases about the members of the header, the type, and the algorithm.

use serde_json::{Value, json};

use super::case::{Case, case, claims_text, text};
use super::key::{CURRENT, EDWARDS, STRANGER, hmac_token};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = members();
    cases.extend(embedded_keys());
    cases.extend(types());
    cases.extend(algorithm_names());
    cases.extend(algorithms_of_keys());
    cases.extend(public_keys_as_secrets());
    cases
}

fn members() -> Vec<Case> {
    let rule = "header-members";
    let changed = |name: &str, member: &str, value: Value, code: &str| {
        case(rule, name).header_member(member, value).refused(code)
    };
    let removed = |name: &str, member: &str, code: &str| {
        case(rule, name)
            .header(|header| {
                header.as_object_mut().unwrap().remove(member);
            })
            .refused(code)
    };
    vec![
        removed("no `alg`", "alg", "malformed"),
        changed("`alg` is null", "alg", json!(null), "malformed"),
        changed("`alg` is a number", "alg", json!(256), "malformed"),
        changed("`alg` is an array", "alg", json!(["ES256"]), "malformed"),
        removed("no `kid`", "kid", "key-id-missing"),
        changed("an empty `kid`", "kid", json!(""), "key-id-missing"),
        changed("`kid` is null", "kid", json!(null), "malformed"),
        changed("`kid` is a number", "kid", json!(1), "malformed"),
        changed(
            "`kid` is an array",
            "kid",
            json!([CURRENT.key_id()]),
            "malformed",
        ),
        case(rule, "`KID` instead of `kid`")
            .header(|header| {
                let members = header.as_object_mut().unwrap();
                let value = members.remove("kid").unwrap();
                members.insert("KID".to_owned(), value);
            })
            .refused("key-id-missing"),
        changed(
            "`crit` with a known claim",
            "crit",
            json!(["exp"]),
            "malformed",
        ),
        changed("`crit` with `b64`", "crit", json!(["b64"]), "malformed"),
        changed("an empty `crit`", "crit", json!([]), "malformed"),
        changed("`crit` is null", "crit", json!(null), "malformed"),
        changed("`b64` is false", "b64", json!(false), "malformed"),
        changed("`b64` is true", "b64", json!(true), "malformed"),
        changed("`typ` is a number", "typ", json!(1), "malformed"),
        changed(
            "`typ` is an array",
            "typ",
            json!(["countersign+jwt"]),
            "malformed",
        ),
        case(rule, "an empty header")
            .header(|header| *header = json!({}))
            .refused("malformed"),
        case(rule, "`cty` is ignored")
            .header_member("cty", "json")
            .accepted(),
    ]
}

/// Returns cases in which the header contains a key or the URL of a key.
fn embedded_keys() -> Vec<Case> {
    let rule = "header-members";
    let changed = |name: &str, member: &str, value: Value| {
        case(rule, name)
            .header_member(member, value)
            .refused("embedded-key")
    };
    vec![
        case(rule, "a stranger's key in `jwk`")
            .signer(STRANGER)
            .header_member("jwk", STRANGER.jwk())
            .refused("embedded-key"),
        changed("the gateway's own key in `jwk`", "jwk", CURRENT.jwk()),
        changed("`jwk` is null", "jwk", json!(null)),
        changed("`jku`", "jku", json!("https://evil.example/jwks.json")),
        changed(
            "`jku` with the gateway's own address",
            "jku",
            json!("https://gateway.example.org:9080/.well-known/jwks.json"),
        ),
        changed("`x5u`", "x5u", json!("https://evil.example/chain.pem")),
        changed("`x5c`", "x5c", json!(["MIIB"])),
        changed("an empty `x5c`", "x5c", json!([])),
    ]
}

fn types() -> Vec<Case> {
    let rule = "type";
    let mut cases: Vec<Case> = [
        ("an ID token's type", "JWT"),
        ("an access token's type", "at+jwt"),
        ("a type in upper case", "COUNTERSIGN+JWT"),
        ("a type with one upper-case letter", "Countersign+jwt"),
        ("a media type", "application/countersign+jwt"),
        ("a type with a parameter", "countersign+jwt;v=1"),
        ("a type with a space at the end", "countersign+jwt "),
        ("a longer type", "countersign+jwts"),
        ("a shorter type", "countersign"),
        ("an empty type", ""),
    ]
    .into_iter()
    .map(|(name, value)| case(rule, name).header_member("typ", value).refused("type"))
    .collect();
    cases.push(
        case(rule, "no type")
            .header(|header| {
                header.as_object_mut().unwrap().remove("typ");
            })
            .refused("type"),
    );
    cases.push(
        case(rule, "the type with an escape")
            .assertions([CURRENT.token(
                text(&CURRENT.header())
                    .replace("countersign+jwt", r"countersign\u002bjwt")
                    .as_bytes(),
                claims_text().as_bytes(),
            )])
            .accepted(),
    );
    cases
}

fn algorithm_names() -> Vec<Case> {
    let rule = "algorithm";
    let mut cases: Vec<Case> = [
        "none", "None", "NONE", "nOnE", "HS256", "HS512", "ES384", "ES512", "ES256K", "RS256",
        "PS256", "Ed448", "es256", "ES256 ", "", "A128KW", "dir",
    ]
    .into_iter()
    .map(|name| {
        case(
            rule,
            format!("the algorithm {name:?} with a signature by ES256"),
        )
        .header_member("alg", name)
        .refused("algorithm")
    })
    .collect();
    cases.push(
        case(rule, "the algorithm \"none\" with an empty signature")
            .header_member("alg", "none")
            .token(|token| {
                let (input, _) = token.rsplit_once('.').unwrap();
                format!("{input}.")
            })
            .refused("malformed"),
    );
    cases.push(
        case(rule, "the algorithm \"none\" with a short signature")
            .header_member("alg", "none")
            .signature(|_| vec![0])
            .refused("algorithm"),
    );
    cases
}

/// Returns cases about the rule that the algorithm must be the algorithm of the key with the `kid`.
fn algorithms_of_keys() -> Vec<Case> {
    let rule = "algorithm";
    let both = |name: &str| case(rule, name).key_set("both");
    vec![
        both("ES256 with a P-256 key").accepted(),
        both("EdDSA with an Ed25519 key").signer(EDWARDS).accepted(),
        both("EdDSA with the `kid` of a P-256 key")
            .signer(EDWARDS)
            .header_member("kid", CURRENT.key_id())
            .refused("algorithm"),
        both("ES256 with the `kid` of an Ed25519 key")
            .header_member("kid", EDWARDS.key_id())
            .refused("algorithm"),
        both("ES256 in the header of an Ed25519 signature")
            .signer(EDWARDS)
            .header_member("alg", "ES256")
            .refused("algorithm"),
        both("EdDSA in the header of an ES256 signature")
            .header_member("alg", "EdDSA")
            .refused("algorithm"),
    ]
}

/// Returns cases in which the algorithm is HS256 and the secret is public, for example a public
/// key.
fn public_keys_as_secrets() -> Vec<Case> {
    [
        ("the JWK", CURRENT, text(&CURRENT.jwk()).into_bytes()),
        ("the point", CURRENT, CURRENT.public()),
        (
            "the x coordinate",
            CURRENT,
            CURRENT.public()[1..33].to_vec(),
        ),
        ("the Ed25519 key", EDWARDS, EDWARDS.public()),
        ("an empty text", CURRENT, Vec::new()),
    ]
    .into_iter()
    .map(|(name, key, secret)| {
        let mut header = key.header();
        header["alg"] = json!("HS256");
        case("algorithm", format!("HS256 with {name} as secret"))
            .key_set("both")
            .assertions([hmac_token(&secret, &text(&header), &claims_text())])
            .refused("algorithm")
    })
    .collect()
}
