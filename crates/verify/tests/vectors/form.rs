//! Cases about the header field, and about the three parts of a compact JWS and their base64url
//! encoding.

use countersign_verify::claims::MAX_ASSERTION_BYTES;
use countersign_verify::jose::base64url_encode;

use super::case::{Case, case, claims_text, text};
use super::key::{CURRENT, EDWARDS};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = field();
    cases.extend(parts());
    cases.extend(lengths());
    cases.extend(encoding());
    cases.extend(trailing_bits());
    cases
}

/// Returns the assertion of a case that changes nothing.
fn good() -> String {
    CURRENT.token(text(&CURRENT.header()).as_bytes(), claims_text().as_bytes())
}

/// Returns cases about the rule that the request has one field line with one compact JWS.
fn field() -> Vec<Case> {
    let rule = "one-field";
    let none: [&str; 0] = [];
    let good = good();
    let malformed =
        |name: &str, value: String| case(rule, name).assertions([value]).refused("malformed");
    vec![
        case(rule, "one field line, ES256").accepted(),
        case(rule, "one field line, EdDSA")
            .key_set("both")
            .signer(EDWARDS)
            .accepted(),
        case(rule, "no field line")
            .assertions(none)
            .refused("missing"),
        case(rule, "the same assertion in two field lines")
            .assertions([&*good, &*good])
            .refused("duplicate"),
        case(rule, "two different assertions in two field lines")
            .assertions([
                good.clone(),
                CURRENT.token(
                    text(&CURRENT.header()).as_bytes(),
                    claims_text().replace("checkout", "billing").as_bytes(),
                ),
            ])
            .refused("duplicate"),
        case(rule, "an assertion, then a field line with another text")
            .assertions([&*good, "x"])
            .refused("duplicate"),
        case(rule, "an empty field line, then an assertion")
            .assertions(["", &*good])
            .refused("duplicate"),
        malformed("an empty field line", String::new()),
        malformed("two assertions in one field line", format!("{good},{good}")),
        malformed(
            "two assertions in one field line, with a space",
            format!("{good}, {good}"),
        ),
        malformed("an assertion and a comma", format!("{good},")),
        malformed("an assertion after `Bearer`", format!("Bearer {good}")),
        malformed("an assertion in quotation marks", format!("\"{good}\"")),
        malformed("a letter outside ASCII at the end", format!("{good}é")),
        malformed("a letter outside ASCII in the header", format!("é{good}")),
    ]
}

fn parts() -> Vec<Case> {
    let rule = "form";
    let good = good();
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        panic!("three parts");
    };
    let flattened =
        format!(r#"{{"protected":"{header}","payload":"{payload}","signature":"{signature}"}}"#);
    [
        ("one part", (*payload).to_owned()),
        ("two parts", format!("{header}.{payload}")),
        ("four parts", format!("{good}.{signature}")),
        (
            "five parts, as a JWE has",
            format!("{header}.{payload}.{signature}.{payload}.{signature}"),
        ),
        ("a dot at the end", format!("{good}.")),
        ("a dot at the beginning", format!(".{good}")),
        ("two dots only", "..".to_owned()),
        ("an empty header", format!(".{payload}.{signature}")),
        ("an empty signature", format!("{header}.{payload}.")),
        ("a detached payload", format!("{header}..")),
        ("the JSON serialization", flattened),
    ]
    .into_iter()
    .map(|(name, value)| case(rule, name).assertions([value]).refused("malformed"))
    .collect()
}

/// Returns the lengths of two unknown members, one in the header and one in the payload. With these
/// members, the assertion has `length` characters. Two members are needed, because one base64url
/// part cannot have every length.
fn padding_for(length: usize) -> (usize, usize) {
    let encoded = |length: usize| (length * 4).div_ceil(3);
    let header = text(&CURRENT.header()).len() + r#","x":"""#.len();
    let payload = claims_text().len() + r#""x":"","#.len();
    (0..3)
        .flat_map(|in_header| {
            (0..2 * MAX_ASSERTION_BYTES).map(move |in_payload| (in_header, in_payload))
        })
        .find(|(in_header, in_payload)| {
            encoded(header + in_header) + encoded(payload + in_payload) + 86 + 2 == length
        })
        .unwrap()
}

fn lengths() -> Vec<Case> {
    let of_length = |name: &str, length: usize| {
        let (in_header, in_payload) = padding_for(length);
        case("form", name)
            .header_member("x", "x".repeat(in_header))
            .first_members(&format!(r#""x":"{}""#, "x".repeat(in_payload)))
            .token(|token| {
                assert_eq!(token.len(), length);
                token.to_owned()
            })
    };
    vec![
        of_length("4097 characters", 4097).accepted(),
        of_length("8192 characters", 8192).accepted(),
        of_length("8193 characters", 8193).refused("malformed"),
        of_length("16384 characters", 16384).refused("malformed"),
    ]
}

fn encoding() -> Vec<Case> {
    let rule = "base64url";
    let header = base64url_encode(text(&CURRENT.header()).as_bytes());
    // In base64url, this text contains `-` and `_`, which the other base64 alphabet does not have.
    let payload_text = claims_text().replacen('{', r#"{"x":"???>>>???>>>~~~ ???>>>",  "#, 1);
    let payload = base64url_encode(payload_text.as_bytes());
    assert!(payload.contains('_') && (payload.contains('-')));
    let signed = |name: &str, header: &str, payload: &str| {
        case(rule, name)
            .assertions([CURRENT.token_of_parts(header, payload)])
            .refused("malformed")
    };
    let changed = |name: &str, change: fn(&str) -> String| {
        case(rule, name).token(change).refused("malformed")
    };
    // No base64url encoding has a length of 4n + 1 characters.
    let of_impossible_length =
        |part: &str| format!("{part}{}", "A".repeat((5 - part.len() % 4) % 4));
    vec![
        case(rule, "`-` and `_` in the payload")
            .payload(payload_text.clone())
            .accepted(),
        signed(
            "`/` instead of `_` in the payload",
            &header,
            &payload.replace('_', "/"),
        ),
        signed(
            "`+` instead of `-` in the payload",
            &header,
            &payload.replace('-', "+"),
        ),
        changed("`+` and `/` in the signature", |token| {
            let (input, signature) = token.rsplit_once('.').unwrap();
            assert!(signature.contains(['-', '_']));
            format!("{input}.{}", signature.replace('-', "+").replace('_', "/"))
        }),
        signed("padding after the header", &format!("{header}="), &payload),
        signed(
            "padding after the payload",
            &header,
            &format!("{payload}=="),
        ),
        changed("padding after the signature", |token| format!("{token}==")),
        changed("one padding character after the signature", |token| {
            format!("{token}=")
        }),
        signed(
            "a header of an impossible length",
            &of_impossible_length(&header),
            &payload,
        ),
        signed(
            "a payload of an impossible length",
            &header,
            &of_impossible_length(&payload),
        ),
        changed("a signature of an impossible length", |token| {
            format!("{token}AAA")
        }),
        signed(
            "a line feed in the payload",
            &header,
            &format!("{}\n{}", &payload[..76], &payload[76..]),
        ),
        signed("a space in the payload", &header, &format!("{payload} ")),
        signed("a space before the header", &format!(" {header}"), &payload),
        changed("a space after the signature", |token| format!("{token} ")),
        changed("a line feed after the signature", |token| {
            format!("{token}\n")
        }),
        changed("a percent-encoded dot", |token| token.replace('.', "%2E")),
        signed("a NUL in the payload", &header, &format!("{payload}\0")),
    ]
}

/// Returns cases about the unused bits of the last character. These bits must be zero, so that each
/// byte string has exactly one encoding.
fn trailing_bits() -> Vec<Case> {
    let rule = "base64url";
    // Spaces are added until the last character has unused bits.
    let mut header = text(&CURRENT.header());
    while header.len().is_multiple_of(3) {
        header.push(' ');
    }
    let mut payload = claims_text();
    while payload.len().is_multiple_of(3) {
        payload.push(' ');
    }
    let header = base64url_encode(header.as_bytes());
    let payload = base64url_encode(payload.as_bytes());
    let signed = |header: &str, payload: &str| CURRENT.token_of_parts(header, payload);
    vec![
        case(rule, "unused bits that are zero in all parts")
            .assertions([signed(&header, &payload)])
            .accepted(),
        case(rule, "unused bits that are not zero in the header")
            .assertions([signed(&with_trailing_bit(&header), &payload)])
            .refused("malformed"),
        case(rule, "unused bits that are not zero in the payload")
            .assertions([signed(&header, &with_trailing_bit(&payload))])
            .refused("malformed"),
        case(rule, "unused bits that are not zero in the signature")
            .assertions([with_trailing_bit(&signed(&header, &payload))])
            .refused("malformed"),
    ]
}

/// Sets the lowest bit of the last character.
fn with_trailing_bit(encoded: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = encoded.split_at(encoded.len() - 1);
    let value = ALPHABET.find(last).unwrap();
    assert_eq!(value % 4, 0, "the character has no unused bits");
    format!("{rest}{}", &ALPHABET[value + 1..value + 2])
}
