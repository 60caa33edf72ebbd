//! Describes the content of certificate files, with lints. The files can be PEM bundles, DER,
//! PKCS#12, requests, revocation lists and key sets. Nothing is verified.
//!
//! For a private key, only its form is described, never its content.

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::lint::{self, Finding};
use super::signing::csr::SigningRequest;
use crate::clock;
use crate::crypto;
use crate::identity::LeafFacts;
use crate::identity::leaf::{rfc4514, significant};
use crate::identity::text::{hex, printable};
use crate::pem::{self, PemError};
use crate::secret::Secret;
use crate::trust::key_name;

/// The reason why a file cannot be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// The content has none of the forms that this file recognizes.
    #[error(
        "this is no certificate, request, revocation list, PKCS#12 file or key set, in PEM or DER form"
    )]
    Unknown,
    /// The file contains PEM, but its PEM is damaged.
    #[error("{error}; {}", .error.remedy())]
    Damaged {
        /// What is wrong with the PEM text, and in which line.
        error: PemError,
    },
    /// The content is an encrypted PKCS#12 file, and no passphrase was given.
    #[error("this PKCS#12 file needs its passphrase")]
    PassphraseNeeded,
    /// The passphrase is wrong, or the PKCS#12 file is damaged.
    #[error("the passphrase does not open this PKCS#12 file, or the file is damaged")]
    WrongPassphrase,
}

/// One object in a file, for example a certificate or a revocation list.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    /// The kind of the object: `certificate`, `request`, `revocation-list`, `key-set`,
    /// `private-key` or `other`.
    pub kind: &'static str,
    /// The facts about the object, as JSON.
    pub content: Value,
    /// The errors and warnings that lints have found.
    pub lints: Vec<Finding>,
}

/// Whether the content is a PKCS#12 file whose passphrase is not empty.
#[must_use]
pub fn needs_passphrase(content: &[u8]) -> bool {
    pem::is_pkcs12(content) && pkcs12(content, None).is_err()
}

/// Describes all objects in `content`.
///
/// # Errors
/// If `content` has an unknown form, is damaged, or needs another passphrase.
pub fn inspect(content: &[u8], passphrase: Option<&Secret>) -> Result<Vec<Item>, InspectError> {
    if pem::is_pkcs12(content) {
        return pkcs12(content, passphrase);
    }
    if content.first() == Some(&0x30) {
        return from_der(content)
            .map(|item| vec![item])
            .ok_or(InspectError::Unknown);
    }
    if content.iter().find(|octet| !octet.is_ascii_whitespace()) == Some(&b'{') {
        return key_set(content)
            .map(|item| vec![item])
            .ok_or(InspectError::Unknown);
    }
    let blocks = pem::blocks(content).map_err(|error| match error.is_no_pem() {
        true => InspectError::Unknown,
        false => InspectError::Damaged { error },
    })?;
    let blocks: Vec<(&str, &[u8])> = blocks
        .iter()
        .map(|block| (block.label(), block.der()))
        .collect();
    Ok(bundle(&blocks))
}

/// Describes a certificate chain that a peer has presented. The leaf is the first certificate.
#[must_use]
pub fn chain(certificates: &[CertificateDer<'_>]) -> Vec<Item> {
    let blocks: Vec<(&str, &[u8])> = certificates
        .iter()
        .map(|der| ("CERTIFICATE", der.as_ref()))
        .collect();
    bundle(&blocks)
}

/// Describes the PEM blocks of a file. Each block consists of its label and its decoded content.
fn bundle(blocks: &[(&str, &[u8])]) -> Vec<Item> {
    blocks
        .iter()
        .enumerate()
        .map(|(index, (label, der))| match *label {
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
                // If the next block is the issuer of this certificate, the lints compare both
                // certificates.
                let next = blocks.get(index + 1).map(|(_, der)| *der);
                certificate(der, next.filter(|next| is_issuer(der, next)))
            }
            "X509 CRL" => revocation_list(der),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => request(der),
            label if label.ends_with("PRIVATE KEY") => Item {
                kind: "private-key",
                content: json!({
                    "form": printable(label),
                    "encrypted": label == "ENCRYPTED PRIVATE KEY",
                }),
                lints: Vec::new(),
            },
            label => Item {
                kind: "other",
                content: json!({ "form": printable(label) }),
                lints: Vec::new(),
            },
        })
        .collect()
}

fn is_issuer(der: &[u8], next: &[u8]) -> bool {
    match (
        X509Certificate::from_der(der),
        X509Certificate::from_der(next),
    ) {
        (Ok((_, leaf)), Ok((_, next))) => leaf.issuer().as_raw() == next.subject().as_raw(),
        _ => false,
    }
}

fn from_der(der: &[u8]) -> Option<Item> {
    if X509Certificate::from_der(der).is_ok() {
        Some(certificate(der, None))
    } else if CertificateRevocationList::from_der(der).is_ok() {
        Some(revocation_list(der))
    } else if x509_parser::certification_request::X509CertificationRequest::from_der(der).is_ok() {
        Some(request(der))
    } else {
        None
    }
}

fn certificate(der: &[u8], issuer: Option<&[u8]>) -> Item {
    let lints = lint::certificate(der, issuer);
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return Item {
            kind: "certificate",
            content: Value::Null,
            lints,
        };
    };
    let now = clock::certificate_now();
    let validity = parsed.validity();
    let (begins, ends) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    let status = if clock::certificate_is_over(ends, now) {
        "expired"
    } else if now < begins {
        "not yet valid"
    } else {
        "in its time"
    };
    let facts = LeafFacts::read(der).ok();
    let names = facts.as_ref().map(|facts| facts.sans.summary());
    let usages = facts.as_ref().and_then(|facts| facts.extended_key_usage);
    Item {
        kind: "certificate",
        content: json!({
            "subject": printable(&rfc4514(parsed.subject())),
            "issuer": printable(&rfc4514(parsed.issuer())),
            "names": names,
            "serial": hex(significant(parsed.raw_serial())),
            "not_before": clock::rfc3339(begins),
            "not_after": clock::rfc3339(ends),
            "status": status,
            "key": key_words(parsed.public_key()),
            "signature": parsed.signature_algorithm.algorithm.to_id_string(),
            "authority": parsed.is_ca(),
            "path_length": parsed.basic_constraints().ok().flatten()
                .and_then(|constraints| constraints.value.path_len_constraint),
            "key_usage": parsed.key_usage().ok().flatten().map(|usage| usage.value.to_string()),
            "client": usages.map(|usages| usages.client),
            "server": usages.map(|usages| usages.server),
            "extensions": parsed.extensions().iter().map(|extension| format!(
                "{}{}",
                extension.oid.to_id_string(),
                if extension.critical { " critical" } else { "" }
            )).collect::<Vec<_>>(),
            "sha256": hex(&crypto::sha256(der)),
            "x5t#S256": base64url(&crypto::sha256(der)),
        }),
        lints,
    }
}

fn request(der: &[u8]) -> Item {
    let content = match SigningRequest::read(der) {
        Ok(request) => json!({
            "subject": printable(request.subject()),
            "names": request.names().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "not_granted": request.ignored(),
            "signature": "verifies",
        }),
        Err(error) => json!({ "refused": error.to_string() }),
    };
    Item {
        kind: "request",
        content,
        lints: Vec::new(),
    }
}

/// Maximum number of entries of a revocation list that the description contains.
const SHOWN_ENTRIES: usize = 100;

fn revocation_list(der: &[u8]) -> Item {
    let lints = lint::revocation_list(der, clock::certificate_now());
    let Ok((_, list)) = CertificateRevocationList::from_der(der) else {
        return Item {
            kind: "revocation-list",
            content: Value::Null,
            lints,
        };
    };
    let number =
        list.extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::CRLNumber(number) => Some(number.to_string()),
                _ => None,
            });
    let entries: Vec<Value> = list
        .iter_revoked_certificates()
        .take(SHOWN_ENTRIES)
        .map(|entry| {
            json!({
                "serial": hex(significant(entry.raw_serial())),
                "revoked_at": clock::rfc3339(entry.revocation_date.timestamp()),
                "reason": entry.reason_code().map(|(_, reason)| reason.to_string()),
            })
        })
        .collect();
    Item {
        kind: "revocation-list",
        content: json!({
            "issuer": printable(&rfc4514(list.issuer())),
            "number": number,
            "this_update": clock::rfc3339(list.last_update().timestamp()),
            "next_update": list.next_update().map(|next| clock::rfc3339(next.timestamp())),
            "count": list.iter_revoked_certificates().count(),
            "entries": entries,
        }),
        lints,
    }
}

fn key_set(content: &[u8]) -> Option<Item> {
    let document: Value = serde_json::from_slice(content).ok()?;
    let keys: Vec<Value> = document
        .get("keys")?
        .as_array()?
        .iter()
        .map(|key| {
            let text = |name: &str| key.get(name).and_then(Value::as_str).map(printable);
            json!({
                "kid": text("kid"),
                "kty": text("kty"),
                "crv": text("crv"),
                "alg": text("alg"),
                "use": text("use"),
                "private": key.get("d").is_some() || key.get("k").is_some(),
                "certificates": key.get("x5c").and_then(Value::as_array).map_or(0, Vec::len),
            })
        })
        .collect();
    Some(Item {
        kind: "key-set",
        content: json!({
            "sequence": document.get("spiffe_sequence"),
            "refresh_hint": document.get("spiffe_refresh_hint"),
            "keys": keys,
        }),
        lints: Vec::new(),
    })
}

fn pkcs12(content: &[u8], passphrase: Option<&Secret>) -> Result<Vec<Item>, InspectError> {
    use p12_keystore::Pkcs12Archive;
    // If no passphrase is given, the empty one is tried, because some programs encrypt files with
    // an empty passphrase.
    let (text, wrong) = match passphrase {
        Some(passphrase) => (passphrase.expose(), InspectError::WrongPassphrase),
        None => (&[][..], InspectError::PassphraseNeeded),
    };
    let archive = str::from_utf8(text)
        .ok()
        .and_then(|text| Pkcs12Archive::from_pkcs12(content, text).ok())
        .ok_or(wrong)?;
    let mut items: Vec<Item> = archive
        .keys
        .iter()
        .map(|_| Item {
            kind: "private-key",
            content: json!({ "form": "PKCS#12", "encrypted": true }),
            lints: Vec::new(),
        })
        .collect();
    let certificates: Vec<CertificateDer<'_>> = archive
        .certs
        .iter()
        .map(|bag| CertificateDer::from(bag.cert.as_der()))
        .collect();
    items.extend(chain(&certificates));
    Ok(items)
}

fn key_words(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(_)) => format!("EC {}", key_name(key)),
        _ => key_name(key),
    }
}

fn base64url(octets: &[u8]) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    Base64UrlUnpadded::encode_string(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rubbish_is_told_from_damage() {
        assert_eq!(inspect(b"", None).unwrap_err(), InspectError::Unknown);
        assert_eq!(inspect(b"{}", None).unwrap_err(), InspectError::Unknown);
        let damaged = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            inspect(damaged, None).unwrap_err(),
            InspectError::Damaged { error } if error.to_string().starts_with("line 2: ")
        ));
        let pfx = [0x30, 0x03, 0x02, 0x01, 0x03];
        assert_eq!(
            inspect(&pfx, None).unwrap_err(),
            InspectError::PassphraseNeeded
        );
    }

    proptest! {
        #[test]
        fn never_panics(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let secret = Secret::from("x".to_owned());
            let _ = inspect(&content, Some(&secret));
        }
    }
}
