//! The code of the fuzz targets. Each target parses its input with the gateway's code, and
//! checks properties of the accepted results. It panics if a property does not hold.
//!
//! `fuzz_targets/` calls these functions with libFuzzer, and `tests/fuzz` with proptest.

mod configuration;
mod crl;
mod csr;
mod framing;
mod headers;
mod http2;
mod input;
mod jose;
mod leaf;
mod paths;
mod patterns;
mod proxy_header;

pub use configuration::{configuration, loads};
pub use crl::crl;
pub use csr::csr;
pub use framing::framing;
pub use headers::headers;
pub use http2::http2;
pub use jose::jose;
pub use leaf::leaf;
pub use paths::paths;
pub use patterns::patterns;
pub use proxy_header::proxy_header;
