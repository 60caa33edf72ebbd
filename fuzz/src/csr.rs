//! Certificate requests: the names are those that stand in the request, none asks for
//! the rights of an authority, and nothing is taken over that the requester did not
//! sign.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use countersign_pki::SigningRequest;
use countersign_testkit::{Authority, AuthoritySpec, der};

use super::input::{altered, element, items};

/// extensionRequest (RFC 2985 section 5.4.2), and arcs of 2.5.29.
const EXTENSION_REQUEST: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
const KEY_USAGE: u8 = 0x0f;
const ALTERNATIVE_NAMES: u8 = 0x11;
const BASIC_CONSTRAINTS: u8 = 0x13;

/// Whose key requests are for; of an authority only the key matters here.
static REQUESTER: LazyLock<Authority> =
    LazyLock::new(|| Authority::root(&AuthoritySpec::new("Requester")));

/// A good request for names of every type.
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

/// A signed request with these attributes, each with these extensions.
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

/// Arc and value of an extension of 2.5.29.
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

/// The names in an extension's value, as they are printed; of other types than these
/// four nothing is taken over.
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

/// A request that its holder signed, with these extensions.
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
                // keyCertSign and cRLSign.
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

/// The first byte says whether a request follows, or changes of a good one, or items
/// of one that its holder signs: extensions, of which odd ones begin an attribute.
pub fn csr(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => drop(SigningRequest::read(rest)),
        1 => {
            let original = SigningRequest::read(&ORIGINAL).unwrap();
            // What may differ is around what was signed.
            if let Ok(request) = SigningRequest::read(&altered(&ORIGINAL, rest)) {
                assert_eq!(request.names(), original.names());
                assert_eq!(request.subject(), original.subject());
                assert_eq!(request.ignored(), original.ignored());
            }
        }
        _ => signed(rest),
    }
}
