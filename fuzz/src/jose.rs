//! Parses tokens and keys with the JOSE module of `countersign-verify`. Everything that it
//! accepts must have only one meaning.

use countersign_verify::jose::{
    CompactJws, Jwk, JwkSet, MAX_TOKEN_BYTES, base64url_decode, base64url_encode, parse_object,
    thumbprint, verify_signature,
};
use serde_json::Value;

fn token(text: &str) {
    let Ok(token) = CompactJws::parse(text, MAX_TOKEN_BYTES) else {
        return;
    };
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!(parts.len(), 3);
    // Only the canonical base64url encoding of each part may be accepted.
    for part in &parts {
        let octets = base64url_decode(part, "part").unwrap();
        assert_eq!(base64url_encode(&octets), *part);
    }
    let header = base64url_decode(parts[0], "header").unwrap();
    let members = Value::Object(token.header().members().clone());
    assert_eq!(serde_json::from_slice::<Value>(&header).ok(), Some(members));
    let payload = base64url_decode(parts[1], "payload").unwrap();
    assert_eq!(token.unverified_payload(), payload);
    // The fuzzer does not have the private key of this public key. Therefore the signature of
    // the token cannot be valid.
    let keys = JwkSet::from_json(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#);
    assert!(verify_signature(text, &keys.unwrap()).is_err());
}

fn keys(octets: &[u8]) {
    if let Ok(key) = Jwk::from_json(octets) {
        let text = key.to_json().to_string();
        let again = Jwk::from_json(text.as_bytes()).unwrap();
        assert_eq!(thumbprint(&again), thumbprint(&key));
        for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            assert!(key.to_json().get(member).is_none(), "{member} is told");
        }
    }
    if let Ok(set) = JwkSet::from_json(octets) {
        let again = JwkSet::from_json(set.to_json().to_string().as_bytes()).unwrap();
        assert_eq!(again.keys().len(), set.keys().len());
    }
}

/// The input is used as a token, as the header of a token, as a JSON object, as a key and as a
/// key set.
pub fn jose(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        token(text);
        // The same text is the header of a token whose other parts are well-formed.
        token(&format!("{}.e30.AAAA", base64url_encode(text.as_bytes())));
    }
    if let Ok(members) = parse_object(data, "object") {
        let value = serde_json::from_slice::<Value>(data).ok();
        assert_eq!(value, Some(Value::Object(members)));
    }
    keys(data);
}
