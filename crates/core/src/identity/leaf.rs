//! `LeafFacts`: the facts that an end-entity certificate states about itself.
//!
//! The facts are read once in each full handshake, before the certificate is verified. If the
//! handshake is refused, the audit record contains them as unproven. The facts are not a verified
//! identity: only [`crate::trust`] makes a verified identity.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_parser::der_parser::asn1_rs::{Any, Class, Sequence, Tag};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Name;

use super::text::hex;
use crate::crypto;

/// The subject alternative names of a certificate by type, in the order of the certificate. Nothing
/// is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectAltNames {
    /// Names of type uniformResourceIdentifier.
    pub uri: Vec<String>,
    /// Names of type dNSName.
    pub dns: Vec<String>,
    /// Names of type rfc822Name.
    pub email: Vec<String>,
    /// Names of type iPAddress.
    pub ip: Vec<IpAddr>,
    /// User principal names: names of type otherName with Microsoft's OID. A value that is not one
    /// UTF8String is an empty text here, which is no valid name.
    pub upn: Vec<String>,
    /// Number of names of other types.
    pub other: usize,
}

impl SubjectAltNames {
    /// Returns the names as a short text for messages, for example `spiffe://example.org/a, dns:b`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut names: Vec<String> = self.uri.clone();
        names.extend(self.dns.iter().map(|name| format!("dns:{name}")));
        names.extend(self.email.iter().map(|name| format!("mailto:{name}")));
        names.extend(self.ip.iter().map(|address| format!("ip:{address}")));
        names.extend(self.upn.iter().map(|name| format!("upn:{name}")));
        if self.other > 0 {
            names.push(format!("{} of another type", self.other));
        }
        if names.is_empty() {
            "no subject alternative name".to_owned()
        } else {
            super::text::printable(&names.join(", "))
        }
    }
}

/// The facts that a certificate states about itself. Nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFacts {
    /// SHA-256 hash of the certificate's DER: `x5t#S256` (RFC 8705 section 3.1).
    pub thumbprint: [u8; 32],
    /// Subject in RFC 4514 form.
    pub subject: String,
    /// Issuer in RFC 4514 form.
    pub issuer: String,
    /// The issuer's name in DER, which is compared with the subjects of authorities.
    pub issuer_der: Vec<u8>,
    /// Serial number: big-endian bytes without leading zero bytes.
    pub serial: Vec<u8>,
    /// notBefore in seconds since the Unix epoch.
    pub not_before: i64,
    /// notAfter in seconds since the Unix epoch.
    pub not_after: i64,
    /// Subject alternative names.
    pub sans: SubjectAltNames,
    /// Whether basicConstraints has `cA` set.
    pub is_ca: bool,
    /// The bits of keyUsage: bit 0 is digitalSignature, bit 5 is keyCertSign. `None` if the
    /// certificate has no keyUsage.
    pub key_usage: Option<u16>,
    /// The purposes in extendedKeyUsage. `None` if the certificate has no extendedKeyUsage.
    pub extended_key_usage: Option<ExtendedKeyUsages>,
}

/// Whether extendedKeyUsage allows the certificate for TLS clients and for TLS servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedKeyUsages {
    /// Whether the extension contains id-kp-clientAuth.
    pub client: bool,
    /// Whether the extension contains id-kp-serverAuth.
    pub server: bool,
}

/// Masks for the field `key_usage` of `LeafFacts` (RFC 5280 section 4.2.1.3). Bit 0 of keyUsage is
/// the lowest bit.
pub mod key_usage {
    /// Mask of digitalSignature, bit 0.
    pub const DIGITAL_SIGNATURE: u16 = 1;
    /// Mask of keyCertSign, bit 5.
    pub const KEY_CERT_SIGN: u16 = 1 << 5;
    /// Mask of cRLSign, bit 6.
    pub const CRL_SIGN: u16 = 1 << 6;
    /// Usages that a leaf must not have (X509-SVID section 5.2). The gateway refuses them in every
    /// leaf, with and without a SPIFFE ID, because only an authority signs certificates or
    /// revocation lists.
    pub const OF_AUTHORITIES: u16 = KEY_CERT_SIGN | CRL_SIGN;
}

/// The reason why bytes cannot be read as a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnreadableCertificate(pub String);

impl LeafFacts {
    /// Reads the facts from a certificate in DER.
    ///
    /// # Errors
    /// If the bytes are not a certificate, or if an extension with one of the facts is malformed or
    /// occurs twice.
    pub fn read(der: &[u8]) -> Result<Self, UnreadableCertificate> {
        let unreadable = |what: &str| UnreadableCertificate(what.to_owned());
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| unreadable("it is not a certificate"))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes follow the certificate"));
        }
        let mut sans = None;
        let mut is_ca = None;
        let mut usage = None;
        let mut extended = None;
        for extension in certificate.extensions() {
            let twice = match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    if !names_are_well_encoded(extension.value) {
                        return Err(unreadable("a subject alternative name is malformed"));
                    }
                    sans.replace(read_names(&names.general_names)?).is_some()
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    is_ca.replace(constraints.ca).is_some()
                }
                ParsedExtension::KeyUsage(bits) => usage.replace(bits.flags).is_some(),
                ParsedExtension::ExtendedKeyUsage(usages) => extended
                    .replace(ExtendedKeyUsages {
                        client: usages.client_auth,
                        server: usages.server_auth,
                    })
                    .is_some(),
                ParsedExtension::ParseError { .. } => {
                    return Err(unreadable("one of its extensions is malformed"));
                }
                _ => false,
            };
            if twice {
                return Err(unreadable("one of its extensions stands twice"));
            }
        }
        Ok(Self {
            thumbprint: crypto::sha256(der),
            subject: rfc4514(certificate.subject()),
            issuer: rfc4514(certificate.issuer()),
            issuer_der: certificate.issuer().as_raw().to_vec(),
            serial: significant(certificate.raw_serial()).to_vec(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            sans: sans.unwrap_or_default(),
            is_ca: is_ca.unwrap_or(false),
            key_usage: usage,
            extended_key_usage: extended,
        })
    }

    /// Returns the serial number in lower-case hexadecimal.
    #[must_use]
    pub fn serial_hex(&self) -> String {
        hex(&self.serial)
    }

    /// Whether keyUsage allows the usage `bit`, which is a mask. Returns true if the certificate
    /// has no keyUsage, because all usages are allowed then.
    #[must_use]
    pub fn usage_allows(&self, bit: u16) -> bool {
        self.key_usage.is_none_or(|bits| bits & bit != 0)
    }

    /// Whether the certificate states that it belongs to an authority: by `cA`, keyCertSign or
    /// cRLSign.
    #[must_use]
    pub fn claims_authority(&self) -> bool {
        self.is_ca
            || self
                .key_usage
                .is_some_and(|bits| bits & key_usage::OF_AUTHORITIES != 0)
    }
}

/// Returns an integer without leading zero bytes. Zero itself has one byte.
#[must_use]
pub fn significant(integer: &[u8]) -> &[u8] {
    match integer {
        [0, rest @ ..] if !rest.is_empty() => significant(rest),
        other => other,
    }
}

fn read_names(names: &[GeneralName<'_>]) -> Result<SubjectAltNames, UnreadableCertificate> {
    let mut read = SubjectAltNames::default();
    for name in names {
        match name {
            GeneralName::URI(uri) => read.uri.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => read.dns.push((*dns).to_owned()),
            GeneralName::RFC822Name(email) => read.email.push((*email).to_owned()),
            GeneralName::IPAddress(octets) => read.ip.push(
                ip_address(octets)
                    .ok_or_else(|| UnreadableCertificate("an IP name is malformed".into()))?,
            ),
            GeneralName::Invalid(..) => {
                return Err(UnreadableCertificate(
                    "a subject alternative name is malformed".into(),
                ));
            }
            GeneralName::OtherName(oid, value) if oid.to_id_string() == USER_PRINCIPAL_NAME => {
                read.upn.push(utf8_value(value).unwrap_or_default());
            }
            _ => read.other += 1,
        }
    }
    Ok(read)
}

/// The OID of user principal names (szOID_NT_PRINCIPAL_NAME).
const USER_PRINCIPAL_NAME: &str = "1.3.6.1.4.1.311.20.2.3";

/// Returns the text in the value of an otherName: `[0] EXPLICIT UTF8String`, and nothing else.
fn utf8_value(value: &[u8]) -> Option<String> {
    let (rest, explicit) = Any::from_der(value).ok()?;
    let is_explicit = explicit.class() == Class::ContextSpecific
        && explicit.tag() == Tag(0)
        && explicit.header.constructed();
    if !rest.is_empty() || !is_explicit || has_long_tag(value) || has_long_tag(explicit.data) {
        return None;
    }
    let (rest, text) = Any::from_der(explicit.data).ok()?;
    let is_utf8 = text.class() == Class::Universal
        && text.tag() == Tag::Utf8String
        && !text.header.constructed();
    if !rest.is_empty() || !is_utf8 {
        return None;
    }
    str::from_utf8(text.data).ok().map(str::to_owned)
}

/// Whether each name in a subjectAltName extension has the DER form (primitive or constructed) of
/// its type. x509-parser accepts names in the wrong form, but webpki ignores them. Name constraints
/// would then not apply to these names.
fn names_are_well_encoded(extension: &[u8]) -> bool {
    let Ok((_, names)) = Sequence::from_der(extension) else {
        return false;
    };
    let mut rest = names.content.as_ref();
    while !rest.is_empty() {
        let Ok((after, name)) = Any::from_der(rest) else {
            return false;
        };
        if has_long_tag(rest) {
            return false;
        }
        // Names with these tags are strings, addresses or OIDs with implicit tags (RFC 5280 section
        // 4.2.1.6), so they must be primitive. Names with other tags must be constructed.
        let implicit = matches!(name.header.tag().0, 1 | 2 | 6 | 7 | 8);
        if name.header.constructed() == implicit {
            return false;
        }
        rest = after;
    }
    true
}

/// Whether the tag of an element is encoded in several bytes. DER encodes tags below 31 in one byte
/// (X.690 section 8.1.2), and names have no others. webpki does not read such an element as a name.
fn has_long_tag(element: &[u8]) -> bool {
    element.first().is_some_and(|byte| byte & 0x1f == 0x1f)
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(octets)
        .ok()
        .map(|octets| Ipv6Addr::from(octets).into())
}

/// Formats a distinguished name as RFC 4514 text. The last attribute of the name comes first, and
/// special characters are escaped.
#[must_use]
pub fn rfc4514(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            let oid = attribute.attr_type().to_id_string();
            match (short_name(&oid), attribute.as_str()) {
                (Some(short), Ok(value)) => {
                    let _ = write!(text, "{short}=");
                    escape_into(&mut text, value);
                }
                _ => {
                    let value = attribute.attr_value();
                    let _ = write!(text, "{oid}=#{:02x}", tag_octet(value.tag()));
                    let _ = write!(text, "{}", hex(&length_and(value.data)));
                }
            }
        }
    }
    text
}

fn tag_octet(tag: Tag) -> u32 {
    tag.0 & 0xff
}

fn length_and(data: &[u8]) -> Vec<u8> {
    let mut encoded = match u8::try_from(data.len()) {
        Ok(short) if short < 0x80 => vec![short],
        _ => {
            let length = data.len().to_be_bytes();
            let length = significant(&length);
            let mut long = vec![0x80 | u8::try_from(length.len()).unwrap_or(8)];
            long.extend_from_slice(length);
            long
        }
    };
    encoded.extend_from_slice(data);
    encoded
}

/// OIDs of attribute types, with their short names from RFC 4514 section 3.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

fn short_name(oid: &str) -> Option<&'static str> {
    let mut names = SHORT_NAMES.iter();
    names
        .find(|(known, _)| *known == oid)
        .map(|(_, short)| *short)
}

/// Whether `text` has exactly the form in which [`rfc4514`] prints names. A name in another form is
/// never equal to the name of a certificate.
#[must_use]
pub fn is_rfc4514(text: &str) -> bool {
    let mut escaped = false;
    let separates = |character: char| {
        let separates = !escaped && matches!(character, ',' | '+');
        escaped = !escaped && character == '\\';
        separates
    };
    text.split(separates).all(is_attribute)
}

fn is_attribute(text: &str) -> bool {
    let Some((kind, value)) = text.split_once('=') else {
        return false;
    };
    if let Some(encoding) = value.strip_prefix('#') {
        let is_oid = kind.split('.').count() > 1
            && kind
                .split('.')
                .all(|arc| !arc.is_empty() && arc.bytes().all(|b| b.is_ascii_digit()));
        let digit = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
        return is_oid && encoding.len() % 2 == 0 && encoding.bytes().all(digit);
    }
    let is_known = SHORT_NAMES.iter().any(|(_, short)| *short == kind);
    let mut again = String::new();
    is_known
        && unescaped(value).is_some_and(|plain| {
            escape_into(&mut again, &plain);
            again == value
        })
}

/// Removes the escapes that [`escape_into`] adds. Returns `None` if an escape is malformed.
fn unescaped(value: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(value.len());
    let mut octets = value.bytes();
    while let Some(octet) = octets.next() {
        if octet != b'\\' {
            plain.push(octet);
            continue;
        }
        let next = octets.next()?;
        match char::from(next).to_digit(16) {
            None => plain.push(next),
            Some(high) => {
                let low = char::from(octets.next()?).to_digit(16)?;
                plain.push(u8::try_from(high << 4 | low).ok()?);
            }
        }
    }
    String::from_utf8(plain).ok()
}

/// Appends `value` with the escapes of RFC 4514 section 2.4. Control characters become `\xx`, where
/// `xx` is hexadecimal.
fn escape_into(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        let special = matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (index == 0 && matches!(character, ' ' | '#'))
            || (index == last && character == ' ');
        if special {
            text.push('\\');
            text.push(character);
        } else if character.is_control() {
            let mut utf8 = [0_u8; 4];
            for octet in character.encode_utf8(&mut utf8).bytes() {
                let _ = write!(text, "\\{octet:02x}");
            }
        } else {
            text.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(params: rcgen::CertificateParams) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    /// A library that reads such tags finds a name where webpki finds none.
    #[test]
    fn tags_of_several_bytes_are_malformed() {
        let extension = |tag: &[u8]| {
            let name = [tag, &[3, b'a', b'.', b'b']].concat();
            let length = u8::try_from(name.len()).unwrap();
            [&[0x30, length][..], &name].concat()
        };
        assert!(names_are_well_encoded(&extension(&[0x82])));
        assert!(!names_are_well_encoded(&extension(&[0x9f, 2])));
        let text = [0x0c, 3, b'a', b'@', b'b'];
        let value = |tag: &[u8]| utf8_value(&[tag, &[5], &text].concat());
        assert_eq!(value(&[0xa0]), Some("a@b".to_owned()));
        assert_eq!(value(&[0xbf, 0]), None);
    }

    #[test]
    fn reads_names_serial_and_usages() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example.org".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(
            "spiffe://example.org/a".try_into().unwrap(),
        ));
        params
            .subject_alt_names
            .push(rcgen::SanType::IpAddress("10.0.0.1".parse().unwrap()));
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0xab, 0x01]));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "Shop, Inc");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "#a\n");
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let facts = LeafFacts::read(&certificate(params)).unwrap();
        assert_eq!(facts.serial_hex(), "ab01");
        assert_eq!(facts.sans.uri, ["spiffe://example.org/a"]);
        assert_eq!(facts.sans.dns, ["a.example.org"]);
        assert_eq!(facts.sans.ip, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(facts.subject, "CN=\\#a\\0a,O=Shop\\, Inc");
        assert!(facts.claims_authority() && !facts.usage_allows(key_usage::DIGITAL_SIGNATURE));
    }

    #[test]
    fn tells_the_printed_form_of_a_name_from_others() {
        for printed in [
            "CN=example.org intermediate",
            "CN=\\#a\\0a,O=Shop\\, Inc",
            "CN=a+UID=b=c,DC=example,DC=org",
            "CN=\\ a\\ ,1.2.840.113549.1.9.1=#160161,O=M\u{fc}ller",
            "CN=",
        ] {
            assert!(is_rfc4514(printed), "{printed}");
        }
        for other in [
            "",
            "example.org",
            "CN = a",
            "CN=a, O=b",
            "CN=a,",
            "/CN=a",
            "cn=a",
            "CN=a ",
            "CN=\\a",
            "CN=\\61",
            "CN=a\\",
            "emailAddress=a@example.org",
            "1.2.840.113549.1.9.1=a@example.org",
            "CN=#0c0161",
            "1.2.3=#0C",
        ] {
            assert!(!is_rfc4514(other), "{other}");
        }
    }

    #[test]
    fn refuses_names_in_another_encoding() {
        let mut params = rcgen::CertificateParams::default();
        let uri = "spiffe://example.org/a";
        params
            .subject_alt_names
            .push(rcgen::SanType::URI(uri.try_into().unwrap()));
        let der = certificate(params);
        assert!(LeafFacts::read(&der).is_ok());
        let at = der.windows(6).position(|w| w == b"spiffe").unwrap();
        let mut constructed = der;
        constructed[at - 2] |= 0x20;
        assert!(LeafFacts::read(&constructed).is_err());
    }

    #[test]
    fn refuses_rubbish_and_trailing_bytes() {
        assert!(LeafFacts::read(b"").is_err());
        assert!(LeafFacts::read(b"0\x03abc").is_err());
        let mut der = certificate(rcgen::CertificateParams::default());
        der.push(0);
        assert!(LeafFacts::read(&der).is_err());
    }
}
