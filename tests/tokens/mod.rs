//! `countersign token` and `countersign api-key` as a person or a script meets
//! them, and the published cases for signed tokens through the real binary.

mod api_key;
mod conformance;
mod verify;

use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
