//! What fuzz targets do with their input: parse it, and demand properties of what
//! was accepted. They panic where a property does not hold.
//!
//! `fuzz_targets/` calls these under libFuzzer, `tests/fuzz` under proptest.

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
