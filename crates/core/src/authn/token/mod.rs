//! Tokens of configured issuers: the rules for accepted tokens, and their checks.
//!
//! Each file imports only from files below it in this list:
//!
//! - `issuer`: checks the tokens of one configured issuer
//! - `cache`: caches judgements about tokens
//! - `introspection`: asks the issuer about a token
//! - `jwks`: fetches an issuer's keys and keeps them fresh
//! - `key_location`: the location of an issuer's keys
//! - `jwt`: checks form and signature of a JWT
//! - `claims`: checks the claims of a token
//! - `binding`: compares a token with the caller's certificate
//! - `token_type`: the `typ` of a token
//! - `single_flight`: concurrent requests share one query

pub mod binding;
pub mod cache;
pub mod claims;
pub mod introspection;
pub mod issuer;
pub mod jwks;
pub mod jwt;
pub mod key_location;
mod single_flight;
pub mod token_type;
