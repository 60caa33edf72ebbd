//! `SerialSet`: a compact set of revoked serial numbers with constant look-up time.

use std::collections::HashSet;

use crate::identity::leaf::significant;

/// Maximum length in bytes of a serial number according to RFC 5280 section 4.1.2.2.
const CONFORMING: usize = 20;

/// A serial number of at most 20 bytes. The last byte is its length, and the bytes after the serial
/// number are zero.
type Packed = [u8; CONFORMING + 1];

/// A set of serial numbers. It uses a keyed hash, so an issuer cannot select serial numbers with
/// equal hashes to make look-ups slow.
#[derive(Debug, Default)]
pub(super) struct SerialSet {
    conforming: HashSet<Packed>,
    longer: HashSet<Box<[u8]>>,
}

fn pack(serial: &[u8]) -> Option<Packed> {
    let mut packed = Packed::default();
    let (length, room) = packed.split_last_mut()?;
    room.get_mut(..serial.len())?.copy_from_slice(serial);
    *length = u8::try_from(serial.len()).ok()?;
    Some(packed)
}

impl SerialSet {
    /// Creates an empty set with capacity for `count` serial numbers of at most 20 bytes.
    pub(super) fn with_room(count: usize) -> Self {
        Self {
            conforming: HashSet::with_capacity(count),
            longer: HashSet::new(),
        }
    }

    pub(super) fn insert(&mut self, serial: &[u8]) {
        let serial = significant(serial);
        match pack(serial) {
            Some(packed) => self.conforming.insert(packed),
            None => self.longer.insert(serial.into()),
        };
    }

    pub(super) fn contains(&self, serial: &[u8]) -> bool {
        let serial = significant(serial);
        match pack(serial) {
            Some(packed) => self.conforming.contains(&packed),
            None => self.longer.contains(serial),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.conforming.len() + self.longer.len()
    }

    pub(super) fn shrink(&mut self) {
        self.conforming.shrink_to_fit();
        self.longer.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_whatever_its_length() {
        let mut set = SerialSet::default();
        let long = [7_u8; 40];
        for serial in [&b"\x01"[..], b"\x00\x80", &[9; 20], &long, b"\x00"] {
            set.insert(serial);
            assert!(set.contains(serial));
        }
        assert!(set.contains(b"\x80") && set.contains(b"\x00\x00\x01"));
        assert!(!set.contains(b"\x01\x00") && !set.contains(&[7; 39]) && !set.contains(b"\x02"));
        assert_eq!(set.len(), 5);
    }
}
