//! Cases about key sets, the selection of a key by `kid`, and the signature.

use countersign_verify::jose::base64url_encode;
use serde_json::{Map, Value, json};

use super::case::{Case, case, claims_text, text};
use super::key::{CURRENT, EDWARDS, Key, NEXT, STRANGER, UNUSABLE, octets};

/// The `kid` of two different keys in the key set `one_name_for_two`.
const SHARED_KEY_ID: &str = "shared";

/// The order of the P-256 group.
const P256_ORDER: &str = "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551";

/// The order of the Ed25519 group (RFC 8032 section 5.1), in little-endian byte order.
const EDWARDS_ORDER: &str = "EDD3F55C1A631258D69CF7A2DEF9DE1400000000000000000000000000000010";

/// Returns all key sets by name.
pub(super) fn key_sets() -> Value {
    let set = |keys: &[Value]| json!({"keys": keys});
    let named = |key: Key, key_id: &str| with(key, |jwk| jwk["kid"] = json!(key_id));
    let sets = [
        ("gateway", set(&[CURRENT.jwk()])),
        ("both", set(&[EDWARDS.jwk(), CURRENT.jwk()])),
        ("before_rotation", set(&[CURRENT.jwk(), NEXT.jwk()])),
        ("after_rotation", set(&[NEXT.jwk()])),
        ("listed_twice", set(&[CURRENT.jwk(), CURRENT.jwk()])),
        (
            "one_name_for_two",
            set(&[
                CURRENT.jwk(),
                named(NEXT, SHARED_KEY_ID),
                named(STRANGER, SHARED_KEY_ID),
            ]),
        ),
        ("foreign_keys", set(&foreign_keys())),
        (
            "for_encryption",
            beside_unusable(|jwk| jwk["use"] = json!("enc")),
        ),
        (
            "for_signing",
            beside_unusable(|jwk| jwk["key_ops"] = json!(["sign"])),
        ),
        (
            "for_another_algorithm",
            beside_unusable(|jwk| jwk["alg"] = json!("ES384")),
        ),
    ];
    let sets: Map<String, Value> = sets
        .into_iter()
        .map(|(name, set)| (name.to_owned(), set))
        .collect();
    sets.into()
}

fn with(key: Key, change: impl FnOnce(&mut Value)) -> Value {
    let mut jwk = key.jwk();
    change(&mut jwk);
    jwk
}

fn beside_unusable(change: impl FnOnce(&mut Value)) -> Value {
    json!({"keys": [with(UNUSABLE, change), CURRENT.jwk()]})
}

/// Returns one usable key, and further keys that every package must ignore.
fn foreign_keys() -> [Value; 6] {
    [
        json!({"kty": "oct", "kid": "secret", "alg": "HS256", "k": base64url_encode(b"a secret that everybody knows...")}),
        json!({"kty": "XYZ", "kid": "unknown-type", "x": 1}),
        json!({"kty": "OKP", "crv": "Ed448", "kid": "ed448", "x": base64url_encode(&[7; 57])}),
        with(UNUSABLE, |jwk| {
            jwk["kid"] = json!("short-coordinate");
            jwk["x"] = json!(base64url_encode(&UNUSABLE.public()[1..32]));
        }),
        json!({"kid": "without-type"}),
        CURRENT.jwk(),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = choice();
    cases.extend(unusable_keys());
    cases.extend(alterations());
    cases.extend(p256_signatures());
    cases.extend(ed25519_signatures());
    cases
}

fn choice() -> Vec<Case> {
    let rule = "key";
    let with_kid = |name: &str, key_id: &str| {
        case(rule, name)
            .header_member("kid", key_id)
            .refused("unknown-key")
    };
    vec![
        case(rule, "before a rotation, the current key")
            .key_set("before_rotation")
            .accepted(),
        case(rule, "before a rotation, the next key")
            .key_set("before_rotation")
            .signer(NEXT)
            .accepted(),
        case(rule, "after a rotation, the new key")
            .key_set("after_rotation")
            .signer(NEXT)
            .accepted(),
        case(rule, "after a rotation, the removed key")
            .key_set("after_rotation")
            .refused("unknown-key"),
        case(rule, "a key that is listed twice")
            .key_set("listed_twice")
            .accepted(),
        case(rule, "a key beside two that share a `kid`")
            .key_set("one_name_for_two")
            .accepted(),
        case(rule, "the first of two keys that share a `kid`")
            .key_set("one_name_for_two")
            .signer(NEXT)
            .header_member("kid", SHARED_KEY_ID)
            .refused("unknown-key"),
        case(rule, "the second of two keys that share a `kid`")
            .key_set("one_name_for_two")
            .signer(STRANGER)
            .header_member("kid", SHARED_KEY_ID)
            .refused("unknown-key"),
        case(rule, "a stranger's key")
            .signer(STRANGER)
            .refused("unknown-key"),
        case(rule, "an Ed25519 key that is in another set")
            .signer(EDWARDS)
            .refused("unknown-key"),
        with_kid("an unknown `kid`", "x"),
        with_kid("the `kid` in lower case", &CURRENT.key_id().to_lowercase()),
        with_kid("the `kid` with padding", &format!("{}=", CURRENT.key_id())),
        with_kid("the `kid` with a space", &format!("{} ", CURRENT.key_id())),
        with_kid("the beginning of the `kid`", &CURRENT.key_id()[..42]),
        with_kid("a path as `kid`", "../../../../dev/null"),
    ]
}

fn unusable_keys() -> Vec<Case> {
    let rule = "key";
    let unusable = |name: &str, set: &str| {
        case(rule, name)
            .key_set(set)
            .signer(UNUSABLE)
            .refused("unknown-key")
    };
    vec![
        case(rule, "a key beside keys of unknown types")
            .key_set("foreign_keys")
            .accepted(),
        case(rule, "the `kid` of a symmetric key in the set")
            .key_set("foreign_keys")
            .header_member("kid", "secret")
            .refused("unknown-key"),
        case(rule, "the `kid` of a key with a short coordinate")
            .key_set("foreign_keys")
            .signer(UNUSABLE)
            .header_member("kid", "short-coordinate")
            .refused("unknown-key"),
        case(rule, "a key beside one for encryption")
            .key_set("for_encryption")
            .accepted(),
        unusable("a key for encryption", "for_encryption"),
        unusable(
            "a key whose operations do not include `verify`",
            "for_signing",
        ),
        unusable("a P-256 key for another algorithm", "for_another_algorithm"),
    ]
}

/// Splits a token into the signing input and the signature.
fn split(token: &str) -> (&str, &str) {
    token.rsplit_once('.').unwrap()
}

fn alterations() -> Vec<Case> {
    let rule = "signature";
    let header = text(&CURRENT.header());
    let good = CURRENT.token(header.as_bytes(), claims_text().as_bytes());
    let (_, signature) = split(&good);
    let altered = |name: &str, header: &str, payload: &str| {
        let token = CURRENT.token(header.as_bytes(), payload.as_bytes());
        case(rule, name)
            .assertions([format!("{}.{signature}", split(&token).0)])
            .refused("signature")
    };
    let elsewhere = claims_text().replace("checkout\"", "billing\"");
    vec![
        altered(
            "another caller, with the old signature",
            &header,
            &elsewhere,
        ),
        altered(
            "a later `exp`, with the old signature",
            &header,
            &claims_text().replace("1770000030", "1770000031"),
        ),
        altered(
            "a space after the payload, with the old signature",
            &header,
            &format!("{} ", claims_text()),
        ),
        altered(
            "another member in the header, with the old signature",
            &header.replacen('{', r#"{"x":"y","#, 1),
            &claims_text(),
        ),
        case(rule, "a stranger's signature with the gateway's `kid`")
            .signer(STRANGER)
            .header_member("kid", CURRENT.key_id())
            .refused("signature"),
        case(
            rule,
            "the next key's signature with the current key's `kid`",
        )
        .key_set("before_rotation")
        .signer(NEXT)
        .header_member("kid", CURRENT.key_id())
        .refused("signature"),
        case(rule, "the signature of another assertion")
            .claims(|claims| claims["jti"] = json!("AAAAAAAAAAAAAAAAAAAAAA"))
            .token(|token| format!("{}.{signature}", split(token).0))
            .refused("signature"),
        case(rule, "a signature of the payload alone")
            .token(|token| {
                let payload = token.split('.').nth(1).unwrap();
                let signature = base64url_encode(&CURRENT.sign(payload));
                format!("{}.{signature}", split(token).0)
            })
            .refused("signature"),
    ]
}

fn p256_signatures() -> Vec<Case> {
    let changed = |name: &str, change: fn(Vec<u8>) -> Vec<u8>| {
        case("signature", format!("ES256: {name}"))
            .signature(change)
            .refused("signature")
    };
    vec![
        changed("the first bit is changed", |mut octets| {
            octets[0] ^= 0x80;
            octets
        }),
        changed("the last bit is changed", |mut octets| {
            octets[63] ^= 1;
            octets
        }),
        changed("63 bytes", |mut octets| {
            octets.pop();
            octets
        }),
        changed("65 bytes", |mut octets| {
            octets.push(0);
            octets
        }),
        changed("65 bytes, with a leading zero", |mut octets| {
            octets.insert(0, 0);
            octets
        }),
        changed("twice the signature", |octets| octets.repeat(2)),
        changed("one byte", |_| vec![1]),
        changed("64 zero bytes", |_| vec![0; 64]),
        changed("r is zero", |octets| [&[0; 32][..], &octets[32..]].concat()),
        changed("s is zero", |octets| [&octets[..32], &[0; 32]].concat()),
        changed("r and s are 1", |_| {
            let mut one = [0; 32];
            one[31] = 1;
            one.repeat(2)
        }),
        changed("r and s are the order of the group", |_| {
            octets(P256_ORDER).repeat(2)
        }),
        changed("r and s are exchanged", |octets| {
            [&octets[32..], &octets[..32]].concat()
        }),
        changed("in DER", |octets| der(&octets)),
    ]
}

/// Encodes the signature in DER: `SEQUENCE { r INTEGER, s INTEGER }`.
fn der(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(32);
    let content: Vec<u8> = [r, s]
        .into_iter()
        .flat_map(|number| {
            let mut number = number.to_vec();
            while number.len() > 1 && number[0] == 0 {
                number.remove(0);
            }
            if number[0] >= 0x80 {
                number.insert(0, 0);
            }
            [&[2, u8::try_from(number.len()).unwrap()][..], &number].concat()
        })
        .collect();
    [&[0x30, u8::try_from(content.len()).unwrap()], &content[..]].concat()
}

fn ed25519_signatures() -> Vec<Case> {
    let changed = |name: &str, change: fn(Vec<u8>) -> Vec<u8>| {
        case("signature", format!("EdDSA: {name}"))
            .key_set("both")
            .signer(EDWARDS)
            .signature(change)
            .refused("signature")
    };
    vec![
        changed("the first bit is changed", |mut octets| {
            octets[0] ^= 1;
            octets
        }),
        changed("a bit of the second half is changed", |mut octets| {
            octets[40] ^= 1;
            octets
        }),
        changed("63 bytes", |mut octets| {
            octets.pop();
            octets
        }),
        changed("65 bytes", |mut octets| {
            octets.push(0);
            octets
        }),
        changed("64 zero bytes", |_| vec![0; 64]),
        changed(
            "the second half is too large by the order of the group",
            |mut signature| {
                let mut carry = 0;
                for (digit, order) in signature[32..].iter_mut().zip(octets(EDWARDS_ORDER)) {
                    let sum = u16::from(*digit) + u16::from(order) + carry;
                    *digit = (sum & 0xff) as u8;
                    carry = sum >> 8;
                }
                assert_eq!(carry, 0);
                signature
            },
        ),
    ]
}
