//! Verifies Countersign identity assertions. An assertion proves which caller sent the request
//! that contains it.
//!
//! The Countersign gateway authenticates the caller. It then sends the service one header
//! field, [`claims::HEADER`], with a signed [`Assertion`] about this one request. A service
//! builds one [`Verifier`] and verifies each request with it:
//!
//! ```
//! use countersign_verify::{RequestParts, Verifier};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
//! let verifier = Verifier::builder()
//!     .issuer("https://gateway.example.org:9080")
//!     .audience("orders")
//!     .jwks_json(keys)
//!     .build()?;
//! let request = RequestParts::new("GET", "orders.example.org", "/orders/7?full=1")?;
//! let refused = verifier.verify("not an assertion", &request);
//! assert_eq!(refused.unwrap_err().code(), "assertion-malformed");
//! # Ok(())
//! # }
//! ```
//!
//! | Feature | Adds |
//! |---|---|
//! | `ring` (default), `aws-lc-rs` | the cryptographic library; AWS-LC if both are on |
//! | `fetch` | `VerifierBuilder::jwks_url`: keys over HTTP, cached and refreshed |
//! | `tower` | `AssertionLayer` for axum, tonic and other `tower` services |
//! | `all-algorithms` | RSA and P-384 in [`jose`], for other tokens |
//!
//! The module [`jose`] parses and verifies tokens. The module [`claims`] defines the content
//! of an assertion. A [`Verifier`] compares an assertion with the request. The crate uses TLS
//! and an async runtime only with the feature `fetch`.

mod builder;
pub mod claims;
mod clock;
mod crypto;
mod error;
pub mod jose;
mod keys;
mod replay;
mod request;
mod verifier;

#[cfg(feature = "fetch")]
mod fetch;
#[cfg(feature = "tower")]
mod layer;

pub use builder::{BuildError, DEFAULT_SKEW, MAX_SKEW, VerifierBuilder};
pub use claims::Assertion;
pub use error::{FetchProblem, VerifyError};
#[cfg(feature = "tower")]
pub use layer::{AssertionLayer, AssertionService};
pub use request::{RequestParts, TargetError};
pub use verifier::AssertionVerifier as Verifier;
pub use verifier::{AssertionVerifier, only_assertion};
