//! Published test vectors, and tests that the parsers are strict.

use serde_json::json;

use super::{
    CompactJws, Header, JoseError, Jwk, JwkSet, NumericDate, base64url_decode, base64url_encode,
    parse_object, signing_input, thumbprint, verify_signature, x5t_s256,
};
use crate::claims::hash;

/// The public key of RFC 8037 appendix A.2.
const ED25519_KEY: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

/// The token of RFC 8037 appendix A.4.
const ED25519_TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

/// The key of RFC 7515 appendix A.3. [`P256_TOKEN`] is the token of the same appendix.
const P256_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

const P256_TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

/// The payload of RFC 7515 appendices A.1 to A.3, in base64url.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn key(text: &str) -> Jwk {
    Jwk::from_json(text.as_bytes()).unwrap()
}

fn key_error(text: &str) -> JoseError {
    Jwk::from_json(text.as_bytes()).unwrap_err()
}

fn set(keys: &[&str]) -> JwkSet {
    JwkSet::from_json(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).unwrap()
}

fn header_error(text: &str) -> JoseError {
    Header::parse(text.as_bytes()).unwrap_err()
}

#[test]
fn published_signatures_verify() {
    assert_eq!(
        verify_signature(ED25519_TOKEN, &set(&[ED25519_KEY])).unwrap(),
        b"Example of Ed25519 signing"
    );
    let payload = verify_signature(P256_TOKEN, &set(&[P256_KEY])).unwrap();
    assert_eq!(parse_object(&payload, "payload").unwrap()["iss"], "joe");
    assert_eq!(
        verify_signature(P256_TOKEN, &set(&[ED25519_KEY])).unwrap_err(),
        JoseError::AlgorithmMismatch
    );
}

#[cfg(feature = "all-algorithms")]
mod rsa {
    use super::*;

    /// The key of RFC 7515 appendix A.2. [`SIGNATURE`] is the signature of the same appendix.
    const KEY: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;

    const SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

    #[test]
    fn the_published_signature_verifies() {
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{SIGNATURE}");
        assert!(verify_signature(&token, &set(&[KEY])).is_ok());
        // The same signature is refused if `alg` names a PSS scheme.
        let header = base64url_encode(br#"{"alg":"PS256"}"#);
        let token = format!("{header}.{JOE}.{SIGNATURE}");
        assert_eq!(
            verify_signature(&token, &set(&[KEY])).unwrap_err(),
            JoseError::Signature
        );
    }

    #[test]
    fn the_published_thumbprint_is_made() {
        // The key and thumbprint of RFC 7638 section 3.1.
        let key = key(
            r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#,
        );
        assert_eq!(
            thumbprint(&key),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    #[test]
    fn weak_keys_are_refused() {
        let with = |n: &[u8], e: &[u8]| {
            key_error(
                &json!({"kty": "RSA", "n": base64url_encode(n), "e": base64url_encode(e)})
                    .to_string(),
            )
        };
        let odd = |bytes: usize| {
            let mut n = vec![0xff; bytes];
            n[1] = 0x12;
            n
        };
        assert_eq!(with(&odd(255), &[1, 0, 1]), JoseError::WeakKey);
        assert_eq!(with(&odd(1025), &[1, 0, 1]), JoseError::WeakKey);
        for exponent in [&[1][..], &[2], &[1, 0, 0], &[0, 1, 0, 1], &[], &[255; 6]] {
            assert_eq!(
                with(&odd(256), exponent),
                JoseError::WeakKey,
                "{exponent:?}"
            );
        }
        let padded: Vec<u8> = [0].into_iter().chain(odd(256)).collect();
        assert_eq!(with(&padded, &[1, 0, 1]), JoseError::WeakKey);
    }
}

#[test]
fn published_thumbprints_are_made() {
    // The thumbprints of RFC 8037 appendix A.3 and RFC 9449 section 6.1.
    assert_eq!(
        thumbprint(&key(ED25519_KEY)),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
    let dpop = r#"{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}"#;
    assert_eq!(
        thumbprint(&key(dpop)),
        "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    );
    // RFC 9449 section 7.1: `ath` is computed like `htq` and `htb`.
    assert_eq!(
        hash(b"Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"),
        "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"
    );
}

#[test]
fn published_certificate_thumbprints_are_made() {
    use base64ct::{Base64, Encoding};
    // The certificate of RFC 8705 appendix A.
    let certificate = Base64::decode_vec("MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAxODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwIDSQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOVbUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=").unwrap();
    assert_eq!(
        x5t_s256(&certificate),
        "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
    );
    // The certificate of RFC 9440 appendix A.
    let certificate = Base64::decode_vec("MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVkaWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8YnXXfaUgmnMtOXU/IncWalRhebrXmckC8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNVHSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYmRjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5XarmPk0wmuydBVoU4hBVZ1yhk=").unwrap();
    assert_eq!(
        x5t_s256(&certificate),
        "v68ffgcPn6jdYpBfFY2nP4ShE2Yk-6_Mk5PI9yh6aes"
    );
}

#[test]
fn unsigned_and_symmetric_tokens_are_refused() {
    for algorithm in [
        "none", "NONE", "nOnE", "HS256", "HS512", "ES512", "ES256K", "",
    ] {
        let header = base64url_encode(json!({"alg": algorithm}).to_string().as_bytes());
        let token = format!("{header}.{JOE}.AAAA");
        assert_eq!(
            CompactJws::parse(&token, 4096).unwrap_err(),
            JoseError::UnsupportedAlgorithm,
            "{algorithm}"
        );
    }
}

/// The complete tokens of RFC 7515 appendices A.1, A.4 and A.5 are well-formed, but this
/// crate does not accept their algorithms.
#[test]
fn published_tokens_that_are_not_for_us_are_refused() {
    let hs256 = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
    let hs256 = format!("{hs256}.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    let es512 = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    for (token, error) in [
        (&*hs256, JoseError::UnsupportedAlgorithm),
        (es512, JoseError::UnsupportedAlgorithm),
        (
            &*format!("eyJhbGciOiJub25lIn0.{JOE}."),
            JoseError::NotCompact,
        ),
        (
            &*format!("eyJhbGciOiJub25lIn0.{JOE}.AAAA"),
            JoseError::UnsupportedAlgorithm,
        ),
    ] {
        let keys = set(&[P256_KEY, ED25519_KEY]);
        assert_eq!(
            verify_signature(token, &keys).unwrap_err(),
            error,
            "{token}"
        );
    }
    // The key of appendix A.1 is symmetric, and the key of appendix A.4 is on P-521. A key set
    // ignores both.
    let p521 = r#"{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}"#;
    let symmetric = json!({"kty": "oct", "k": base64url_encode(&[7; 64])}).to_string();
    let keys = set(&[p521, &symmetric, P256_KEY]);
    assert_eq!(keys.keys().len(), 1);
}

#[test]
fn only_three_full_parts_are_a_token() {
    for token in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.",
        ".b.c",
        "a.b.c.d",
        "eyJhbGciOiJFZERTQSJ9..",
        "{\"payload\":\"Zm9v\"}",
    ] {
        assert_eq!(
            CompactJws::parse(token, 4096).unwrap_err(),
            JoseError::NotCompact,
            "{token}"
        );
    }
    assert_eq!(
        CompactJws::parse(ED25519_TOKEN, ED25519_TOKEN.len() - 1).unwrap_err(),
        JoseError::TooLarge {
            limit: ED25519_TOKEN.len() - 1
        }
    );
    assert!(CompactJws::parse(ED25519_TOKEN, ED25519_TOKEN.len()).is_ok());
}

#[test]
fn only_canonical_base64url_is_decoded() {
    assert_eq!(base64url_decode("", "x").unwrap(), b"");
    assert_eq!(base64url_decode("_-8", "x").unwrap(), [0xff, 0xef]);
    for bad in [
        "Zg==", "Zg=", "Zh", "Zm9v ", " Zm9v", "Zm9v\n", "Z m9v", "Zm9", "A", "Zm9vY", "/+8",
        "Zm9ü", "Zm.v", "Zm9vZg\0",
    ] {
        if bad == "Zm9" {
            // "Zm9" has a valid length, because two bytes need three characters. But its
            // trailing bits are not zero, unlike those of "Zm8".
            assert!(base64url_decode("Zm8", "x").is_ok());
        }
        assert_eq!(
            base64url_decode(bad, "x"),
            Err(JoseError::Base64Url { part: "x" }),
            "{bad:?}"
        );
    }
}

#[test]
fn headers_are_strict() {
    assert!(Header::parse(br#"{"alg":"ES256","kid":"a","typ":"b","cty":7}"#).is_ok());
    assert_eq!(
        header_error(r#"{"alg":"ES256","crit":["exp"],"exp":1}"#),
        JoseError::CriticalHeader
    );
    assert_eq!(
        header_error(r#"{"alg":"ES256","crit":[]}"#),
        JoseError::CriticalHeader
    );
    assert_eq!(
        header_error(r#"{"alg":"ES256","b64":true}"#),
        JoseError::CriticalHeader
    );
    assert_eq!(
        header_error(r#"{"alg":"none","\u0061lg":"ES256"}"#),
        JoseError::DuplicateMember { part: "header" }
    );
    assert_eq!(
        header_error(r#"{"alg":"ES256","x":[{"a":{"b":1,"b":1}}]}"#),
        JoseError::DuplicateMember { part: "header" }
    );
    for (text, member) in [
        (r#"{"kid":"a"}"#, "alg"),
        (r#"{"alg":["ES256"]}"#, "alg"),
        (r#"{"alg":"ES256","kid":1}"#, "kid"),
        (r#"{"alg":"ES256","typ":null}"#, "typ"),
    ] {
        assert_eq!(header_error(text), JoseError::Member { member }, "{text}");
    }
    for text in [
        "",
        "{",
        "{}{}",
        "{'alg':'ES256'}",
        "{\"alg\":\"\u{1}\"}",
        "\u{feff}{}",
    ] {
        assert_eq!(
            header_error(text),
            JoseError::NotJson { part: "header" },
            "{text:?}"
        );
    }
    for text in ["[]", "1", "null", "\"alg\""] {
        assert_eq!(
            header_error(text),
            JoseError::NotObject { part: "header" },
            "{text:?}"
        );
    }
    assert_eq!(
        Header::parse(b"{\"alg\":\"\xff\"}").unwrap_err(),
        JoseError::NotJson { part: "header" }
    );
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(header_error(&deep), JoseError::NotJson { part: "header" });
}

#[test]
fn ed25519_has_two_names_and_no_other_key() {
    for name in ["EdDSA", "Ed25519"] {
        let header = Header::parse(json!({"alg": name}).to_string().as_bytes()).unwrap();
        assert!(key(ED25519_KEY).permits(header.algorithm()));
        assert!(!key(P256_KEY).permits(header.algorithm()));
    }
    assert!(Header::parse(br#"{"alg":"Ed448"}"#).is_err());
}

#[test]
fn keys_say_what_they_are_for() {
    let with = |more: &str| P256_KEY.replace(r#""EC","#, &format!(r#""EC",{more},"#));
    for good in [
        r#""alg":"ES256""#,
        r#""use":"sig""#,
        r#""key_ops":["verify"]"#,
        r#""key_ops":["sign","verify"],"use":"sig""#,
        r#""x5c":["not looked at"],"ext":true"#,
    ] {
        assert!(Jwk::from_json(with(good).as_bytes()).is_ok(), "{good}");
    }
    for bad in [
        r#""alg":"ES384""#,
        r#""alg":"EdDSA""#,
        r#""alg":"ES521""#,
        r#""alg":"none""#,
        r#""use":"enc""#,
        r#""use":"""#,
        r#""key_ops":["encrypt"]"#,
        r#""key_ops":[]"#,
        r#""use":"sig","key_ops":["deriveKey"]"#,
    ] {
        assert_eq!(key_error(&with(bad)), JoseError::UnsupportedKey, "{bad}");
    }
    for (bad, member) in [
        (r#""use":1"#, "use"),
        (r#""key_ops":"verify""#, "key_ops"),
        (r#""key_ops":[1]"#, "key_ops"),
        (r#""kid":7"#, "kid"),
        (r#""alg":null"#, "alg"),
    ] {
        assert_eq!(key_error(&with(bad)), JoseError::Member { member }, "{bad}");
    }
    assert_eq!(key_error(&with(r#""d":"AAAA""#)), JoseError::PrivateKey);
    assert_eq!(
        key_error(r#"{"kty":"oct","k":"AAAA"}"#),
        JoseError::SymmetricKey
    );
    assert_eq!(key_error(&with(r#""k":"AAAA""#)), JoseError::SymmetricKey);
    assert_eq!(
        key_error(r#"{"kty":"OKP","crv":"X25519","x":"AAAA"}"#),
        JoseError::UnsupportedKey
    );
    assert_eq!(
        key_error(r#"{"kty":"AKP","alg":"ML-DSA-44"}"#),
        JoseError::UnsupportedKey
    );
}

#[test]
fn coordinates_have_their_full_length() {
    let short = P256_KEY.replace("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "f83O");
    assert_eq!(key_error(&short), JoseError::Member { member: "x" });
    let short = ED25519_KEY.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "11qY");
    assert_eq!(key_error(&short), JoseError::Member { member: "x" });
    let missing = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}"#;
    assert_eq!(key_error(missing), JoseError::Member { member: "y" });
    let padded = P256_KEY.replace("HvRVEU", "HvRVEU=");
    assert_eq!(key_error(&padded), JoseError::Base64Url { part: "x" });
}

#[test]
fn sets_leave_out_what_they_cannot_use() {
    let keys = set(&[
        r#"{"kty":"oct","k":"AAAA","kid":"a"}"#,
        r#"{"kty":"EC","crv":"P-521","x":"AAAA","y":"AAAA"}"#,
        r#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}"#,
        P256_KEY,
        P256_KEY,
        r#"{}"#,
    ]);
    assert_eq!(keys.keys(), [key(P256_KEY)]);
    assert_eq!(
        keys.refused(),
        [
            JoseError::SymmetricKey,
            JoseError::UnsupportedKey,
            JoseError::Member { member: "x" },
            JoseError::Member { member: "kty" },
        ]
    );
    let read = |text: &str| JwkSet::from_json(text.as_bytes()).unwrap_err();
    assert_eq!(read("{}"), JoseError::Member { member: "keys" });
    assert_eq!(read(r#"{"keys":{}}"#), JoseError::Member { member: "keys" });
    assert_eq!(
        read(r#"{"keys":[1]}"#),
        JoseError::Member { member: "keys" }
    );
    assert_eq!(read("[]"), JoseError::NotObject { part: "key set" });
    assert_eq!(read("<html>"), JoseError::NotJson { part: "key set" });
    assert_eq!(
        read(r#"{"keys":[{"kty":"EC","kty":"RSA"}]}"#),
        JoseError::DuplicateMember { part: "key set" }
    );
    let many = vec!["{}"; 129].join(",");
    assert_eq!(
        read(&format!(r#"{{"keys":[{many}]}}"#)),
        JoseError::TooManyKeys { limit: 128 }
    );
}

#[test]
fn the_key_identifier_decides() {
    let named = |text: &str, id: &str| text.replacen('{', &format!(r#"{{"kid":"{id}","#), 1);
    let (one, two) = (named(P256_KEY, "one"), named(ED25519_KEY, "two"));
    let keys = set(&[&one, &two]);
    let choose = |keys: &JwkSet, header: &str| {
        keys.key_for(&Header::parse(header.as_bytes()).unwrap())
            .cloned()
    };
    assert_eq!(
        choose(&keys, r#"{"alg":"ES256","kid":"one"}"#),
        Ok(key(&one))
    );
    assert_eq!(choose(&keys, r#"{"alg":"EdDSA"}"#), Ok(key(&two)));
    assert_eq!(
        choose(&keys, r#"{"alg":"ES256","kid":"two"}"#),
        Err(JoseError::AlgorithmMismatch)
    );
    assert_eq!(
        choose(&keys, r#"{"alg":"ES256","kid":"three"}"#),
        Err(JoseError::UnknownKey)
    );
    let unnamed = set(&[P256_KEY]);
    let by_thumbprint = json!({"alg": "ES256", "kid": thumbprint(&key(P256_KEY))}).to_string();
    assert_eq!(choose(&unnamed, &by_thumbprint), Ok(key(P256_KEY)));
    assert_eq!(choose(&keys, &by_thumbprint), Err(JoseError::UnknownKey));
    let other = named(
        &P256_KEY.replace(
            "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            &"A".repeat(43),
        ),
        "one",
    );
    let keys = set(&[&one, &other]);
    assert_eq!(
        choose(&keys, r#"{"alg":"ES256","kid":"one"}"#),
        Err(JoseError::AmbiguousKey)
    );
}

#[test]
fn keys_are_published_as_they_are_read() {
    for text in [P256_KEY, ED25519_KEY] {
        let key = key(text);
        let published = key.to_json();
        assert_eq!(published["use"], "sig");
        let again = Jwk::from_json(published.to_string().as_bytes()).unwrap();
        assert_eq!(thumbprint(&again), thumbprint(&key));
    }
    let octets: [u8; 32] = base64url_decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "x")
        .unwrap()
        .try_into()
        .unwrap();
    let key = Jwk::from_ed25519(&octets);
    assert_eq!(key.key_id(), Some(thumbprint(&key).as_str()));
    assert_eq!(key.to_json()["alg"], "EdDSA");
    let one: JwkSet = [key.clone()].into_iter().collect();
    assert_eq!(
        JwkSet::from_json(one.to_json().to_string().as_bytes()).unwrap(),
        one
    );
    assert!(Jwk::from_p256_point(&[4; 64]).is_err());
    assert!(Jwk::from_p256_point(&[2; 65]).is_err());
}

#[test]
fn numeric_dates_are_numbers_in_range() {
    let read = |text: &str| NumericDate::from_json(&serde_json::from_str(text).unwrap());
    assert_eq!(read("0").unwrap().floor(), 0);
    assert_eq!(read("1770000000").unwrap().ceil(), 1_770_000_000);
    let half = read("1770000000.5").unwrap();
    assert_eq!((half.floor(), half.ceil()), (1_770_000_000, 1_770_000_001));
    assert_eq!(read("1.77e9").unwrap().floor(), 1_770_000_000);
    for bad in [
        "-1",
        "1e300",
        "18446744073709551616",
        "1770000000000",
        "\"1770000000\"",
        "null",
        "true",
        "[1]",
    ] {
        assert_eq!(read(bad), Err(JoseError::NumericDate), "{bad}");
    }
}

#[test]
fn signing_input_is_what_is_signed() {
    assert_eq!(
        signing_input(r#"{"alg":"EdDSA"}"#, "Example of Ed25519 signing"),
        ED25519_TOKEN.rsplit_once('.').unwrap().0
    );
}
