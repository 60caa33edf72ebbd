//! Reads certificate signing requests (CSRs). The result must have exactly the names in the CSR.
//! It must not have the rights of a CA, and must not contain anything that the requester did not
//! sign.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use countersign_pki::SigningRequest;
use countersign_testkit::{Authority, AuthoritySpec, der};

use super::input::{altered, element, items};

/// The OID extensionRequest (RFC 2985 section 5.4.2).
const EXTENSION_REQUEST: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
/// The last arc of the OID keyUsage, 2.5.29.15.
const KEY_USAGE: u8 = 0x0f;
/// The last arc of the OID subjectAltName, 2.5.29.17.
const ALTERNATIVE_NAMES: u8 = 0x11;
/// The last arc of the OID basicConstraints, 2.5.29.19.
const BASIC_CONSTRAINTS: u8 = 0x13;

/// The requester, whose key signs all CSRs. An [`Authority`] has a key and can sign. Its
/// certificate is not used.
static REQUESTER: LazyLock<Authority> =
    LazyLock::new(|| Authority::root(&AuthoritySpec::new("Requester")));

/// A valid CSR with one subject alternative name of each supported type.
static ORIGINAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut names = Vec::new();
    for (tag, name) in [
        (0x86, &b"spiffe://example.org/ns/shop/sa/checkout"[..]),
        (0x82, b"checkout.example.org"),
        (0x81, b"checkout@example.org"),
        (0x87, &[10, 0, 0, 1]),
    ] {
        names.push(der::element(tag, name));
    }
    let names = [
        vec![0x06, 3, 0x55, 0x1d, ALTERNATIVE_NAMES],
        der::element(0x04, &der::sequence(&names)),
    ];
    request(&[vec![names.concat()]])
});

/// Returns a signed CSR with these extensionRequest attributes. Each attribute is a list of
/// extensions, without the tag and the length of each extension.
fn request(attributes: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let attributes: Vec<_> = attributes
        .iter()
        .map(|extensions| {
            let extensions: Vec<_> = extensions
                .iter()
                .map(|content| der::element(0x30, content))
                .collect();
            let values = der::element(0x31, &der::sequence(&extensions));
            der::sequence(&[der::element(0x06, &EXTENSION_REQUEST), values])
        })
        .collect();
    REQUESTER.signed(&der::sequence(&[
        vec![0x02, 1, 0],
        der::sequence(&[]),
        REQUESTER.public_key(),
        der::element(0xa0, &attributes.concat()),
    ]))
}

/// Returns the last arc of the OID and the value of an extension. Returns `None` if the OID is
/// not 2.5.29.x.
fn extension(content: &[u8]) -> Option<(u8, &[u8])> {
    let (0x06, [0x55, 0x1d, arc], mut rest) = element(content)? else {
        return None;
    };
    if let Some((0x01, _, after)) = element(rest) {
        rest = after;
    }
    match element(rest)? {
        (0x04, value, _) => Some((*arc, value)),
        _ => None,
    }
}

/// Returns the names in the value of a subjectAltName extension, in the gateway's text form.
/// Names of other types than e-mail, DNS, URI and IP address are ignored.
fn names(value: &[u8]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (_, mut rest, _) = element(value).expect("a list of names");
    while let Some((tag, content, after)) = element(rest) {
        rest = after;
        let text = String::from_utf8_lossy(content);
        let host = || text.trim_end_matches('.').to_ascii_lowercase();
        names.insert(match tag {
            0x81 => format!("mailto:{}", text.to_ascii_lowercase()),
            0x82 => format!("dns:{}", host()),
            0x86 => text.into_owned(),
            0x87 => {
                let four = <[u8; 4]>::try_from(content).map(IpAddr::from);
                let address = four.or_else(|_| <[u8; 16]>::try_from(content).map(IpAddr::from));
                format!("ip:{}", address.expect("an address"))
            }
            _ => continue,
        });
    }
    names
}

/// Checks a correctly signed CSR. `input` contains its extensions as [`items`]. An odd kind
/// begins a new attribute.
fn signed(input: &[u8]) {
    let mut attributes: Vec<Vec<Vec<u8>>> = Vec::new();
    for (what, content) in items(input) {
        if what % 2 == 1 || attributes.is_empty() {
            attributes.push(Vec::new());
        }
        let last = attributes.last_mut().expect("an attribute");
        last.push(content.to_vec());
    }
    let Ok(request) = SigningRequest::read(&request(&attributes)) else {
        return;
    };
    let mut expected = None;
    for content in attributes.iter().flatten() {
        match extension(content) {
            Some((ALTERNATIVE_NAMES, value)) => {
                let before = expected.replace(names(value));
                assert_eq!(before, None, "two lists of names");
            }
            Some((BASIC_CONSTRAINTS, value)) => {
                let ca = [0x01, 1, 0xff];
                assert!(!value.windows(3).any(|three| three == ca), "an authority");
            }
            Some((KEY_USAGE, value)) => {
                // The bits of the mask 6 are keyCertSign and cRLSign.
                let signs =
                    matches!(element(value), Some((0x03, [_, bits, ..], _)) if bits & 6 != 0);
                assert!(!signs, "it may sign certificates");
            }
            _ => {}
        }
    }
    let taken: BTreeSet<String> = request
        .names()
        .iter()
        .map(|name| {
            let name = name.to_string();
            match name.starts_with("mailto:") {
                true => name.to_ascii_lowercase(),
                false => name,
            }
        })
        .collect();
    assert_eq!(taken, expected.unwrap_or_default(), "other names");
}

/// The first byte of the input selects the meaning of the other bytes: a CSR, changes of a valid
/// CSR (see `altered`), or the extensions of a CSR that the requester then signs.
pub fn csr(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => drop(SigningRequest::read(rest)),
        1 => {
            let original = SigningRequest::read(&ORIGINAL).unwrap();
            // The signature is still valid, so that only bytes outside of the signed part were
            // changed. Therefore the content must be the same.
            if let Ok(request) = SigningRequest::read(&altered(&ORIGINAL, rest)) {
                assert_eq!(request.names(), original.names());
                assert_eq!(request.subject(), original.subject());
                assert_eq!(request.ignored(), original.ignored());
            }
        }
        _ => signed(rest),
    }
}
