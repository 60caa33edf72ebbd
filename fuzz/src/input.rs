//! Functions with which several fuzz targets interpret their input.

/// Returns `original` with changed bytes. Every three bytes of `changes` are one change: a
/// position (two bytes), and the new byte at this position.
pub(crate) fn altered(original: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut altered = original.to_vec();
    for change in changes.chunks_exact(3) {
        let position = usize::from(change[0]) << 8 | usize::from(change[1]);
        let position = position % altered.len();
        altered[position] = change[2];
    }
    altered
}

/// Splits the input into items: the kind and the content of each. In the input, an item is one
/// byte for the kind, one byte for the length, and the content. If the input ends early, the
/// content of the last item is shorter than its length.
pub(crate) fn items(mut input: &[u8]) -> Vec<(u8, &[u8])> {
    let mut items = Vec::new();
    while let [what, length, rest @ ..] = input {
        let (content, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        items.push((*what, content));
        input = rest;
    }
    items
}

/// Returns the tag and the content of the first DER element, and the bytes after the element.
/// The length may be encoded in up to four bytes.
pub(crate) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let count = usize::from(first & 0x7f);
    let (length, rest) = match first {
        0..=0x7f => (count, rest),
        _ if count == 0 || count > 4 => return None,
        _ => {
            let (octets, rest) = rest.split_at_checked(count)?;
            let length = octets.iter().fold(0, |sum, o| sum << 8 | usize::from(*o));
            (length, rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}
