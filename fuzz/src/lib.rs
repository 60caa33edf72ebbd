//! What fuzz targets do with their input: parse it, and demand properties of what
//! was accepted. They panic where a property does not hold.
//!
//! `fuzz_targets/` calls these under libFuzzer, `tests/fuzz` under proptest.

mod framing;
mod headers;
mod jose;
mod leaf;
mod paths;
mod patterns;
mod proxy_header;

pub use framing::framing;
pub use headers::headers;
pub use jose::jose;
pub use leaf::leaf;
pub use paths::paths;
pub use patterns::patterns;
pub use proxy_header::proxy_header;
