//! PEM files (RFC 7468): the only PEM reader of the project, and the writer of certificates and
//! CRLs.
//!
//! If the reader skipped a damaged block, a root would not be trusted, or a revoked certificate
//! would be accepted. The reader therefore reads a file completely or rejects it. Every line must
//! be part of a block, blank, or explanatory text. If a line may belong to a damaged block, the
//! reader returns an error with the line's number. The exact rule is in `parse`.
//!
//! The reader accepts a byte order mark, every kind of line end, blanks around lines, and blank
//! lines. It accepts explanatory text between blocks (`openssl x509 -text`, `Bag Attributes`,
//! comments). It also accepts `-----END X----------BEGIN X-----` on one line. `cat` writes such a
//! line if the first file does not end with a line break.
//!
//! The reader parses ASN.1 only to convert private keys. Errors never quote the content of a block, because it may be a
//! private key.
//!
//! - `parse`: finds the blocks of a file
//! - `error`: the reason why a file is rejected, with the line number and a remedy
//! - `pkcs8`: converts private keys to PKCS#8
//! - `block`: one block, and the kinds of content that a file may have to contain

mod block;
mod error;
mod parse;
mod pkcs8;
#[cfg(test)]
mod tests;

use base64ct::{Base64, Encoding as _};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

pub use self::block::Block;
use self::block::{CERTIFICATE, REQUEST, REVOCATION_LIST, Wanted};
pub use self::error::PemError;
use self::error::{DerForm, Problem};
pub use self::pkcs8::{lacks_public_part, with_public_part};

/// Number of base64 characters on a line that the writer writes (RFC 7468 section 2).
const LINE_LENGTH: usize = 64;

/// The encoding of a private key in a PEM block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyForm {
    /// PKCS#8 (RFC 5958).
    Pkcs8,
    /// PKCS#8, encrypted with a passphrase.
    EncryptedPkcs8,
    /// SEC 1 (RFC 5915).
    Sec1,
    /// PKCS#1 (RFC 8017).
    Pkcs1,
}

impl KeyForm {
    fn of(label: &str) -> Option<Self> {
        Some(match label {
            "PRIVATE KEY" => Self::Pkcs8,
            "ENCRYPTED PRIVATE KEY" => Self::EncryptedPkcs8,
            "EC PRIVATE KEY" => Self::Sec1,
            "RSA PRIVATE KEY" => Self::Pkcs1,
            _ => return None,
        })
    }
}

/// A private key in PKCS#8.
pub struct Pkcs8Key {
    is_encrypted: bool,
    der: Zeroizing<Vec<u8>>,
}

impl Pkcs8Key {
    fn from_block(form: KeyForm, block: Block) -> Result<Self, PemError> {
        let converted = match form {
            KeyForm::Pkcs8 => Some(block.der),
            KeyForm::EncryptedPkcs8 => {
                return Ok(Self {
                    is_encrypted: true,
                    der: block.der,
                });
            }
            KeyForm::Sec1 => pkcs8::from_sec1(&block.der),
            KeyForm::Pkcs1 => pkcs8::from_pkcs1(&block.der),
        };
        let (line, label) = (block.line, block.label);
        let der = converted.ok_or_else(|| Problem::NotPkcs8 { label }.on(line))?;
        Ok(Self {
            is_encrypted: false,
            der,
        })
    }

    /// Returns whether the key is encrypted with a passphrase.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Returns the DER of the key, which may be encrypted with a passphrase. Keep the borrow short,
    /// and never log the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.der
    }
}

impl std::fmt::Debug for Pkcs8Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pkcs8Key")
            .field("is_encrypted", &self.is_encrypted)
            .finish_non_exhaustive()
    }
}

/// Reads all blocks of a file, whatever their labels are. Returns at least one block.
///
/// # Errors
/// Returns an error if the file has no block, or if a part of it may be a damaged block.
pub fn blocks(content: &[u8]) -> Result<Vec<Block>, PemError> {
    if is_der(content) {
        let form = DerForm::of(content);
        return Err(Problem::Der { form, wanted: None }.in_file());
    }
    let blocks = parse::blocks(content)?;
    if blocks.is_empty() {
        return Err(Problem::NoBlock(None).in_file());
    }
    Ok(blocks)
}

/// Reads the certificates of a file that must not contain anything else. Returns at least one
/// certificate.
///
/// # Errors
/// Returns the errors of [`blocks`]. Also returns an error if a block is not a certificate.
pub fn certificates(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let wanted = Wanted::Certificate;
    let blocks = blocks(content).map_err(|error| error.wanting(wanted))?;
    let certificates = blocks.into_iter().map(|block| {
        if !is_certificate(&block.label) {
            return Err(unwanted(&block, wanted));
        }
        Ok(CertificateDer::from(block.into_der()))
    });
    certificates.collect()
}

/// Reads the certificates of a file that may also contain their private key, because some programs
/// need both in one file. Returns at least one certificate.
///
/// # Errors
/// Returns the errors of [`blocks`]. Also returns an error if there is no certificate, or if a
/// block is neither a certificate nor a key.
pub fn certificates_beside_key(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let wanted = Wanted::Certificate;
    let mut certificates = Vec::new();
    for block in blocks(content).map_err(|error| error.wanting(wanted))? {
        if is_certificate(&block.label) {
            certificates.push(CertificateDer::from(block.into_der()));
        } else if KeyForm::of(&block.label).is_none() && !is_parameters(&block.label) {
            return Err(unwanted(&block, wanted));
        }
    }
    if certificates.is_empty() {
        return Err(Problem::OnlyKey.in_file());
    }
    Ok(certificates)
}

/// Reads the private key of a file for rustls. The key may have any encoding that is not encrypted
/// with a passphrase. The file may also contain the key's certificates.
///
/// # Errors
/// Returns the errors of [`blocks`]. Also returns an error if the key is encrypted, or if there is
/// no key, more than one key, or a block of another type.
pub fn private_key(content: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let (form, block) = key_block(content)?;
    let line = block.line;
    let der = block.into_der();
    Ok(match form {
        KeyForm::Pkcs8 => PrivateKeyDer::Pkcs8(der.into()),
        KeyForm::Sec1 => PrivateKeyDer::Sec1(der.into()),
        KeyForm::Pkcs1 => PrivateKeyDer::Pkcs1(der.into()),
        KeyForm::EncryptedPkcs8 => return Err(Problem::Encrypted.on(line)),
    })
}

/// Reads the private key of a file as PKCS#8, encrypted or not. Does not decrypt the key. Converts
/// other encodings. The file may also contain the key's certificates.
///
/// # Errors
/// Returns the errors of [`private_key`], except that an encrypted key is no error. Also returns an
/// error if an EC key does not name its curve.
pub fn pkcs8_key(content: &[u8]) -> Result<Pkcs8Key, PemError> {
    let (form, block) = key_block(content)?;
    Pkcs8Key::from_block(form, block)
}

/// Reads the PKCS#8 private key of a file, without a passphrase. The file may also contain the
/// key's certificates.
///
/// # Errors
/// Returns the errors of [`pkcs8_key`]. Also returns an error if the key is encrypted.
pub fn plain_pkcs8_key(content: &[u8]) -> Result<Pkcs8Key, PemError> {
    let (form, block) = key_block(content)?;
    match form {
        KeyForm::EncryptedPkcs8 => Err(Problem::Encrypted.on(block.line)),
        _ => Pkcs8Key::from_block(form, block),
    }
}

/// Returns the block of the private key. There must be exactly one, because the reader cannot know
/// which of several keys is the right one.
fn key_block(content: &[u8]) -> Result<(KeyForm, Block), PemError> {
    let wanted = Wanted::PrivateKey;
    let mut found = None;
    let mut has_certificate = false;
    for block in blocks(content).map_err(|error| error.wanting(wanted))? {
        match KeyForm::of(&block.label) {
            Some(_) if found.is_some() => return Err(Problem::SecondKey.on(block.line)),
            Some(form) => found = Some((form, block)),
            None if is_certificate(&block.label) => has_certificate = true,
            None if is_parameters(&block.label) => {}
            None => return Err(unwanted(&block, wanted)),
        }
    }
    found.ok_or_else(|| match has_certificate {
        true => Problem::OnlyCertificate.in_file(),
        false => Problem::NoBlock(Some(wanted)).in_file(),
    })
}

/// Reads the CRLs of a file that must not contain anything else. The file contains one or more CRLs
/// in PEM, or a single CRL in DER.
///
/// # Errors
/// Returns the errors of [`blocks`]. Also returns an error if a block is not a CRL.
pub fn revocation_lists(
    content: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    if is_der(content) {
        return Ok(vec![content.to_vec().into()]);
    }
    let wanted = Wanted::RevocationList;
    let blocks = blocks(content).map_err(|error| error.wanting(wanted))?;
    let lists = blocks.into_iter().map(|block| {
        if block.label != REVOCATION_LIST {
            return Err(unwanted(&block, wanted));
        }
        Ok(CertificateRevocationListDer::from(block.into_der()))
    });
    lists.collect()
}

/// Reads the PKCS#10 certificate request of a file, in PEM or DER. There must be exactly one
/// request.
///
/// # Errors
/// Returns the errors of [`blocks`]. Also returns an error if there is a block of another type, or
/// a second request.
pub fn request(content: &[u8]) -> Result<Vec<u8>, PemError> {
    if is_der(content) {
        return Ok(content.to_vec());
    }
    let wanted = Wanted::Request;
    let mut found = None;
    for block in blocks(content).map_err(|error| error.wanting(wanted))? {
        // Older tools write `NEW CERTIFICATE REQUEST` (RFC 7468 section 7).
        if !matches!(block.label(), REQUEST | "NEW CERTIFICATE REQUEST") {
            return Err(unwanted(&block, wanted));
        }
        if found.is_some() {
            return Err(Problem::SecondRequest.on(block.line));
        }
        found = Some(block.into_der());
    }
    found.ok_or_else(|| Problem::NoBlock(Some(wanted)).in_file())
}

/// Returns whether `content` is not PEM, but the DER of a certificate, request, CRL or key. Such
/// DER begins with a SEQUENCE whose length is in the long form. No text begins with these two
/// bytes. Small keys have a length in the short form, and begin with a version, which no text
/// contains.
#[must_use]
pub const fn is_der(content: &[u8]) -> bool {
    matches!(content, [0x30, length, ..] if *length >= 0x80)
        || matches!(content, [0x30, _, 0x02, 0x01, 0 | 1, ..])
}

/// Whether `content` is a PKCS#12 file, as far as its first bytes tell.
#[must_use]
pub fn is_pkcs12(content: &[u8]) -> bool {
    DerForm::of(content) == DerForm::Pkcs12
}

/// Same as [`is_der`], but false for what is certainly no certificate: a private key, a PKCS#12 or
/// a PKCS#7 file.
#[must_use]
pub fn may_be_certificate(content: &[u8]) -> bool {
    is_der(content) && DerForm::of(content) == DerForm::Other
}

/// Completes the private key of a certificate for rustls, if it is an EC key without its public
/// part. `public` is the SubjectPublicKeyInfo of the certificate.
#[must_use]
pub fn complete(key: PrivateKeyDer<'static>, public: &[u8]) -> PrivateKeyDer<'static> {
    let whole = match &key {
        PrivateKeyDer::Pkcs8(key) => with_public_part(key.secret_pkcs8_der(), public),
        PrivateKeyDer::Sec1(key) => {
            pkcs8::from_sec1(key.secret_sec1_der()).and_then(|key| with_public_part(&key, public))
        }
        _ => None,
    };
    match whole {
        Some(mut whole) => PrivateKeyDer::Pkcs8(std::mem::take(&mut *whole).into()),
        None => key,
    }
}

/// Returns whether `label` is the label of a certificate. Old programs write `X509 CERTIFICATE`,
/// which OpenSSL reads like `CERTIFICATE`. `TRUSTED CERTIFICATE` is not accepted, because its block
/// also contains OpenSSL's trust settings.
fn is_certificate(label: &str) -> bool {
    matches!(label, CERTIFICATE | "X509 CERTIFICATE")
}

/// Returns whether `label` is the label of a parameters block. Such blocks are ignored. `openssl
/// ecparam -genkey` writes `EC PARAMETERS` with each key. Files that were made for other servers
/// may contain `DH PARAMETERS`.
fn is_parameters(label: &str) -> bool {
    label.ends_with(" PARAMETERS")
}

fn unwanted(block: &Block, wanted: Wanted) -> PemError {
    Problem::Unwanted {
        label: block.label.clone(),
        wanted,
    }
    .on(block.line)
}

/// Encodes one certificate as PEM.
#[must_use]
pub fn encode_certificate(der: &[u8]) -> String {
    encode(CERTIFICATE, der)
}

/// Encodes one CRL as PEM.
#[must_use]
pub fn encode_revocation_list(der: &[u8]) -> String {
    encode(REVOCATION_LIST, der)
}

fn encode(label: &str, der: &[u8]) -> String {
    let body = Base64::encode_string(der);
    let mut text = String::with_capacity(body.len() + body.len() / LINE_LENGTH + 80);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(LINE_LENGTH).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}
