//! Makes text that a peer has chosen safe to print on a terminal, in a log or in JSON.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

/// Maximum length in characters of a peer's text in a log or an audit line. Longer text is cut.
pub const MAX_RECORDED: usize = 256;

/// Returns `text` with control characters, bidirectional characters and invisible characters as
/// `\u{…}`. If it is longer than [`MAX_RECORDED`] characters, cuts it and adds `…`.
#[must_use]
pub fn printable(text: &str) -> String {
    printable_within(text, MAX_RECORDED)
}

/// Does the same as [`printable`], but `limit` is the maximum number of characters.
#[must_use]
pub fn printable_within(text: &str, limit: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(limit));
    for (count, character) in text.chars().enumerate() {
        if count == limit {
            safe.push('…');
            break;
        }
        if is_hazardous(character) {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Returns output of several lines with the same characters escaped as [`printable`] does, except
/// line ends and tabs. Text of a peer must go through [`printable`] before it becomes part of such
/// output, because it could add lines.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let escape = |character: char| is_hazardous(character) && !matches!(character, '\n' | '\t');
    if !text.chars().any(escape) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if escape(character) {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Returns a JSON text with the same meaning, in which the characters that [`printable`] escapes
/// are written as `\uXXXX`. JSON writers only do this below U+0020.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // In JSON text, line ends and tabs are white space between values.
    let escape = |character: char| is_hazardous(character) && character >= ' ';
    if !json.chars().any(escape) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if escape(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Whether [`printable`] escapes no character of the text.
#[must_use]
pub fn is_printable(text: &str) -> bool {
    !text.chars().any(is_hazardous)
}

/// Whether a character controls a terminal, changes the direction of text, or is invisible (Unicode
/// TR 36).
const fn is_hazardous(character: char) -> bool {
    matches!(character,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// Appends `text` as a JSON string, with quotation marks (RFC 8259 section 7).
pub fn push_json(json: &mut String, text: &str) {
    json.push('"');
    push_json_escaped(json, text);
    json.push('"');
}

/// Appends `text` with the escapes of a JSON string, without quotation marks.
pub fn push_json_escaped(json: &mut String, text: &str) {
    if !text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\') {
        json.push_str(text);
        return;
    }
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\u{0}'..='\u{1f}' => {
                let _ = write!(json, "\\u{:04x}", u32::from(character));
            }
            other => json.push(other),
        }
    }
}

/// Appends the result of [`printable_within`] as a JSON string with quotation marks.
pub fn push_printable_json(json: &mut String, text: &str, limit: usize) {
    let plain = |b: u8| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\';
    if text.len() <= limit && text.bytes().all(plain) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        push_json(json, &printable_within(text, limit));
    }
}

/// Encodes bytes as lower-case hexadecimal text.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Quotes a path as one word of a POSIX shell, for a command that the reader may copy.
#[must_use]
pub fn shell(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

/// Returns a function that quotes the path with a suffix as one word of a POSIX shell.
pub fn shell_with(path: &Path) -> impl Fn(&str) -> String + use<'_> {
    |suffix| shell_word(&format!("{}{suffix}", path.to_string_lossy()))
}

/// Quotes a text as one word of a POSIX shell, for a command that the reader may copy. Control
/// characters and invisible characters are escaped in the same way as by [`printable`].
#[must_use]
pub fn shell_word(text: &str) -> String {
    let text = printable_within(text, usize::MAX);
    let plain = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-@%+=:,".contains(&b));
    if plain {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_could_fool_a_reader() {
        assert_eq!(
            printable("a\u{202e}b\n\u{1b}[2J"),
            "a\\u{202e}b\\u{a}\\u{1b}[2J"
        );
        assert_eq!(printable_within("abcdef", 3), "abc…");
    }

    #[test]
    fn lines_keep_their_ends_and_nothing_else() {
        assert_eq!(
            printable_lines("a\n\tb\r\u{1b}[2J\u{9b}2J\u{7f}\u{202e}é"),
            "a\n\tb\\u{d}\\u{1b}[2J\\u{9b}2J\\u{7f}\\u{202e}é"
        );
        assert!(matches!(printable_lines("a\nb"), Cow::Borrowed("a\nb")));
    }

    #[test]
    fn json_without_hazards_has_the_same_meaning() {
        let document = serde_json::json!({"a\u{9b}": "\u{1b}\u{7f}\u{202e}\u{e0041}é\n"});
        for text in [
            document.to_string(),
            serde_json::to_string_pretty(&document).unwrap(),
        ] {
            let safe = printable_json(&text);
            assert!(is_printable(&safe.replace('\n', "")), "{safe}");
            let read: serde_json::Value = serde_json::from_str(&safe).unwrap();
            assert_eq!(read, document);
        }
    }

    #[test]
    fn json_text_reads_back_as_what_is_printable() {
        for text in [
            "plain",
            "",
            "a\"b\\c",
            "tab\there",
            "\u{202e}é",
            "abcdefghij",
        ] {
            let mut json = String::new();
            push_printable_json(&mut json, text, 8);
            let read: String = serde_json::from_str(&json).unwrap();
            assert_eq!(read, printable_within(text, 8));
            let mut json = String::new();
            push_json(&mut json, text);
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn shell_words_survive_a_shell() {
        assert_eq!(shell_word("certs/a.pem"), "certs/a.pem");
        assert_eq!(shell_word("my certs"), "'my certs'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("urn:x:$(id)&a"), "'urn:x:$(id)&a'");
        assert_eq!(shell_word("a\nb"), r"'a\u{a}b'");
    }
}
