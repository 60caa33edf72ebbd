//! The lines of a PEM file.
//!
//! A *boundary* is a line that is exactly `-----BEGIN LABEL-----` or
//! `-----END LABEL-----` but for blanks and byte order marks around it; after an
//! END boundary a BEGIN boundary may stand on the same line. Between BEGIN and
//! the END of the same label there are lines of base64 and blank lines, nothing
//! else.
//!
//! Outside of blocks a line is explanatory text, and passed over, unless it
//! could be what is left of a block ([`Remains`]):
//! - it contains `BEGIN`, or `END` as a word, and two dashes in a row (or one of
//!   the long dashes that word processors put in their place);
//! - three dashes are followed by `begin` or `end` in small letters;
//! - it is a line of base64 that begins as DER or PEM do;
//! - it contains control characters: binary data.
//!
//! Both boundaries of a block would have to be damaged beyond this, and its
//! base64 too, before it could be taken for text.

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

use super::block::Block;
use super::error::{Boundary, PemError, Problem};

/// U+FEFF, which some editors put at the start of a file; after `cat` it stands
/// in its middle.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Longest label that is read as one.
const MAX_LABEL: usize = 64;

/// Fewest characters of a line that is taken for base64 outside of a block:
/// words of explanatory text are shorter.
const MIN_BASE64_LINE: usize = 32;

/// All blocks; none where there is only text.
pub(super) fn blocks(content: &[u8]) -> Result<Vec<Block>, PemError> {
    if content.starts_with(b"\xff\xfe") || content.starts_with(b"\xfe\xff") {
        return Err(Problem::Utf16.in_file());
    }
    let mut blocks = Vec::new();
    let mut lines = Lines {
        rest: content,
        number: 0,
    };
    let mut open: Option<Open> = None;
    while let Some(line) = lines.next() {
        let number = lines.number;
        open = match open.take() {
            Some(block) => match block.take(line, number)? {
                Taken::Inside(block) => Some(block),
                Taken::Ended(block, rest) => {
                    blocks.push(block);
                    outside(rest, number, lines.rest)?
                }
            },
            None => outside(line, number, lines.rest)?,
        };
    }
    match open {
        Some(block) => Err(block.has_no_end()),
        None => Ok(blocks),
    }
}

/// The lines of a file, without their ends (LF, CR LF, or CR alone) and without
/// blanks around them.
struct Lines<'a> {
    rest: &'a [u8],
    /// Of the line that was taken last, from 1.
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let end = self.rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
        let (line, after) = self
            .rest
            .split_at_checked(end.unwrap_or(self.rest.len()))
            .unwrap_or((self.rest, &[]));
        self.rest = match after {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => &[],
        };
        Some(trim(line))
    }
}

/// Without blanks and byte order marks at both ends.
fn trim(line: &[u8]) -> &[u8] {
    let mut line = line.trim_ascii();
    while let Some(rest) = line
        .strip_prefix(BYTE_ORDER_MARK)
        .or_else(|| line.strip_suffix(BYTE_ORDER_MARK))
    {
        line = rest.trim_ascii();
    }
    line
}

/// Reads a line that is not inside a block: explanatory text, or the first line of a block.
/// `after` is the rest of the file.
fn outside(line: &[u8], number: usize, after: &[u8]) -> Result<Option<Open>, PemError> {
    match boundary(line) {
        Some((Boundary::Begin, label, rest)) => {
            if !rest.is_empty() {
                return Err(match rest {
                    [b'-', ..] => Problem::DamagedBoundary,
                    [b'\\', b'n' | b'r', ..] => Problem::EscapedLineEnds,
                    _ => Problem::TextAfter(Boundary::Begin),
                }
                .on(number));
            }
            Ok(Some(Open::new(label, number, after)))
        }
        Some((Boundary::End, label, _)) => Err(Problem::EndWithoutBegin {
            label: label.to_owned(),
        }
        .on(number)),
        None => match Remains::in_line(line) {
            Some(remains) => Err(remains.problem(line).on(number)),
            None => Ok(None),
        },
    }
}

/// The boundary that a line begins with, and what follows it.
fn boundary(line: &[u8]) -> Option<(Boundary, &str, &[u8])> {
    let (boundary, rest) = match line.strip_prefix(b"-----BEGIN ") {
        Some(rest) => (Boundary::Begin, rest),
        None => (Boundary::End, line.strip_prefix(b"-----END ")?),
    };
    let length = rest.iter().position(|byte| *byte == b'-')?;
    let (label, rest) = rest.split_at_checked(length)?;
    let rest = rest.strip_prefix(b"-----")?;
    let label = str::from_utf8(label).ok().filter(|label| is_label(label))?;
    Some((boundary, label, trim(rest)))
}

/// Words of printable ASCII with one blank between them (RFC 7468 section 3),
/// without the dashes that the RFC permits and nothing uses.
fn is_label(label: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic());
    label.len() <= MAX_LABEL && label.split(' ').all(is_word)
}

/// A block whose END was not seen yet.
struct Open {
    label: String,
    /// The number of its first line.
    line: usize,
    base64: Zeroizing<Vec<u8>>,
    is_padded: bool,
}

enum Taken<'a> {
    Inside(Open),
    /// Also what follows its END on the same line.
    Ended(Block, &'a [u8]),
}

impl Open {
    fn new(label: &str, line: usize, after: &[u8]) -> Self {
        // Room for all of it at once: growing would leave copies of a private key
        // in memory that nothing wipes.
        let most = after.iter().position(|byte| *byte == b'-');
        Self {
            label: label.to_owned(),
            line,
            base64: Zeroizing::new(Vec::with_capacity(most.unwrap_or(after.len()))),
            is_padded: false,
        }
    }

    fn has_no_end(self) -> PemError {
        Problem::BeginWithoutEnd { label: self.label }.on(self.line)
    }

    fn take(mut self, line: &[u8], number: usize) -> Result<Taken<'_>, PemError> {
        match boundary(line) {
            Some((Boundary::Begin, ..)) => return Err(self.has_no_end()),
            Some((Boundary::End, label, _)) if label != self.label => {
                return Err(Problem::LabelsDiffer {
                    begin: self.label,
                    line: self.line,
                    end: label.to_owned(),
                }
                .on(number));
            }
            Some((Boundary::End, _, rest)) => {
                // Only another boundary may follow on the same line.
                if !rest.is_empty() && boundary(rest).is_none() {
                    return Err(match rest.starts_with(b"-") {
                        true => Problem::DamagedBoundary,
                        false => Problem::TextAfter(Boundary::End),
                    }
                    .on(number));
                }
                return Ok(Taken::Ended(self.close(number)?, rest));
            }
            None => {}
        }
        for byte in line {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if self.is_padded => {
                    return Err(Problem::AfterPadding.on(number));
                }
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {}
                b'=' => self.is_padded = true,
                _ => return Err(self.no_base64(line).on(number)),
            }
        }
        self.base64.extend_from_slice(line);
        Ok(Taken::Inside(self))
    }

    /// What a line within the block is that is not base64.
    fn no_base64(&self, line: &[u8]) -> Problem {
        if self.base64.is_empty() && line.contains(&b':') && !contains(line, b"--") {
            match line.starts_with(b"Proc-Type:") {
                true => Problem::EncryptedOldForm,
                false => Problem::HeaderLine,
            }
        } else if line.contains(&b'-') {
            damaged_boundary(line)
        } else if contains(line, b"\\n") {
            Problem::EscapedLineEnds
        } else if line
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b" \t+/=".contains(b))
        {
            Problem::Blank
        } else {
            Problem::Character
        }
    }

    fn close(self, number: usize) -> Result<Block, PemError> {
        if self.base64.is_empty() {
            return Err(Problem::Empty.on(self.line));
        }
        if !self.base64.len().is_multiple_of(4) {
            return Err(Problem::Length.on(number));
        }
        let mut der = Zeroizing::new(vec![0; self.base64.len() / 4 * 3]);
        let length = Base64::decode(self.base64.as_slice(), &mut der)
            .map_err(|_| Problem::Padding.on(number))?
            .len();
        der.truncate(length);
        Ok(Block {
            label: self.label,
            line: self.line,
            der,
        })
    }
}

/// What a line outside of blocks may be left of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remains {
    Boundary,
    Base64,
    Binary,
}

impl Remains {
    /// See the head of this file.
    fn in_line(line: &[u8]) -> Option<Self> {
        if is_like_boundary(line) {
            Some(Self::Boundary)
        } else if line.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
            Some(Self::Binary)
        } else if is_like_base64(line) {
            Some(Self::Base64)
        } else {
            None
        }
    }

    fn problem(self, line: &[u8]) -> Problem {
        match self {
            Self::Boundary => damaged_boundary(line),
            Self::Base64 if line.starts_with(PEM_IN_BASE64) => Problem::EncodedTwice,
            Self::Base64 => Problem::Base64Outside,
            Self::Binary => Problem::Binary,
        }
    }
}

fn damaged_boundary(line: &[u8]) -> Problem {
    if line.starts_with(b"-") {
        Problem::DamagedBoundary
    } else if contains(line, b"-----BEGIN ") {
        Problem::TextBefore(Boundary::Begin)
    } else if contains(line, b"-----END ") {
        Problem::TextBefore(Boundary::End)
    } else {
        Problem::DamagedBoundary
    }
}

fn is_like_boundary(line: &[u8]) -> bool {
    if !has_dashes(line) {
        return false;
    }
    // BEGIN even as a part of a word: blanks get lost, or letters come in.
    // END only as a word, because BACKEND and ENDPOINT are words too, and a block
    // whose BEGIN is seen ends with its END or not at all.
    contains(line, b"BEGIN") || has_word_end(line) || has_small_letters(line)
}

/// Two dashes in a row, or one of U+2010 to U+2015 or U+2212.
fn has_dashes(line: &[u8]) -> bool {
    contains(line, b"--")
        || contains(line, "\u{2212}".as_bytes())
        || line
            .windows(3)
            .any(|window| matches!(window, [0xe2, 0x80, 0x90..=0x95]))
}

fn has_word_end(line: &[u8]) -> bool {
    let is_letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    line.windows(3).enumerate().any(|(at, window)| {
        let before = at.checked_sub(1).and_then(|before| line.get(before));
        window == b"END" && !is_letter(before) && !is_letter(line.get(at + 3))
    })
}

/// Three dashes, then `begin` or `end` in whatever letters.
fn has_small_letters(line: &[u8]) -> bool {
    let mut dashes = 0;
    for (at, byte) in line.iter().enumerate() {
        if *byte == b'-' {
            dashes += 1;
            continue;
        }
        if dashes >= 3 {
            let rest = line.get(at..).unwrap_or_default().trim_ascii_start();
            let is_word = |word: &[u8]| {
                rest.get(..word.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(word))
                    && !rest.get(word.len()).is_some_and(u8::is_ascii_alphanumeric)
            };
            if is_word(b"begin") || is_word(b"end") {
                return true;
            }
        }
        dashes = 0;
    }
    false
}

/// How base64 of a PEM file begins.
const PEM_IN_BASE64: &[u8] = b"LS0tLS1";

/// A long line of base64 alone that begins as that of a DER SEQUENCE in the long
/// form does, or as that of a PEM file.
fn is_like_base64(line: &[u8]) -> bool {
    let begins = matches!(line, [b'M', b'I', b'E'..=b'P', ..]) || line.starts_with(PEM_IN_BASE64);
    begins
        && line.len() >= MIN_BASE64_LINE
        && line
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b))
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}
