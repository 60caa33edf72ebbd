//! Tests whole tokens. A differential test compares our checks with `jsonwebtoken`: we must never
//! accept a mutated token that `jsonwebtoken` refuses.
//!
//! If our checks are stricter, the test names the reason. No other difference is allowed.

use countersign_verify::jose::{Jwk, base64url_decode, signing_input};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::binding::CertificateBinding;
use super::*;
use crate::crypto::{SignatureScheme, SigningKeyPair};

const NOW: u64 = 1_770_000_000;
const THUMBPRINT: [u8; 32] = [7; 32];

struct Issuer {
    pair: SigningKeyPair,
    public: Jwk,
}

impl Issuer {
    fn new() -> Self {
        let document = SigningKeyPair::generate_pkcs8(SignatureScheme::EcdsaP256Sha256).unwrap();
        let scheme = SignatureScheme::EcdsaP256Sha256;
        let pair = SigningKeyPair::from_pkcs8(scheme, document.expose()).unwrap();
        let public = Jwk::from_p256_point(pair.public_key()).unwrap();
        Self { pair, public }
    }

    fn keys(&self) -> JwkSet {
        [self.public.clone()].into_iter().collect()
    }

    fn sign(&self, header: &str, payload: &str) -> String {
        let input = signing_input(header, payload);
        let signature = self.pair.sign(input.as_bytes()).unwrap();
        format!("{input}.{}", base64url_encode(&signature))
    }

    fn header(&self, token_type: &str) -> String {
        json!({"alg": "ES256", "kid": self.public.key_id(), "typ": token_type}).to_string()
    }
}

fn rules(binding: CertificateBinding) -> TokenRules {
    TokenRules {
        claims: ClaimRules {
            issuer: "https://idp.example.org".to_owned(),
            audiences: vec!["orders".to_owned()],
            binding,
            skew: 0,
            keep: Vec::new(),
        },
        algorithms: vec![Algorithm::Es256],
        types: vec![TokenType::AccessToken],
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://idp.example.org", "aud": "orders", "sub": "alice", "client_id": "app",
        "exp": NOW + 60, "iat": NOW, "jti": "1",
        "cnf": {"x5t#S256": base64url_encode(&THUMBPRINT)}
    })
}

fn judge(
    issuer: &Issuer,
    token: &str,
    thumbprint: Option<&[u8; 32]>,
) -> Result<TokenClaims, ReasonCode> {
    validate(
        token,
        &issuer.keys(),
        &rules(CertificateBinding::Required),
        &Demands::default(),
        thumbprint,
        NOW,
    )
    .map_err(|denial| denial.reason)
}

#[test]
fn a_bound_token_passes_with_its_certificate_only() {
    let issuer = Issuer::new();
    let token = issuer.sign(&issuer.header("at+jwt"), &claims().to_string());
    let accepted = judge(&issuer, &token, Some(&THUMBPRINT)).unwrap();
    assert!(accepted.bound);
    assert_eq!(
        accepted.hash,
        base64url_encode(&crypto::sha256(token.as_bytes()))
    );
    for other in [None, Some(&[8; 32])] {
        assert_eq!(
            judge(&issuer, &token, other),
            Err(ReasonCode::TokenBindingMismatch)
        );
    }
}

#[test]
fn the_type_is_an_access_tokens() {
    let issuer = Issuer::new();
    for (name, good) in [
        ("at+jwt", true),
        ("AT+JWT", true),
        ("application/at+jwt", true),
        ("JWT", false),
        ("countersign+jwt", false),
        ("dpop+jwt", false),
        ("logout+jwt", false),
        ("at+jwt ", false),
        ("", false),
    ] {
        let token = issuer.sign(&issuer.header(name), &claims().to_string());
        let expected = if good {
            None
        } else {
            Some(ReasonCode::TokenType)
        };
        assert_eq!(
            judge(&issuer, &token, Some(&THUMBPRINT)).err(),
            expected,
            "{name}"
        );
    }
    let untyped = issuer.sign(r#"{"alg":"ES256"}"#, &claims().to_string());
    assert_eq!(
        judge(&issuer, &untyped, Some(&THUMBPRINT)),
        Err(ReasonCode::TokenType)
    );
}

#[test]
fn each_refusal_has_its_reason() {
    let issuer = Issuer::new();
    let payload = claims().to_string();
    let good = issuer.header("at+jwt");
    let token = issuer.sign(&good, &payload);
    let other = Issuer::new().sign(&good, &payload);
    let (input, _) = token.rsplit_once('.').unwrap();
    let unknown = r#"{"alg":"ES256","kid":"other","typ":"at+jwt"}"#;
    let none = signing_input(r#"{"alg":"none","typ":"at+jwt"}"#, &payload);
    let hmac = signing_input(r#"{"alg":"HS256","typ":"at+jwt"}"#, &payload);
    let twice = payload.replacen('{', r#"{"aud":"orders","#, 1);
    let jku = r#"{"alg":"ES256","typ":"at+jwt","jku":"https://evil.example/keys","x5c":["AAAA"]}"#;
    let jwk = format!(
        r#"{{"alg":"ES256","typ":"at+jwt","jwk":{}}}"#,
        issuer.public.to_json()
    );
    for (token, reason) in [
        (String::new(), ReasonCode::TokenMalformed),
        ("a.b".to_owned(), ReasonCode::TokenMalformed),
        (format!("{token}\n"), ReasonCode::TokenMalformed),
        ("a".repeat(MAX_TOKEN_BYTES + 1), ReasonCode::TokenMalformed),
        (format!("{none}.AAAA"), ReasonCode::TokenAlgorithm),
        (format!("{none}."), ReasonCode::TokenMalformed),
        (format!("{hmac}.AAAA"), ReasonCode::TokenAlgorithm),
        (format!("{input}.AAAA"), ReasonCode::TokenSignature),
        (other, ReasonCode::TokenSignature),
        (issuer.sign(unknown, &payload), ReasonCode::TokenSignature),
        (
            issuer.sign(&good.replace("ES256", "RS256"), &payload),
            ReasonCode::TokenAlgorithm,
        ),
        (
            issuer.sign(r#"{"alg":"ES256","typ":"at+jwt","crit":["exp"]}"#, &payload),
            ReasonCode::TokenMalformed,
        ),
        (issuer.sign(&jwk, &payload), ReasonCode::TokenMalformed),
        (issuer.sign(&good, &twice), ReasonCode::TokenMalformed),
        (issuer.sign(&good, "[]"), ReasonCode::TokenMalformed),
        (issuer.sign(&good, "not json"), ReasonCode::TokenMalformed),
    ] {
        assert_eq!(judge(&issuer, &token, Some(&THUMBPRINT)), Err(reason));
    }
    // The address of a key in a token is ignored, and does not cause a refusal.
    assert!(judge(&issuer, &issuer.sign(jku, &payload), Some(&THUMBPRINT)).is_ok());
}

#[test]
fn nothing_of_a_token_is_in_debug() {
    let issuer = Issuer::new();
    let token = issuer.sign(&issuer.header("at+jwt"), &claims().to_string());
    let parsed = UnverifiedToken::parse(&token, &rules(CertificateBinding::Off)).unwrap();
    let shown = format!("{parsed:?}");
    for part in token.split('.').skip(1) {
        assert!(!shown.contains(part));
    }
    assert!(!shown.contains("alice"));
}

/// Whether `jsonwebtoken` accepts a token. It applies only the rules of `issuer` that it supports.
fn oracle_accepts(issuer: &Issuer, token: &str) -> bool {
    use jsonwebtoken::{Algorithm as Theirs, DecodingKey, Validation, decode};
    let jwk = issuer.public.to_json();
    let text = |name: &str| jwk[name].as_str().unwrap().to_owned();
    let key = DecodingKey::from_ec_components(&text("x"), &text("y")).unwrap();
    let mut validation = Validation::new(Theirs::ES256);
    validation.set_audience(&["orders"]);
    validation.set_issuer(&["https://idp.example.org"]);
    validation.set_required_spec_claims(&["exp", "aud", "iss"]);
    validation.leeway = 0;
    // `jsonwebtoken` would read the system's clock, so this function compares the times itself.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let Ok(decoded) = decode::<Value>(token, &key, &validation) else {
        return false;
    };
    let at = |name: &str| decoded.claims.get(name).and_then(Value::as_f64);
    let now = NOW as f64;
    at("exp").is_some_and(|exp| exp > now) && at("nbf").is_none_or(|nbf| nbf <= now)
}

/// Returns the reason why our checks refuse a token that `jsonwebtoken` accepts, if there is one.
fn stricter(token: &str) -> Option<&'static str> {
    let mut parts = token.split('.');
    let mut part = || base64url_decode(parts.next()?, "part").ok();
    let (Some(header), Some(payload)) = (part(), part()) else {
        return Some("base64url must be canonical: no stray trailing bits");
    };
    let Ok(header) = parse_object(&header, "header") else {
        return Some("duplicate members of the header");
    };
    let Ok(payload) = parse_object(&payload, "payload") else {
        return Some("duplicate members of the payload");
    };
    if base64url_decode(token.rsplit('.').next()?, "signature").is_err() {
        return Some("base64url must be canonical: no stray trailing bits");
    }
    let own_types = ["cty", "jku", "x5u", "x5t"];
    if own_types
        .iter()
        .any(|name| header.get(*name).is_some_and(|v| !v.is_string()))
        || ["jwk", "enc", "zip", "x5c"]
            .iter()
            .any(|name| header.contains_key(*name))
    {
        return Some("header parameters of their registered type, and no key inside");
    }
    if header.contains_key("crit") || header.contains_key("b64") {
        return Some("unknown critical extensions");
    }
    if header.get("kid").is_some_and(|kid| !kid.is_string())
        || TokenType::of_header(header.get("typ").and_then(Value::as_str))
            != Some(TokenType::AccessToken)
    {
        return Some("the typ of an access token");
    }
    if header.contains_key("kid") && header["kid"] != json!(null) {
        // Even if the issuer has only one key, the `kid` of the token must match it.
        if rules_for_key_id(&header["kid"]) {
            return Some("the kid names another key");
        }
    }
    for name in ["sub", "client_id", "iat", "jti"] {
        if !payload.contains_key(name) {
            return Some("claims that RFC 9068 demands");
        }
    }
    for name in ["sub", "client_id", "jti"] {
        if !payload[name].is_string() {
            return Some("claims of their own JSON type");
        }
    }
    let shape = |name: &str| payload.get(name).is_some_and(|v| !v.is_number());
    if ["iat", "nbf", "exp"].into_iter().any(shape)
        || payload.get("aud").is_some_and(|aud| match aud {
            Value::Array(items) => items.iter().any(|item| !item.is_string()),
            other => !other.is_string(),
        })
        || payload.get("iss").is_some_and(|iss| !iss.is_string())
    {
        return Some("claims of their own JSON type");
    }
    let date = |name: &str| payload.get(name).and_then(Value::as_f64);
    if date("iat").is_some_and(|iat| iat > NOW as f64) {
        return Some("issued in the future");
    }
    if ["iat", "nbf", "exp"]
        .into_iter()
        .filter_map(date)
        .any(|d| !(0.0..=253_402_300_799.0).contains(&d))
    {
        return Some("dates between 1970 and 9999");
    }
    if date("exp").is_some_and(|exp| exp.floor() <= NOW as f64) {
        return Some("an expiry within the current second");
    }
    if payload.get("cnf") != claims().get("cnf") {
        return Some("the certificate the token is bound to");
    }
    None
}

fn rules_for_key_id(key_id: &Value) -> bool {
    key_id.as_str().is_none_or(|id| id.len() != 43)
}

fn member_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!([])),
        Just(json!({})),
        Just(json!("orders")),
        Just(json!(["orders", 1])),
        Just(json!(["x", "orders"])),
        Just(json!("https://idp.example.org")),
        Just(json!(["https://idp.example.org"])),
        Just(json!("at+jwt")),
        Just(json!("ES256")),
        Just(json!({"x5t#S256": "AAAA"})),
        Just(json!(NOW)),
        Just(json!(NOW as f64 + 0.5)),
        Just(json!(-1)),
        Just(json!(1e300)),
        any::<u64>().prop_map(|number| json!(number)),
        (NOW - 100..NOW + 100).prop_map(|number| json!(number)),
        "[a-z]{0,8}".prop_map(|text| json!(text)),
    ]
}

/// One change to a token before it is signed.
#[derive(Debug, Clone)]
enum Mutation {
    Header(String, Value),
    Claim(String, Value),
    Remove(String),
    Twice(String, Value),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let header = prop::sample::select(vec![
        "alg", "kid", "typ", "crit", "b64", "jku", "jwk", "cty", "x5c", "zip", "x",
    ]);
    let claim = prop::sample::select(vec![
        "iss",
        "aud",
        "sub",
        "client_id",
        "azp",
        "exp",
        "iat",
        "nbf",
        "jti",
        "cnf",
        "scope",
        "x",
    ]);
    prop_oneof![
        (header, member_value()).prop_map(|(name, value)| Mutation::Header(name.to_owned(), value)),
        (claim.clone(), member_value())
            .prop_map(|(name, value)| Mutation::Claim(name.to_owned(), value)),
        claim
            .clone()
            .prop_map(|name| Mutation::Remove(name.to_owned())),
        (claim, member_value()).prop_map(|(name, value)| Mutation::Twice(name.to_owned(), value)),
    ]
}

fn mutated(issuer: &Issuer, mutations: &[Mutation]) -> String {
    let mut header: Value = serde_json::from_str(&issuer.header("at+jwt")).unwrap();
    let mut payload = claims();
    let mut prefix = String::from("{");
    for mutation in mutations {
        match mutation {
            Mutation::Header(name, value) => header[name] = value.clone(),
            Mutation::Claim(name, value) => payload[name] = value.clone(),
            Mutation::Remove(name) => {
                payload.as_object_mut().unwrap().remove(name);
            }
            Mutation::Twice(name, value) => {
                prefix.push_str(&format!("\"{name}\":{value},"));
            }
        }
    }
    issuer.sign(
        &header.to_string(),
        &payload.to_string().replacen('{', &prefix, 1),
    )
}

fn agree(issuer: &Issuer, token: &str) -> Result<(), TestCaseError> {
    let ours = judge(issuer, token, Some(&THUMBPRINT));
    let theirs = oracle_accepts(issuer, token);
    match (&ours, theirs) {
        (Ok(_), false) => prop_assert!(false, "only ours accepts {token}"),
        (Err(reason), true) => prop_assert!(
            stricter(token).is_some() || contradicts(token),
            "only ours refuses ({reason}) {token}"
        ),
        _ => {}
    }
    Ok(())
}

/// Whether `azp` contradicts `client_id`, or `scope` has a form that an assertion cannot carry.
fn contradicts(token: &str) -> bool {
    let payload = token.split('.').nth(1).unwrap();
    let payload = parse_object(&base64url_decode(payload, "x").unwrap(), "x").unwrap();
    payload
        .get("azp")
        .is_some_and(|azp| Some(azp) != payload.get("client_id"))
        || payload.get("scope").is_some_and(|scope| match scope {
            Value::Array(items) => items.iter().any(|item| !item.is_string()),
            other => !other.is_string(),
        })
}

#[test]
fn the_oracle_agrees_on_a_good_token() {
    let issuer = Issuer::new();
    let token = mutated(&issuer, &[]);
    assert!(oracle_accepts(&issuer, &token));
    assert!(judge(&issuer, &token, Some(&THUMBPRINT)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn signed_mutants_are_judged_no_more_lenient(mutations in prop::collection::vec(mutation(), 1..4)) {
        let issuer = Issuer::new();
        agree(&issuer, &mutated(&issuer, &mutations))?;
    }

    #[test]
    fn damaged_tokens_are_judged_no_more_lenient(at in any::<prop::sample::Index>(), octet in 0_u8..128, kind in 0..3) {
        let issuer = Issuer::new();
        let mut octets = mutated(&issuer, &[]).into_bytes();
        let at = at.index(octets.len());
        match kind {
            0 => octets[at] = octet,
            1 => octets.insert(at, octet),
            _ => { octets.remove(at); }
        }
        agree(&issuer, &String::from_utf8(octets).unwrap())?;
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let issuer = Issuer::new();
        prop_assert!(judge(&issuer, &text, None).is_err());
    }
}
