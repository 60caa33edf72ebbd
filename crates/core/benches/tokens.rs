//! Measures the time that a token and a rate limit add to a request. The limits for these times
//! are:
//!
//! - a bound token that is in the cache: 3 µs
//! - a new ES256 token: 120 µs
//! - a rate limit: 0.5 µs

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark stops when its preparations fail"
)]

use std::time::Duration;

use countersign_core::authn::token::binding::CertificateBinding;
use countersign_core::authn::token::cache::CacheSettings;
use countersign_core::authn::token::claims::{ClaimRules, Demands};
use countersign_core::authn::token::issuer::{
    Introspection, Presenter, RouteDemands, TokenCheck, TokenIssuer,
};
use countersign_core::authn::token::jwks::IssuerKeys;
use countersign_core::authn::token::jwt::TokenRules;
use countersign_core::authn::token::token_type::TokenType;
use countersign_core::crypto::{SignatureScheme, SigningKeyPair};
use countersign_core::identity::ShareKey;
use countersign_core::policy::rate_limit::{RateLimit, RateTable};
use countersign_verify::jose::{Algorithm, Jwk, base64url_encode, signing_input};

const NOW: u64 = 1_770_000_000;
const THUMBPRINT: [u8; 32] = [7; 32];

fn presenter() -> Presenter<'static> {
    Presenter {
        caller: ShareKey::of_address([127, 0, 0, 1].into()),
        thumbprint: Some(&THUMBPRINT),
        now: NOW,
    }
}

fn main() {
    divan::main();
}

/// Returns an issuer with one key, a token of this issuer that is bound to [`THUMBPRINT`], and
/// the requirements of a route.
fn prepared() -> (TokenIssuer, String, RouteDemands) {
    let scheme = SignatureScheme::EcdsaP256Sha256;
    let document = SigningKeyPair::generate_pkcs8(scheme).unwrap();
    let pair = SigningKeyPair::from_pkcs8(scheme, document.expose()).unwrap();
    let public = Jwk::from_p256_point(pair.public_key()).unwrap();
    let header = format!(
        r#"{{"alg":"ES256","typ":"at+jwt","kid":"{}"}}"#,
        public.key_id().unwrap()
    );
    let payload = format!(
        r#"{{"iss":"https://idp.example.org","aud":"orders","sub":"alice","client_id":"app",
            "iat":{NOW},"exp":{},"jti":"01234567890123456789","scope":"orders:read orders:write",
            "cnf":{{"x5t#S256":"{}"}}}}"#,
        NOW + 3600,
        base64url_encode(&THUMBPRINT)
    );
    let input = signing_input(&header, &payload);
    let signature = base64url_encode(&pair.sign(input.as_bytes()).unwrap());
    let check = TokenCheck::Jwt {
        keys: IssuerKeys::fixed([public].into_iter().collect()),
        rules: TokenRules {
            claims: ClaimRules {
                issuer: "https://idp.example.org".to_owned(),
                audiences: vec!["orders".to_owned()],
                binding: CertificateBinding::Required,
                skew: 30,
                keep: Vec::new(),
            },
            algorithms: vec![Algorithm::Es256],
            types: vec![TokenType::AccessToken],
        },
        introspector: None,
    };
    let demands = Demands {
        audience: Some("orders".to_owned()),
        scopes: vec!["orders:read".to_owned()],
        claims: Vec::new(),
    };
    (
        TokenIssuer::new("corporate", check, CacheSettings::default()),
        format!("{input}.{signature}"),
        RouteDemands::new(demands, Introspection::AsNeeded),
    )
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[divan::bench]
fn remembered_bound_token(bencher: divan::Bencher<'_, '_>) {
    let (issuer, token, demands) = prepared();
    let runtime = runtime();
    let judge = || runtime.block_on(issuer.judge(&token, &demands, presenter()));
    judge().unwrap();
    bencher.bench_local(|| judge().unwrap());
}

#[divan::bench]
fn new_es256_token(bencher: divan::Bencher<'_, '_>) {
    let (issuer, token, demands) = prepared();
    let runtime = runtime();
    bencher.bench_local(|| {
        issuer.cache().purge();
        runtime
            .block_on(issuer.judge(&token, &demands, presenter()))
            .unwrap()
    });
}

#[divan::bench]
fn rate_limit_among_a_million_keys(bencher: divan::Bencher<'_, '_>) {
    let table = RateTable::new(1_000_000);
    let limit = RateLimit::new(1000, Duration::from_secs(1), 1000).unwrap();
    for key in 0..1_000_000_u32 {
        table.take(&key, &limit);
    }
    let mut key = 0_u32;
    bencher.bench_local(|| {
        key = key.wrapping_add(7919) % 1_000_000;
        table.take(&("orders", key), &limit)
    });
}
