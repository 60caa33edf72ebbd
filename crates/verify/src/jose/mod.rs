//! A small, strict implementation of JOSE: only compact JWS with public keys.
//!
//! * [`base64url_encode`], [`base64url_decode`]: RFC 7515 section 2, canonical form only;
//! * [`CompactJws`]: RFC 7515 section 7.1, parsed but *unverified* until [`CompactJws::verify`];
//! * [`Jwk`], [`JwkSet`]: RFC 7517, public EC, OKP and RSA keys;
//! * [`thumbprint()`], [`x5t_s256`]: RFC 7638 and RFC 8705 section 3.1;
//! * [`NumericDate`]: RFC 7519 section 2.
//!
//! If the standards leave a choice, this implementation takes the stricter option (RFC
//! 8725). It accepts an algorithm only if the key permits this algorithm. It does not
//! implement `none` and the symmetric algorithms. It refuses a token that has `crit`, or
//! duplicate members at any depth. It never uses a key or the URL of a key from inside a
//! token (`jwk`, `jku`, `x5u`, `x5c`).
//!
//! This module returns the payload as bytes and does not interpret it.

mod algorithm;
mod base64url;
mod error;
mod json;
mod jwk;
mod jwk_set;
mod jws;
mod numeric_date;
#[cfg(feature = "all-algorithms")]
mod rsa;
mod thumbprint;

#[cfg(test)]
mod tests;

pub use algorithm::Algorithm;
pub use base64url::{base64url_decode, base64url_encode};
pub use error::JoseError;
pub use json::{parse_object, refuse_duplicate_members};
pub use jwk::Jwk;
pub use jwk_set::{JwkSet, MAX_JWK_SET_BYTES, MAX_JWK_SET_KEYS};
pub use jws::{CompactJws, Header, MAX_TOKEN_BYTES, signing_input, verify_signature};
pub use numeric_date::NumericDate;
pub use thumbprint::{thumbprint, x5t_s256};
