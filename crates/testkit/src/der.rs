//! A minimal DER encoder, for content that certificate libraries refuse to write.

/// Returns one element: tag, length and content.
#[must_use]
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match content.len() {
        short @ 0..=0x7f => der.push(u8::try_from(short).unwrap_or_default()),
        length => {
            let octets = length.to_be_bytes();
            let first = octets.iter().position(|octet| *octet != 0).unwrap_or(0);
            let significant = &octets[first..];
            der.push(0x80 | u8::try_from(significant.len()).unwrap_or_default());
            der.extend_from_slice(significant);
        }
    }
    der.extend_from_slice(content);
    der
}

/// Returns a `SEQUENCE` of elements that are encoded already.
#[must_use]
pub fn sequence(elements: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &elements.concat())
}

/// Returns the tag, the content and the total length in bytes of the first element.
///
/// # Panics
/// If the element is not complete.
#[must_use]
pub fn first(der: &[u8]) -> (u8, &[u8], usize) {
    let (start, length) = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        long => {
            let count = usize::from(long & 0x7f);
            let octets = &der[2..2 + count];
            let length = octets.iter().fold(0, |sum, o| sum << 8 | usize::from(*o));
            (2 + count, length)
        }
    };
    (der[0], &der[start..start + length], start + length)
}

/// Returns the elements within a `SEQUENCE`, each with its tag and length.
///
/// # Panics
/// If an element is not complete.
#[must_use]
pub fn elements(sequence: &[u8]) -> Vec<Vec<u8>> {
    let (_, mut rest, _) = first(sequence);
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (_, _, length) = first(rest);
        let (element, after) = rest.split_at(length);
        found.push(element.to_vec());
        rest = after;
    }
    found
}
