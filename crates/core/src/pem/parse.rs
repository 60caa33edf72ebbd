//! Finds the blocks of a PEM file, line by line.
//!
//! A *boundary* is a line `-----BEGIN LABEL-----` or `-----END LABEL-----`. Blanks and byte order
//! marks around the line are ignored. A BEGIN boundary may follow an END boundary on the same line.
//! Between a BEGIN boundary and its END boundary, only lines of base64 and blank lines are allowed.
//!
//! Outside of blocks, a line is explanatory text and is skipped. A line that may be a part of a
//! damaged block ([`Remains`]) is an error:
//! - The line contains `BEGIN`, or `END` as a whole word, and two dashes in a row. A long dash
//!   counts too, because word processors replace dashes with long dashes.
//! - The line contains three dashes, followed by `begin` or `end` in any letter case.
//! - The line is long, is only base64, and begins like the base64 of DER or of a PEM file.
//! - The line contains control characters, so the file contains binary data.
//!
//! These rules miss a damaged block only if both boundaries and the base64 are badly damaged.

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

use super::block::Block;
use super::error::{Boundary, PemError, Problem};

/// U+FEFF. Some editors write this mark at the start of a file. If `cat` joins such files, the mark
/// stands in the middle of the result.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Maximum length of a label, in bytes.
const MAX_LABEL: usize = 64;

/// Minimum length, in bytes, of a line outside of blocks that is treated as base64. Words of
/// explanatory text are shorter.
const MIN_BASE64_LINE: usize = 32;

/// Returns all blocks of a file. The result is empty if the file contains only text.
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

/// Iterates over the lines of a file, without line ends (LF, CR LF, or CR alone) and without blanks
/// around the lines.
struct Lines<'a> {
    rest: &'a [u8],
    /// Number of the line that `next` returned last. The first line is 1.
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

/// Removes blanks and byte order marks at both ends of a line.
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

/// Returns the boundary at the start of a line: its kind, its label, and the rest of the line.
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

/// Whether a text is a label: words of printable ASCII, separated by one blank (RFC 7468 section
/// 3). The RFC also allows dashes inside labels. This parser does not, because no known label has
/// dashes.
fn is_label(label: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic());
    label.len() <= MAX_LABEL && label.split(' ').all(is_word)
}

/// A block whose END boundary has not been read yet.
struct Open {
    label: String,
    /// Line number of the BEGIN boundary.
    line: usize,
    base64: Zeroizing<Vec<u8>>,
    is_padded: bool,
}

enum Taken<'a> {
    Inside(Open),
    /// The finished block, and the text that follows the END boundary on the same line.
    Ended(Block, &'a [u8]),
}

impl Open {
    fn new(label: &str, line: usize, after: &[u8]) -> Self {
        // Allocates the full capacity now. A vector that grows would leave copies of a private key
        // in memory, and nothing would wipe these copies.
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
                // Only a BEGIN boundary may follow on the same line. `outside` checks the kind of
                // the boundary.
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

    /// Returns the problem of a line inside a block that is not base64.
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

/// The kind of damaged data that a line outside of blocks looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remains {
    Boundary,
    Base64,
    Binary,
}

impl Remains {
    /// Returns the kind of damaged data by the rules at the top of this file. Returns `None` for
    /// explanatory text.
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
    // `BEGIN` also counts inside a word, because damage can remove blanks or add letters. `END`
    // counts only as a whole word, because BACKEND and ENDPOINT are normal words. If the BEGIN
    // boundary is intact, a damaged END boundary is found anyway, because the block then has no
    // end.
    contains(line, b"BEGIN") || has_word_end(line) || has_small_letters(line)
}

/// Whether a line has two dashes in a row, or a long dash: U+2010 to U+2015, or U+2212.
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

/// Whether a line has three dashes and then the word `begin` or `end`, in any letter case.
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

/// The first characters of a PEM file that was encoded as base64 again.
const PEM_IN_BASE64: &[u8] = b"LS0tLS1";

/// Whether a line is long, is only base64, and begins like the base64 of a DER SEQUENCE with a
/// long-form length, or like the base64 of a PEM file.
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
