//! How several targets read their input.

/// `original` with bytes changed: each three bytes of `changes` are a position and a
/// new byte.
pub(crate) fn altered(original: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut altered = original.to_vec();
    for change in changes.chunks_exact(3) {
        let position = usize::from(change[0]) << 8 | usize::from(change[1]);
        let position = position % altered.len();
        altered[position] = change[2];
    }
    altered
}

/// Items one after the other: what each is, its length, and its content. The last one
/// may be cut off.
pub(crate) fn items(mut input: &[u8]) -> Vec<(u8, &[u8])> {
    let mut items = Vec::new();
    while let [what, length, rest @ ..] = input {
        let (content, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        items.push((*what, content));
        input = rest;
    }
    items
}

/// Tag and content of the first element of DER, and what follows it. Lengths may have
/// any number of bytes.
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
