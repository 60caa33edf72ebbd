//! `Redaction`: replaces secrets in the text of a configuration file, and in messages about it.
//!
//! Messages are printed, logged and sent to operators, and people copy them into tickets. Secrets
//! do not belong in the configuration file, but operators paste them there by mistake. Examples are
//! a password in a URL, a private key in place of its file name, or a token after an unknown key.
//! The file may be invalid TOML, so the text is searched and not parsed. If it is unclear whether a
//! text is secret, the text is hidden.

use std::ops::Range;

/// The value of a key is secret if the key's name contains one of these texts.
const SECRET_NAMES: [&str; 15] = [
    "pass",
    "pwd",
    "secret",
    "token",
    "credential",
    "private_key",
    "private-key",
    "privatekey",
    "api_key",
    "api-key",
    "apikey",
    "hmac",
    "bearer",
    "cookie",
    "authorization",
];
/// Keys whose values are secret if an operator has misunderstood the key, for example if the value
/// is an API key in place of its hash.
const SECRET_KEYS: [&str; 3] = ["key", "hash", "pin"];
/// The value of a key is also secret if the key's name ends like this, for example `signing_key`. If
/// the value looks like a path, it is shown.
const KEY_SUFFIXES: [&str; 2] = ["_key", "-key"];
/// Names that end in [`KEY_SUFFIXES`], but whose values are not secret.
const PUBLIC_SUFFIXES: [&str; 2] = ["public_key", "public-key"];
/// Tables of the configuration whose names look secret. Their keys are judged by their own names.
const PLAIN_TABLES: [&str; 3] = ["token", "token_issuer", "api_keys"];
/// Keys whose names look secret, but whose values are not secret.
const PLAIN_KEYS: [&str; 4] = [
    "pass_headers",
    "token_issuer",
    "forward_token",
    "pass_through",
];
/// Keys whose value is the path of a file with a secret. If the value looks like a path, it is
/// shown.
const FILE_KEYS: [&str; 3] = ["private_key", "hmac_key", "key"];
const FILE_SUFFIXES: [&str; 5] = ["_file", "-file", "_path", "_dir", "_directory"];
/// Minimum length in bytes of a word that is hidden because it looks random.
const RANDOM_WORD: usize = 32;
/// Minimum length in bytes of a segment that looks like random base64. Slashes, hyphens and
/// underscores separate the segments of a word.
const RANDOM_SEGMENT: usize = 20;
/// Minimum length in bytes of a secret that is hidden everywhere in messages. A shorter secret may
/// be a common word. It is hidden only in quotation marks, and as the last component of a path,
/// which the gateway makes of the value of a key for a file.
const MIN_SECRET: usize = 8;

const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_END: &str = "-----END";

/// The secrets in the text of a file.
#[derive(Debug, Default)]
pub(super) struct Redaction {
    /// The text of the file, with an asterisk for each byte of a secret. All positions stay valid.
    shown: String,
    /// The secrets, their lines, and each text between quotation marks in them, longest first: as
    /// they are in the file, and with their escape sequences replaced. They are also hidden in
    /// messages, because a message may quote only a part of a secret.
    secrets: Vec<String>,
}

impl Redaction {
    /// Finds the secrets in the text of a file.
    pub(super) fn of(source: &str) -> Self {
        let mut ranges = url_secrets(source);
        ranges.extend(pem_bodies(source));
        ranges.extend(secret_values(source));
        ranges.extend(random_words(source));
        let mut secrets: Vec<String> = ranges
            .iter()
            .filter_map(|range| source.get(range.clone()))
            .flat_map(spellings)
            .flat_map(|secret| parts(&secret))
            .collect();
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        Self {
            shown: hidden(source, &ranges),
            secrets,
        }
    }

    /// Returns the text of the file without its secrets.
    pub(super) fn into_shown(self) -> String {
        self.shown
    }

    /// Returns a message about the file without the secrets of the file.
    pub(super) fn message(&self, message: &str) -> String {
        let mut shown = message.to_owned();
        for secret in &self.secrets {
            // A message may contain only the beginning of a long secret.
            let end = secret
                .char_indices()
                .nth(24)
                .map_or(secret.len(), |(at, _)| at);
            let start = secret.get(..end).unwrap_or_default();
            // Most messages contain none of the secrets, and a file can have thousands of both.
            if !shown.contains(start) {
                continue;
            }
            if secret.len() >= MIN_SECRET {
                shown = hidden(&shown, &common_starts(&shown, start, secret));
            } else {
                for quote in ['"', '`', '\''] {
                    let quoted = format!("{quote}{secret}{quote}");
                    shown = shown.replace(&quoted, &format!("{quote}***{quote}"));
                }
                shown = hidden(&shown, &last_components(&shown, secret));
            }
        }
        shown
    }
}

/// Returns the forms in which a message may contain a secret: as it is in the file, with its escape
/// sequences replaced, and escaped again as Rust does.
fn spellings(secret: &str) -> Vec<String> {
    let mut spellings = vec![secret.to_owned()];
    if secret.contains('\\') {
        let plain = unescaped(secret);
        spellings.push(plain.escape_debug().to_string());
        spellings.push(plain);
    }
    spellings
}

/// Replaces the escape sequences of TOML strings with double quotation marks. Keeps what is not an
/// escape sequence.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut characters = after.chars();
        let Some(kind) = characters.next() else {
            rest = "\\";
            break;
        };
        rest = characters.as_str();
        let digits = match kind {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        let code = rest.get(..digits).filter(|code| !code.is_empty());
        let code = code.and_then(|code| u32::from_str_radix(code, 16).ok());
        if let Some(character) = code.and_then(char::from_u32) {
            plain.push(character);
            rest = rest.get(digits..).unwrap_or_default();
            continue;
        }
        match kind {
            'b' => plain.push('\u{8}'),
            't' => plain.push('\t'),
            'n' => plain.push('\n'),
            'f' => plain.push('\u{c}'),
            'r' => plain.push('\r'),
            'e' => plain.push('\u{1b}'),
            '"' | '\\' => plain.push(kind),
            // A backslash at the end of a line removes the line break and the white space after it.
            ' ' | '\t' | '\r' | '\n' => rest = rest.trim_start(),
            _ => plain.extend(['\\', kind]),
        }
    }
    plain.push_str(rest);
    plain
}

/// Returns a secret, its lines, and the texts between quotation marks in it.
fn parts(secret: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for line in secret.split(['\n', '\r']) {
        parts.push(line);
        for line in line.split("\\n") {
            parts.push(line);
            parts.extend(line.split(['"', '\'']));
        }
    }
    let parts = parts.into_iter();
    let parts = parts.flat_map(|part| [part, part.trim_matches([' ', '\t', ',', '\\'])]);
    let mut parts: Vec<String> = parts
        .filter(|part| !part.trim().is_empty())
        .map(str::to_owned)
        .collect();
    parts.dedup();
    parts
}

/// Returns the ranges of `text` that are `secret` as the last component of a path, or as a whole
/// path at the beginning of an error: `hunter2: No such file`.
fn last_components(text: &str, secret: &str) -> Vec<Range<usize>> {
    let is_component = |&(at, _): &(usize, &str)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let after = text.get(at.saturating_add(secret.len())..);
        let after = after.unwrap_or_default();
        let mut next = after.chars();
        let ends = match next.next() {
            Some('.') => next.next().is_none_or(char::is_whitespace),
            Some(c) => !(is_of_a_name(c) || c == '/'),
            None => true,
        };
        match before {
            Some('/') => ends,
            None | Some(' ') => after.starts_with(": "),
            Some(_) => false,
        }
    };
    let found = text.match_indices(secret).filter(is_component);
    found.map(|(at, part)| at..at + part.len()).collect()
}

/// Returns the ranges of `text` that are equal to `secret` or to a beginning of `secret`. Each
/// range contains at least `start`, the first characters of `secret`.
fn common_starts(text: &str, start: &str, secret: &str) -> Vec<Range<usize>> {
    text.match_indices(start)
        .map(|(at, _)| {
            let rest = text.get(at..).unwrap_or_default();
            let common = rest
                .bytes()
                .zip(secret.bytes())
                .take_while(|(one, other)| one == other)
                .count();
            at..at.saturating_add(common)
        })
        .collect()
}

/// Replaces the bytes in the ranges by asterisks, except for line breaks.
fn hidden(text: &str, ranges: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        for byte in bytes.get_mut(range.clone()).unwrap_or_default() {
            if !matches!(*byte, b'\n' | b'\r') {
                *byte = b'*';
            }
        }
    }
    // A range may end inside a character. The remaining bytes of the character are then invalid
    // UTF-8, and are replaced.
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Finds user names and passwords in URLs.
fn url_secrets(source: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut scanned = 0;
    for (at, mark) in source.match_indices("://") {
        if at < scanned {
            continue;
        }
        let start = at + mark.len();
        let rest = source.get(start..).unwrap_or_default();
        // In quotation marks, a password may contain blanks and the other quotation mark.
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let before = source.get(..at).unwrap_or_default();
        let quote = before.trim_end_matches(is_scheme).chars().next_back();
        let quote = quote.filter(|c| matches!(c, '"' | '\''));
        let ends = |c: char| match quote {
            Some(quote) => c == quote || c == '\n',
            None => c.is_whitespace() || matches!(c, '"' | '\''),
        };
        let url = rest.get(..rest.find(ends).unwrap_or(rest.len()));
        let url = url.unwrap_or_default();
        scanned = start + url.len();
        let secret = if url.contains("pass=") {
            url.len()
        } else {
            url.rfind('@').unwrap_or(0)
        };
        if secret > 0 {
            found.push(start..start + secret);
        }
    }
    found
}

/// Finds the text between the BEGIN and END lines of PEM blocks. If the END line is missing, the
/// block extends to the end of the text.
fn pem_bodies(source: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(begin) = find_from(source, PEM_BEGIN, from) {
        let label = begin + PEM_BEGIN.len();
        let body = find_from(source, "-----", label).map_or(label, |dashes| dashes + 5);
        let end = find_from(source, PEM_END, body).unwrap_or(source.len());
        found.push(body..end);
        from = end.max(body);
    }
    found
}

fn find_from(text: &str, what: &str, from: usize) -> Option<usize> {
    Some(text.get(from..)?.find(what)? + from)
}

/// Finds the values of keys whose names look secret.
fn secret_values(source: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((start, end)) = next_word(source, at, is_of_a_name) {
        at = end;
        let name = source
            .get(start..end)
            .unwrap_or_default()
            .to_ascii_lowercase();
        if !is_secret_name(&name) {
            continue;
        }
        let with_parts = !PLAIN_TABLES.contains(&name.as_str());
        if let Some(value) = value_start(source, end, with_parts) {
            let (range, end) = value_range(source, value, names_file(&name));
            found.extend(range);
            at = end.max(at);
        }
    }
    found
}

/// Returns the start and the end of the next sequence of characters that `belongs` accepts. The
/// search begins at the byte position `from`.
fn next_word(text: &str, from: usize, belongs: impl Fn(char) -> bool) -> Option<(usize, usize)> {
    let rest = text.get(from..)?;
    let start = from + rest.find(&belongs)?;
    let word = text.get(start..)?;
    let length = word.find(|c| !belongs(c)).unwrap_or(word.len());
    Some((start, start + length))
}

const fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

fn is_secret_name(name: &str) -> bool {
    !PLAIN_KEYS.contains(&name)
        && (SECRET_KEYS.contains(&name) || has_secret_part(name) || ends_as_key(name))
}

fn has_secret_part(name: &str) -> bool {
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

fn ends_as_key(name: &str) -> bool {
    let ends = |suffixes: [&str; 2]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    ends(KEY_SUFFIXES) && !ends(PUBLIC_SUFFIXES)
}

fn names_file(name: &str) -> bool {
    FILE_KEYS.contains(&name)
        || FILE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
        || (ends_as_key(name) && !has_secret_part(name))
}

/// Returns the position of the value after a key's name. If the name is the first part of a dotted
/// key and `with_parts` is true, the value follows the last part. Returns `None` if no value follows.
fn value_start(source: &str, name_end: usize, with_parts: bool) -> Option<usize> {
    let blanks = [' ', '\t'];
    let rest = source.get(name_end..)?;
    let after_quote = rest.strip_prefix(['"', '\'']).unwrap_or(rest);
    let mut mark = after_quote.trim_start_matches(blanks);
    while let Some(part) = mark.strip_prefix('.').filter(|_| with_parts) {
        let part = part.trim_start_matches(blanks);
        let length = match part.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            Some(quote) => 1 + string_length(part.get(1..)?, quote),
            None => part.find(|c| !is_of_a_name(c)).unwrap_or(part.len()),
        };
        mark = part.get(length..)?.trim_start_matches(blanks);
    }
    let value = match mark.strip_prefix('=') {
        Some(value) => value,
        // Operators may write the YAML form `key: value`. Without white space after the colon, the
        // text is a part of a value, for example the caller pattern `api-key:batch`.
        None => mark
            .strip_prefix(':')
            .filter(|value| value.starts_with([' ', '\t']))?,
    };
    let value = value.trim_start_matches([' ', '\t', '=']);
    Some(source.len() - value.len())
}

/// Returns the secret range of the value at the position `start`, and the position at which the
/// search continues. The range is `None` if the value is not secret.
fn value_range(source: &str, start: usize, names_file: bool) -> (Option<Range<usize>>, usize) {
    let rest = source.get(start..).unwrap_or_default();
    let shows = |value: &str| names_file && looks_like_path(value);
    for quotes in ["\"\"\"", "'''"] {
        if rest.starts_with(quotes) {
            let body = start + quotes.len();
            let end = find_from(source, quotes, body).unwrap_or(source.len());
            return (Some(body..end), end);
        }
    }
    if rest.starts_with('{') {
        return (None, start);
    }
    let line_end = start + rest.find('\n').unwrap_or(rest.len());
    if rest.starts_with('[') {
        let end = array_end(source, start);
        return (Some(start + 1..end), end);
    }
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let body = start + 1;
        let line = source.get(body..line_end).unwrap_or_default();
        let end = body + closing_quote(line, quote).unwrap_or(line.len());
        let tail = source.get(end + 1..line_end).unwrap_or_default().trim();
        if !(tail.is_empty() || tail.starts_with([',', '}', ']', '#'])) {
            // The value contains a quotation mark, so its end is unknown. The rest of the line is
            // hidden.
            return (Some(body..line_end), line_end);
        }
        let value = source.get(body..end).unwrap_or_default();
        return match shows(value) {
            true => (None, end),
            false => (Some(body..end), end),
        };
    }
    let line = source.get(start..line_end).unwrap_or_default();
    let end = start + line.find([',', '}', '#']).unwrap_or(line.len());
    let value = source.get(start..end).unwrap_or_default().trim();
    if matches!(value, "" | "true" | "false") || shows(value) {
        return (None, end);
    }
    (Some(start..line_end), line_end)
}

/// Returns the position of the bracket that closes the array at the position `start`, or the end of
/// the text. Brackets in strings and comments do not count.
fn array_end(source: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while let Some(c) = source.get(at..).and_then(|rest| rest.chars().next()) {
        let next = at + c.len_utf8();
        let rest = source.get(next..).unwrap_or_default();
        at = match c {
            '[' => {
                depth += 1;
                next
            }
            ']' if depth <= 1 => return at,
            ']' => {
                depth -= 1;
                next
            }
            '#' => next + rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => next + string_length(rest, c),
            _ => next,
        };
    }
    source.len()
}

/// Returns the length of the rest of a string, with the quotation mark that ends it. A string ends at
/// the end of its line in any case.
fn string_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        if c == '\n' {
            return at;
        }
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = quote == '"' && c == '\\' && !escaped;
    }
    rest.len()
}

/// Returns the position of the quotation mark that ends a string. In strings with double quotation
/// marks, a backslash escapes the next character.
fn closing_quote(line: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    line.char_indices().find_map(|(at, c)| {
        let closes = c == quote && !escaped;
        escaped = quote == '"' && c == '\\' && !escaped;
        closes.then_some(at)
    })
}

/// Whether a value looks like the path of a file: one word with a slash or an extension. A word
/// that looks random is not a path.
fn looks_like_path(value: &str) -> bool {
    let has_extension = value.rsplit_once('.').is_some_and(|(stem, extension)| {
        !stem.is_empty()
            && (1..=12).contains(&extension.len())
            && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    (has_extension || value.contains('/'))
        && !value.contains(|c: char| c.is_whitespace() || c.is_control())
        && random_words(value).is_empty()
}

/// Finds words that look random: keys, tokens and hashes in base64 or hexadecimal.
fn random_words(source: &str) -> Vec<Range<usize>> {
    let belongs = |c: char| is_of_a_name(c) || matches!(c, '+' | '/' | '=');
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((start, end)) = next_word(source, at, belongs) {
        at = end;
        let word = source.get(start..end).unwrap_or_default();
        // Names of files and directories can be long, but consist of short parts. So the word is
        // random only if one part alone looks random.
        if word.len() >= RANDOM_WORD && word.split(['/', '-', '_']).any(is_random) {
            found.push(start..end);
        }
    }
    found
}

fn is_random(segment: &str) -> bool {
    let has = |class: fn(&u8) -> bool| segment.bytes().any(|byte| class(&byte));
    let has_digit = has(u8::is_ascii_digit);
    let is_hex = segment.len() >= RANDOM_WORD
        && has_digit
        && segment.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_base64 = segment.len() >= RANDOM_SEGMENT
        && has_digit
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase);
    is_hex || is_base64
}

#[cfg(test)]
mod tests;
