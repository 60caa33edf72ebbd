//! `Digest`: a SHA-256 hash of several fields.

use crate::crypto;

/// Computes a SHA-256 hash of several fields. The length of each field is hashed before the field,
/// so different lists of fields never give the same input.
pub(super) struct Digest(crypto::digest::Context);

impl Digest {
    pub(super) fn new() -> Self {
        Self(crypto::digest::Context::new(&crypto::digest::SHA256))
    }

    pub(super) fn field(&mut self, content: &[u8]) {
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        self.0.update(&length.to_be_bytes());
        self.0.update(content);
    }

    pub(super) fn finish(self) -> [u8; 32] {
        let mut output = [0_u8; 32];
        for (to, from) in output.iter_mut().zip(self.0.finish().as_ref()) {
            *to = *from;
        }
        output
    }
}
