//! Property tests: rules that must hold for all inputs, tested with random inputs.

use countersign_verify::RequestParts;
use countersign_verify::jose::{base64url_decode, base64url_encode, parse_object};
use proptest::prelude::*;

use crate::support::{
    NOW, SigningKey, TestClock, builder_with_clock, key_set, request, request_claims, verifier,
    with,
};

proptest! {
    #[test]
    fn base64url_has_one_text_for_each_byte_string(bytes: Vec<u8>, text in "[A-Za-z0-9_=+/ -]{0,12}") {
        let encoded = base64url_encode(&bytes);
        prop_assert_eq!(base64url_decode(&encoded, "x").unwrap(), bytes);
        if let Ok(decoded) = base64url_decode(&text, "x") {
            prop_assert_eq!(base64url_encode(&decoded), text);
        }
    }

    #[test]
    fn duplicate_members_are_found_at_every_depth(
        depth in 0_usize..20,
        names in prop::collection::hash_set("[a-z]{1,4}", 1..6),
        repeat in any::<bool>(),
        position in any::<prop::sample::Index>(),
    ) {
        let mut names: Vec<String> = names.into_iter().collect();
        if repeat {
            names.push(names[position.index(names.len())].clone());
        }
        let members: Vec<String> = names.iter().map(|name| format!("\"{name}\":1")).collect();
        let mut text = format!("{{{}}}", members.join(","));
        for level in 0..depth {
            text = if level % 2 == 0 { format!("[0,{text}]") } else { format!("{{\"x\":{text}}}") };
        }
        let text = format!("{{\"x\":{text}}}");
        prop_assert_eq!(parse_object(text.as_bytes(), "x").is_err(), repeat);
    }

    #[test]
    fn targets_split_at_the_first_question_mark(path in "/[!-~&&[^?#]]{0,20}", query in prop::option::of("[!-~&&[^#]]{0,20}")) {
        let target = match &query {
            Some(query) => format!("{path}?{query}"),
            None => path.clone(),
        };
        let parts = RequestParts::new("GET", "h", &target).unwrap();
        prop_assert_eq!(parts.path(), path);
        prop_assert_eq!(parts.query(), query.as_deref());
    }

    #[test]
    fn an_assertion_counts_once_whatever_the_clock_does(
        lifetimes in prop::collection::vec(1_u64..=120, 4),
        steps in prop::collection::vec((-90_i64..=90, 0_usize..4), 1..40),
    ) {
        let (key, clock) = (SigningKey::ed_dsa(), TestClock::new());
        let verifier = builder_with_clock(&clock)
            .jwks(key_set(&[&key]))
            .replay_cache(8)
            .build()
            .unwrap();
        let tokens: Vec<String> = lifetimes
            .iter()
            .enumerate()
            .map(|(number, lifetime)| {
                let claims = with(request_claims(), "jti", number.to_string());
                key.assertion(&with(claims, "exp", NOW + lifetime))
            })
            .collect();
        let mut accepted = [0; 4];
        for (seconds, number) in steps {
            if seconds < 0 {
                clock.set_back(seconds.unsigned_abs());
            } else {
                clock.advance(seconds.unsigned_abs());
            }
            if verifier.verify(&tokens[number], &request()).is_ok() {
                accepted[number] += 1;
            }
        }
        prop_assert!(accepted.iter().all(|count| *count <= 1), "{:?}", accepted);
    }

    #[test]
    fn parsing_never_panics(text in ".{0,200}", octets: Vec<u8>) {
        let key = SigningKey::ed_dsa();
        prop_assert!(verifier(&key).verify(&text, &request()).is_err());
        let _ = parse_object(&octets, "x");
        let _ = countersign_verify::jose::JwkSet::from_json(&octets);
    }
}

#[test]
fn no_single_altered_character_verifies() {
    for key in [SigningKey::es256(), SigningKey::ed_dsa()] {
        let verifier = verifier(&key);
        let token = key.assertion(&request_claims());
        assert!(verifier.verify(&token, &request()).is_ok());
        for position in 0..token.len() {
            for other in *b"A_z." {
                let mut altered = token.clone().into_bytes();
                if altered[position] == other {
                    continue;
                }
                altered[position] = other;
                let altered = String::from_utf8(altered).unwrap();
                assert!(
                    verifier.verify(&altered, &request()).is_err(),
                    "{position} {other}"
                );
            }
            let shortened = &token[..position];
            assert!(
                verifier.verify(shortened, &request()).is_err(),
                "{position}"
            );
        }
    }
}

#[test]
fn one_keys_assertions_are_not_anothers() {
    let (one, two) = (SigningKey::es256(), SigningKey::es256());
    let keys = key_set(&[&one, &two]);
    let mut header = two.header();
    header["kid"] = one.header()["kid"].clone();
    let token = two.sign(&header, "payload");
    assert!(countersign_verify::jose::verify_signature(&token, &keys).is_err());
    let token = two.sign(&two.header(), "payload");
    assert_eq!(
        countersign_verify::jose::verify_signature(&token, &keys).unwrap(),
        b"payload"
    );
}
