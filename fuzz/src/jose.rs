//! The JOSE parser: what it accepts has one reading.

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
    // One token has one spelling.
    for part in &parts {
        let octets = base64url_decode(part, "part").unwrap();
        assert_eq!(base64url_encode(&octets), *part);
    }
    let header = base64url_decode(parts[0], "header").unwrap();
    let members = Value::Object(token.header().members().clone());
    assert_eq!(serde_json::from_slice::<Value>(&header).ok(), Some(members));
    let payload = base64url_decode(parts[1], "payload").unwrap();
    assert_eq!(token.unverified_payload(), payload);
    // Nobody signed this.
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

/// The input is a token, a header's text, a key, and a set of keys.
pub fn jose(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        token(text);
        // The same text as header of a token whose other parts are good.
        token(&format!("{}.e30.AAAA", base64url_encode(text.as_bytes())));
    }
    if let Ok(members) = parse_object(data, "object") {
        let value = serde_json::from_slice::<Value>(data).ok();
        assert_eq!(value, Some(Value::Object(members)));
    }
    keys(data);
}
