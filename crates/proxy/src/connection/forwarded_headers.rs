//! `Forwarded` (RFC 7239), `X-Forwarded-*` and the certificate fields. They tell the service about
//! the caller's connection.
//!
//! The caller's own fields with these names were removed from the request before
//! ([`crate::wire::headers`]). The gateway does not sign these fields. They are for logs and links
//! only. Services must base decisions on the assertion.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use base64ct::{Base64, Encoding as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;

use crate::identity::LeafFacts;
use crate::identity::text::hex;
use crate::upstream::{CertificateFields, ForwardedFields};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Field values that are the same for all requests of a connection. Each value is made when it is
/// first needed.
#[derive(Debug, Default)]
pub(crate) struct ForwardedHeaderCache {
    address: OnceLock<HeaderValue>,
    leaf: OnceLock<HeaderValue>,
    issuers: OnceLock<Option<HeaderValue>>,
    xfcc: OnceLock<HeaderValue>,
}

impl ForwardedHeaderCache {
    fn address(&self, peer: SocketAddr) -> &HeaderValue {
        self.address.get_or_init(|| {
            HeaderValue::from_str(&peer.ip().to_canonical().to_string())
                .unwrap_or(HeaderValue::from_static("unknown"))
        })
    }

    /// Adds the fields that contain the address of the caller. `authority` is the authority in the
    /// caller's request.
    pub(crate) fn add_address(
        &self,
        headers: &mut HeaderMap,
        fields: ForwardedFields,
        peer: SocketAddr,
        authority: &str,
    ) {
        if matches!(fields, ForwardedFields::XForwarded | ForwardedFields::Both) {
            headers.insert(FOR, self.address(peer).clone());
            headers.insert(PROTO, HTTPS);
            if let Ok(host) = HeaderValue::from_str(authority) {
                headers.insert(HOST, host);
            }
        }
        if matches!(fields, ForwardedFields::Forwarded | ForwardedFields::Both)
            && let Ok(value) = HeaderValue::from_str(&forwarded_element(peer, authority))
        {
            headers.insert(FORWARDED, value);
        }
    }

    /// Adds the caller's verified certificate, in the fields that are configured for the upstream.
    pub(crate) fn add_certificate(
        &self,
        headers: &mut HeaderMap,
        fields: CertificateFields,
        chain: &[CertificateDer<'static>],
        leaf: &LeafFacts,
    ) {
        if fields.client_cert {
            let value = self
                .leaf
                .get_or_init(|| byte_sequences(chain.iter().take(1)));
            headers.insert(CLIENT_CERT, value.clone());
        }
        if fields.client_cert_chain
            && let Some(value) = self
                .issuers
                .get_or_init(|| (chain.len() > 1).then(|| byte_sequences(chain.iter().skip(1))))
        {
            headers.insert(CLIENT_CERT_CHAIN, value.clone());
        }
        if fields.xfcc {
            let value = self.xfcc.get_or_init(|| {
                HeaderValue::from_str(&xfcc_element(leaf)).unwrap_or(HeaderValue::from_static(""))
            });
            headers.insert(XFCC, value.clone());
        }
    }
}

/// Makes one `forwarded-element` (RFC 7239 section 4).
fn forwarded_element(peer: SocketAddr, authority: &str) -> String {
    let mut value = match peer.ip().to_canonical() {
        IpAddr::V4(address) => format!("for={address}"),
        // RFC 7239 section 6: an IPv6 address needs brackets, and brackets need quotes.
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    // `target::normalized_host` has checked the authority. It contains no quotes or backslashes.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let _ = if authority.bytes().all(is_token) {
        write!(value, ";host={authority}")
    } else {
        write!(value, ";host=\"{authority}\"")
    };
    value.push_str(";proto=https");
    value
}

/// Encodes certificates as a list of byte sequences (RFC 9440 section 2.1, RFC 8941 section 3.3.5).
fn byte_sequences<'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> HeaderValue {
    let mut text = String::new();
    for certificate in certificates {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push(':');
        text.push_str(&Base64::encode_string(certificate));
        text.push(':');
    }
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Makes one element of `X-Forwarded-Client-Cert` in Envoy's format: hash, subject, URIs and DNS
/// names.
///
/// Services parse this field in different ways. No parser may find the end of a quoted value too
/// early, or find another key inside a value. Quotation marks and backslashes in the subject are
/// therefore percent-encoded. Names with characters that are invalid in URLs or DNS names are
/// omitted.
fn xfcc_element(leaf: &LeafFacts) -> String {
    let mut text = format!("Hash={}", hex(&leaf.thumbprint));
    text.push_str(";Subject=\"");
    for byte in leaf.subject.bytes() {
        match byte {
            b'"' | b'\\' | b'%' => {
                let _ = write!(text, "%{byte:02X}");
            }
            0x20..=0x7e => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text.push('"');
    let in_url = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(
                byte,
                b'"' | b'\\' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}'
            )
    };
    for uri in &leaf.sans.uri {
        if uri.bytes().all(in_url) {
            let _ = if uri.contains([',', ';', '=']) {
                write!(text, ";URI=\"{uri}\"")
            } else {
                write!(text, ";URI={uri}")
            };
        }
    }
    let in_dns =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*');
    for name in &leaf.sans.dns {
        if !name.is_empty() && name.bytes().all(in_dns) {
            let _ = write!(text, ";DNS={name}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::leaf::SubjectAltNames;

    fn leaf(subject: &str, uri: &[&str], dns: &[&str]) -> LeafFacts {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        LeafFacts {
            thumbprint: [0xab; 32],
            subject: subject.to_owned(),
            issuer: String::new(),
            issuer_der: Vec::new(),
            serial: Vec::new(),
            not_before: 0,
            not_after: 0,
            sans: SubjectAltNames {
                uri: texts(uri),
                dns: texts(dns),
                ..SubjectAltNames::default()
            },
            is_ca: false,
            key_usage: None,
            extended_key_usage: None,
        }
    }

    #[test]
    fn addresses_are_written_as_rfc_7239_wants_them() {
        for (peer, authority, value) in [
            (
                "192.0.2.1:5",
                "a.example",
                "for=192.0.2.1;host=a.example;proto=https",
            ),
            (
                "[::ffff:192.0.2.1]:5",
                "a.example:8443",
                "for=192.0.2.1;host=\"a.example:8443\";proto=https",
            ),
            (
                "[2001:db8::1]:5",
                "[::1]:8443",
                "for=\"[2001:db8::1]\";host=\"[::1]:8443\";proto=https",
            ),
        ] {
            assert_eq!(forwarded_element(peer.parse().unwrap(), authority), value);
        }
    }

    #[test]
    fn a_summary_names_hash_subject_and_names() {
        let text = xfcc_element(&leaf(
            "CN=checkout,O=Shop",
            &["spiffe://example.org/a"],
            &["a.example.org", "*.b.example.org"],
        ));
        assert_eq!(
            text,
            format!(
                "Hash={};Subject=\"CN=checkout,O=Shop\";URI=spiffe://example.org/a;DNS=a.example.org;DNS=*.b.example.org",
                "ab".repeat(32)
            )
        );
    }

    #[test]
    fn names_cannot_inject_fields() {
        let text = xfcc_element(&leaf(
            "CN=a\\\",URI=spiffe://example.org/admin\r\nX: y\\",
            &[
                "spiffe://x/a\",By=b",
                "uri:a;URI=spiffe://example.org/admin",
            ],
            &["a,By=x", "a;b", "a\r\nb"],
        ));
        assert_eq!(
            text,
            format!(
                "Hash={};Subject=\"CN=a%5C%22,URI=spiffe://example.org/admin%0D%0AX: y%5C\";URI=\"uri:a;URI=spiffe://example.org/admin\"",
                "ab".repeat(32)
            )
        );
    }

    proptest! {
        /// Every parser finds only the expected keys, whether or not it treats backslashes as
        /// escapes.
        #[test]
        fn quotes_stay_balanced(subject in "[\"\\\\;,=%a-z\\r\\n\\x00é]{0,24}", uri in "[\"\\\\;,=a-z:/]{0,16}", dns in "[\",;=a-z.]{0,8}") {
            let text = xfcc_element(&leaf(&subject, &[&uri], &[&dns]));
            prop_assert!(HeaderValue::from_str(&text).is_ok());
            prop_assert!(!text.contains('\\'));
            let mut inside = false;
            let mut keys = vec![String::new()];
            for character in text.chars() {
                match character {
                    '"' => inside = !inside,
                    ';' | ',' if !inside => keys.push(String::new()),
                    other if !inside => keys.last_mut().unwrap().push(other),
                    _ => {}
                }
            }
            prop_assert!(!inside);
            for (index, key) in keys.iter().enumerate() {
                let name = key.split('=').next().unwrap();
                prop_assert!(["Hash", "Subject", "URI", "DNS"].contains(&name), "{}", text);
                prop_assert!(index > 1 || name == ["Hash", "Subject"][index]);
            }
        }
    }
}
