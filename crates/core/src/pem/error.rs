//! `PemError`: why a PEM file is refused, the number of the bad line, and a remedy.

use std::borrow::Cow;
use std::fmt;

use super::block::Wanted;

/// The reason why a PEM file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PemError {
    /// Number of the bad line, from 1. `None` if the problem concerns the whole file.
    line: Option<usize>,
    problem: Problem,
}

impl PemError {
    /// Formats the problem with file name and line number: `FILE, line 7: …`.
    #[must_use]
    pub fn in_file(&self, file: impl fmt::Display) -> String {
        match self.line {
            Some(line) => format!("{file}, line {line}: {}", self.problem),
            None => format!("{file}: {}", self.problem),
        }
    }

    /// Returns advice for the operator: how to repair the file.
    #[must_use]
    pub fn remedy(&self) -> Cow<'static, str> {
        self.problem.remedy()
    }

    /// Same as [`Self::remedy`], with the names of files in its commands. `name` returns the quoted
    /// name of the file with a suffix that is appended to it.
    #[must_use]
    pub fn remedy_for(&self, name: impl Fn(&str) -> String) -> String {
        let remedy = self.remedy();
        let mut text = String::with_capacity(remedy.len());
        let mut rest = &*remedy;
        while let Some((before, after)) = rest.split_once("FILE") {
            let suffix = [".pem", ".key"]
                .into_iter()
                .find(|suffix| after.starts_with(suffix))
                .unwrap_or_default();
            text.push_str(before);
            text.push_str(&name(suffix));
            rest = after.strip_prefix(suffix).unwrap_or(after);
        }
        text.push_str(rest);
        text
    }

    /// Whether the file contains no PEM block: the file is DER or has no block at all.
    #[must_use]
    pub const fn is_no_pem(&self) -> bool {
        matches!(self.problem, Problem::NoBlock(_) | Problem::Der { .. })
    }

    /// Adds the expected kind of block to an error about a file without PEM blocks.
    pub(super) fn wanting(mut self, wanted: Wanted) -> Self {
        if let Problem::NoBlock(none) | Problem::Der { wanted: none, .. } = &mut self.problem {
            *none = Some(wanted);
        }
        self
    }
}

/// Prints the line number and the problem, without the remedy.
impl fmt::Display for PemError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "line {line}: {}", self.problem),
            None => self.problem.fmt(formatter),
        }
    }
}

/// The first or the last line of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boundary {
    Begin,
    End,
}

impl Boundary {
    const fn word(self) -> &'static str {
        match self {
            Self::Begin => "BEGIN",
            Self::End => "END",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    NoBlock(Option<Wanted>),
    Der {
        form: DerForm,
        wanted: Option<Wanted>,
    },
    Utf16,
    Binary,
    TextBefore(Boundary),
    TextAfter(Boundary),
    EscapedLineEnds,
    DamagedBoundary,
    Base64Outside,
    EncodedTwice,
    EndWithoutBegin {
        label: String,
    },
    BeginWithoutEnd {
        label: String,
    },
    LabelsDiffer {
        begin: String,
        /// Line number of the BEGIN line.
        line: usize,
        end: String,
    },
    HeaderLine,
    EncryptedOldForm,
    Character,
    Blank,
    Length,
    Padding,
    AfterPadding,
    Empty,
    Unwanted {
        label: String,
        wanted: Wanted,
    },
    OnlyKey,
    OnlyCertificate,
    SecondKey,
    SecondRequest,
    Encrypted,
    NotPkcs8 {
        label: String,
    },
}

impl Problem {
    pub(super) const fn on(self, line: usize) -> PemError {
        PemError {
            line: Some(line),
            problem: self,
        }
    }

    pub(super) const fn in_file(self) -> PemError {
        PemError {
            line: None,
            problem: self,
        }
    }

    fn remedy(&self) -> Cow<'static, str> {
        let text = match self {
            Self::NoBlock(None) => "name a PEM file",
            Self::NoBlock(Some(wanted)) => {
                return format!("name a file with -----BEGIN {}----- blocks", wanted.label())
                    .into();
            }
            Self::Der { form, wanted } => der_remedy(*form, *wanted),
            Self::Utf16 => "save it as plain text (ASCII or UTF-8)",
            Self::Binary => "files in DER form stand alone: convert them to PEM first",
            Self::TextBefore(Boundary::Begin) => {
                "let the line begin with -----BEGIN: remove what stands before it"
            }
            Self::TextBefore(Boundary::End) => "let the line begin with -----END",
            Self::TextAfter(Boundary::Begin) => {
                "end the line after its last dash; the base64 begins on the next line"
            }
            Self::TextAfter(Boundary::End) => "end the line after its last dash",
            Self::EscapedLineEnds => "write real line ends in their place: printf '%b'",
            Self::DamagedBoundary => {
                "write the line as -----BEGIN LABEL----- or -----END LABEL-----, with five dashes \
                 on both sides; if it is a comment, remove its dashes"
            }
            Self::Base64Outside
            | Self::EndWithoutBegin { .. }
            | Self::BeginWithoutEnd { .. }
            | Self::LabelsDiffer { .. }
            | Self::Character
            | Self::Length
            | Self::Padding
            | Self::AfterPadding
            | Self::Empty => "copy the file again, whole",
            Self::EncodedTwice => "decode it first: base64 -d",
            Self::HeaderLine => "remove the lines between -----BEGIN and the base64",
            Self::EncryptedOldForm => {
                "decrypt the key: openssl pkey -in FILE -out FILE.key, then chmod 600 FILE.key"
            }
            Self::Blank => "copy the file again: a + may have been turned into a blank",
            Self::Unwanted { label, wanted } => return unwanted_remedy(label, *wanted),
            Self::OnlyKey => "name the file that begins with -----BEGIN CERTIFICATE-----",
            Self::OnlyCertificate => "name the file that begins with -----BEGIN PRIVATE KEY-----",
            Self::SecondKey => "leave the one that is meant in this file",
            Self::SecondRequest => "put each request into a file of its own",
            Self::Encrypted => {
                "plain keys are read here: openssl pkey -in FILE -out FILE.key, then chmod 600 FILE.key"
            }
            Self::NotPkcs8 { .. } => {
                "convert it: openssl pkey -in FILE -out FILE.key, then chmod 600 FILE.key"
            }
        };
        text.into()
    }
}

/// What a file in DER form contains, as far as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DerForm {
    PrivateKey,
    EncryptedKey,
    Pkcs12,
    Pkcs7,
    /// A certificate, request or revocation list.
    Other,
}

impl DerForm {
    /// The OIDs signedData (1.2.840.113549.1.7.2) and PBES2 (1.2.840.113549.1.5.13) as elements. The
    /// last byte of the second differs for older ways of encryption.
    const SIGNED_DATA: [u8; 11] = [
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02,
    ];
    const PASSWORD_BASED: [u8; 10] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05];
    /// pkcs-12PbeIds (1.2.840.113549.1.12.1), the ways of encryption of PKCS#12.
    const PKCS12_BASED: [u8; 11] = [
        0x06, 0x0a, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01,
    ];

    /// INTEGER 3, with which a PKCS#12 file (PFX, RFC 7292 section 4) begins inside its SEQUENCE. No
    /// certificate, request or revocation list begins with an INTEGER.
    const PFX_VERSION: [u8; 3] = [0x02, 0x01, 0x03];

    pub(super) fn of(content: &[u8]) -> Self {
        let inner = in_sequence(content);
        let algorithm = in_sequence(inner);
        if inner.starts_with(&Self::PFX_VERSION) {
            Self::Pkcs12
        } else if inner.starts_with(&Self::SIGNED_DATA) {
            Self::Pkcs7
        } else if inner.starts_with(&[0x02, 0x01, 0x00]) || inner.starts_with(&[0x02, 0x01, 0x01]) {
            Self::PrivateKey
        } else if algorithm.starts_with(&Self::PASSWORD_BASED)
            || algorithm.starts_with(&Self::PKCS12_BASED)
        {
            Self::EncryptedKey
        } else {
            Self::Other
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::PrivateKey => "a private key in DER form",
            Self::EncryptedKey => "an encrypted private key in DER form",
            Self::Pkcs12 => "a PKCS#12 file",
            Self::Pkcs7 => "a PKCS#7 file in DER form",
            Self::Other => "in DER form",
        }
    }
}

/// Returns what follows the header of a SEQUENCE, or nothing. The SEQUENCE may be incomplete or have
/// an indefinite length, because some programs write PKCS#12 files so.
fn in_sequence(der: &[u8]) -> &[u8] {
    match der {
        [0x30, length, rest @ ..] if *length < 0x80 => rest,
        [0x30, length, rest @ ..] => rest.get(usize::from(length & 0x7f)..).unwrap_or_default(),
        _ => &[],
    }
}

const fn der_remedy(form: DerForm, wanted: Option<Wanted>) -> &'static str {
    match (form, wanted) {
        (DerForm::Pkcs12, Some(Wanted::PrivateKey)) => {
            "take the key out: openssl pkcs12 -in FILE -nocerts -nodes -out FILE.key (with -passin \
             pass: if the password is empty), then chmod 600 FILE.key"
        }
        (DerForm::Pkcs12, _) => {
            "take the certificates out: openssl pkcs12 -in FILE -nokeys -out FILE.pem (with -passin \
             pass: if the password is empty)"
        }
        (DerForm::Pkcs7, _) => {
            "take the certificates out: openssl pkcs7 -inform DER -print_certs -in FILE -out FILE.pem"
        }
        (
            DerForm::PrivateKey | DerForm::EncryptedKey | DerForm::Other,
            Some(Wanted::PrivateKey),
        ) => "convert it: openssl pkey -inform DER -in FILE -out FILE.key, then chmod 600 FILE.key",
        (DerForm::PrivateKey | DerForm::EncryptedKey, _) => {
            "name another file: this one is a private key"
        }
        (DerForm::Other, Some(Wanted::Certificate)) => {
            "convert it: openssl x509 -inform DER -in FILE -out FILE.pem"
        }
        (DerForm::Other, _) => "convert it to PEM",
    }
}

fn unwanted_remedy(label: &str, wanted: Wanted) -> Cow<'static, str> {
    match (label, wanted) {
        ("TRUSTED CERTIFICATE", _) => {
            "OpenSSL's trust settings follow the certificate; leave them out: openssl x509 -in \
             FILE -out FILE.pem"
                .into()
        }
        ("X.509 CERTIFICATE", Wanted::Certificate) | ("CRL", Wanted::RevocationList) => format!(
            "write {} in place of {label} in the block's first and last line",
            wanted.label()
        )
        .into(),
        ("PKCS7" | "PKCS #7 SIGNED DATA" | "CMS", Wanted::Certificate) => {
            "take its certificates out: openssl pkcs7 -print_certs -in FILE -out FILE.pem".into()
        }
        ("CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST", Wanted::Certificate) => {
            "this is the request for a certificate: name the certificate that was issued for it"
                .into()
        }
        ("OPENSSH PRIVATE KEY", Wanted::PrivateKey) => {
            "convert a copy of it: ssh-keygen -p -m PKCS8 -f COPY".into()
        }
        (_, Wanted::Certificate | Wanted::RevocationList) if label.ends_with("PRIVATE KEY") => {
            "a private key must not stand among trusted material: remove it from this file, and \
             replace the key if others could read it"
                .into()
        }
        _ => format!("move the {label} block to a file of its own").into(),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NoBlock(None) => "it holds no PEM block",
            Self::NoBlock(Some(wanted)) => {
                return write!(formatter, "it holds no PEM {}", wanted.noun());
            }
            Self::Der { form, .. } => {
                return write!(formatter, "it is {}, and PEM is expected", form.words());
            }
            Self::Utf16 => "it is UTF-16 text",
            Self::Binary => "there are binary data outside of PEM blocks",
            Self::TextBefore(boundary) => {
                return write!(formatter, "there is text before -----{}", boundary.word());
            }
            Self::TextAfter(boundary) => {
                return write!(
                    formatter,
                    "there is text after the last dash of the -----{} line",
                    boundary.word()
                );
            }
            Self::EscapedLineEnds => "line ends are written as \\n",
            Self::DamagedBoundary => {
                "this looks like the first or last line of a PEM block and is none"
            }
            Self::Base64Outside => "there is base64 outside of PEM blocks",
            Self::EncodedTwice => "this is a PEM file that was encoded in base64 once more",
            Self::EndWithoutBegin { label } => {
                return write!(
                    formatter,
                    "-----END {label}----- has no -----BEGIN {label}-----"
                );
            }
            Self::BeginWithoutEnd { label } => {
                return write!(
                    formatter,
                    "-----BEGIN {label}----- has no -----END {label}-----"
                );
            }
            Self::LabelsDiffer { begin, line, end } => {
                return write!(
                    formatter,
                    "the block ends as {end} and begins as {begin} (line {line})"
                );
            }
            Self::HeaderLine => "there are header lines in the block",
            Self::EncryptedOldForm => "the private key is encrypted in OpenSSL's old form",
            Self::Character => "there is a character that is not base64",
            Self::Blank => "there is a blank within the base64",
            Self::Length => "the base64 of the block is incomplete",
            Self::Padding => "the base64 of the block does not end as base64 does",
            Self::AfterPadding => "base64 goes on after its end (=)",
            Self::Empty => "the block is empty",
            Self::Unwanted { label, wanted } => {
                return write!(
                    formatter,
                    "there is a {label} block; only {} blocks belong here",
                    wanted.label()
                );
            }
            Self::OnlyKey => "it holds a private key and no certificate",
            Self::OnlyCertificate => "it holds a certificate and no private key",
            Self::SecondKey => "there is a second private key",
            Self::SecondRequest => "there is a second request",
            Self::Encrypted => "the private key is protected by a passphrase",
            Self::NotPkcs8 { label } => {
                return write!(formatter, "the key is {label}, and PKCS#8 is expected");
            }
        };
        formatter.write_str(text)
    }
}
