//! `countersign token` and `countersign api-key` as people and scripts use them, and published
//! test cases for signed tokens with the real binary.

mod api_key;
mod conformance;
mod verify;

use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
