//! DER (X.690): reads the first element of some bytes, and writes elements. Certificates and keys in
//! whole are read by other libraries; this module is for the places where those are too slow, or
//! cannot read or write a structure.

use zeroize::Zeroizing;

/// One element.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    /// The first byte of the element.
    pub tag: u8,
    /// The bytes after tag and length.
    pub content: &'a [u8],
    /// The element with tag and length.
    pub whole: &'a [u8],
}

/// Reads the first element. Returns it and the bytes after it. Returns `None` if the element is
/// incomplete, or if its length has more than four bytes or is indefinite.
///
/// A tag is one byte. Certificates and keys contain no tags of several bytes.
#[must_use]
pub fn first(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&length, mut rest) = rest.split_first()?;
    let mut size = usize::from(length);
    if length >= 0x80 {
        let bytes = usize::from(length & 0x7f);
        if !(1..=4).contains(&bytes) {
            return None;
        }
        let (long, after) = rest.split_at_checked(bytes)?;
        size = long
            .iter()
            .fold(0, |size, byte| size << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(size)?;
    let whole = der.get(..der.len().checked_sub(after.len())?)?;
    Some((
        Element {
            tag,
            content,
            whole,
        },
        after,
    ))
}

/// Encodes an element whose content consists of these parts: tag, definite length (X.690 section
/// 10.1), content. The buffer has its final size from the beginning.
#[must_use]
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let bytes = length.to_be_bytes();
    let skipped = bytes.iter().take_while(|byte| **byte == 0).count();
    let significant = bytes.get(skipped..).unwrap_or_default();
    let mut der = Vec::with_capacity(length + 2 + significant.len());
    der.push(tag);
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => der.push(short),
        _ => {
            // A length has at most eight bytes, so `try_from` never fails.
            der.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
            der.extend_from_slice(significant);
        }
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

/// Same as [`element`], for a content that is a secret. No copy of it stays in memory: the buffer is
/// zeroized on drop, and never grows, because that would leave its earlier memory behind.
#[must_use]
pub fn secret_element(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(element(tag, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        for (length, header) in [
            (0, vec![4, 0]),
            (127, vec![4, 127]),
            (128, vec![4, 0x81, 128]),
            (255, vec![4, 0x81, 255]),
            (256, vec![4, 0x82, 1, 0]),
            (70_000, vec![4, 0x83, 1, 0x11, 0x70]),
        ] {
            let content = vec![7; length];
            let (one, other) = content.split_at(length / 3);
            let der = element(4, &[one, other]);
            assert!(der.starts_with(&header), "{length}");
            assert_eq!(der.len(), header.len() + length);
            let (read, rest) = first(&der).unwrap();
            assert_eq!((read.tag, read.content, read.whole), (4, &*content, &*der));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn the_buffer_of_a_secret_does_not_grow() {
        for length in [200, 1000, 70_000] {
            // If the buffer grew for the last byte, its capacity would double.
            let der = secret_element(4, &[&vec![0; length], &[0]]);
            assert_eq!(der.capacity(), der.len(), "{length}");
        }
    }

    #[test]
    fn what_is_incomplete_is_no_element() {
        let der = element(4, &[&[7; 300]]);
        assert!((0..der.len()).all(|length| first(&der[..length]).is_none()));
        let two = [&*der, &[5, 0]].concat();
        let (read, rest) = first(&two).unwrap();
        assert_eq!((read.whole, rest), (&*der, &[5, 0][..]));
        for length in [0x80, 0x85, 0xff] {
            let der = [&[4, length][..], &[0; 300]].concat();
            assert!(first(&der).is_none(), "{length:x}");
        }
    }
}
