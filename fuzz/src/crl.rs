//! Certificate revocation lists. A CRL without the issuer's signature must not change a
//! decision. With a signed CRL, a caller may be accepted only if webpki also accepts the caller
//! with this CRL.

use std::sync::LazyLock;
use std::time::Duration;

use countersign_core::clock;
use countersign_core::reason::ReasonCode;
use countersign_core::trust::{CrlNumber, CrlOutline, CrlRules, CrlTimes, PathPurpose, PathTrust};
use countersign_testkit::{Authority, AuthoritySpec, Crl, Leaf, der};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::input::{altered, items};

/// The default rules, and rules for lists that lack something.
const RULES: [CrlRules; 2] = [
    CrlRules {
        number: CrlNumber::Required,
        max_age: None,
    },
    CrlRules {
        number: CrlNumber::Optional,
        max_age: Some(Duration::from_secs(86_400)),
    },
];
/// Extension cRLNumber 1, DER.
const NUMBER: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x14, 0x04, 0x03, 0x02, 0x01, 0x01,
];
/// Serial number of the caller that is revoked.
const REVOKED: [u8; 2] = [0x77, 1];

struct Pki {
    root: CertificateDer<'static>,
    intermediate: Authority,
    root_list: Vec<u8>,
    /// The CRL of the intermediate, which revokes the caller [`Pki::revoked`].
    list: Vec<u8>,
    /// The DER of the fields that precede the entries in the tbsCertList of [`Pki::list`].
    fields: Vec<u8>,
    revoked: CertificateDer<'static>,
    other: CertificateDer<'static>,
}

static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let root = Authority::root(&AuthoritySpec::new("Root"));
    let intermediate = root.intermediate(&AuthoritySpec::new("Intermediate"));
    let list = Crl::new().number(2).revoke(&REVOKED);
    let list = list.signed_by(&intermediate);
    let (_, parts, _) = der::first(&list);
    let (_, signed, _) = der::first(parts);
    // The fields are version, algorithm, issuer, thisUpdate and nextUpdate.
    let length = (0..5).fold(0, |at, _| at + der::first(&signed[at..]).2);
    let fields = signed[..length].to_vec();
    let leaf = || Leaf::with_uri("spiffe://example.org/a");
    Pki {
        revoked: intermediate.issue(leaf().serial(&REVOKED)).leaf().clone(),
        other: intermediate.issue(leaf()).leaf().clone(),
        root_list: Crl::new().signed_by(&root),
        root: root.der().clone(),
        intermediate,
        list,
        fields,
    }
});

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now()))
}

/// Why a caller is refused with these lists and the root's.
fn refusal(lists: &[&[u8]], leaf: &CertificateDer<'_>, rules: CrlRules) -> Option<ReasonCode> {
    let lists: Vec<_> = [&[PKI.root_list.as_slice()], lists]
        .concat()
        .into_iter()
        .map(CertificateRevocationListDer::from)
        .collect();
    let intermediates = vec![PKI.intermediate.der().clone()];
    let roots = [PKI.root.clone()];
    let lists = Some((lists.as_slice(), rules));
    let trust = PathTrust::with_crl_rules(&roots, intermediates, lists, PathPurpose::Client);
    trust.verify(leaf, now()).err().map(|(reason, _)| reason)
}

/// Returns whether webpki accepts a caller with the certificate `leaf`, with this CRL and the
/// CRL of the root.
fn webpki_agrees(list: &[u8], leaf: &CertificateDer<'_>) -> bool {
    let read = |der: &[u8]| webpki::OwnedCertRevocationList::from_der(der).map(Into::into);
    let (Ok(list), Ok(root_list)) = (read(list), read(&PKI.root_list)) else {
        return false;
    };
    let lists: [&webpki::CertRevocationList<'_>; 2] = [&list, &root_list];
    let revocation = webpki::RevocationOptionsBuilder::new(&lists)
        .unwrap()
        .with_depth(webpki::RevocationCheckDepth::Chain)
        .with_status_policy(webpki::UnknownStatusPolicy::Deny)
        .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
        .build();
    let anchor = webpki::anchor_from_trusted_cert(&PKI.root).unwrap();
    webpki::EndEntityCert::try_from(leaf)
        .unwrap()
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[PKI.intermediate.der().clone()],
            now(),
            webpki::KeyUsage::client_auth(),
            Some(revocation),
            None,
        )
        .is_ok()
}

/// Whether webpki does not read a list that we read: one about callers or authorities alone, which
/// names no distribution point.
fn is_beyond_webpki(list: &[u8]) -> bool {
    use webpki::Error::UnsupportedCrlIssuingDistributionPoint as NoPoint;
    webpki::OwnedCertRevocationList::from_der(list).is_err_and(|error| error == NoPoint)
}

/// A list that the intermediate did not sign, unless it is the intact one.
fn unsigned(list: &[u8]) {
    let intact = &*PKI.list;
    for rules in RULES {
        assert!(refusal(&[list], &PKI.revoked, rules).is_some());
        for lists in [[intact, list], [list, intact]] {
            let revoked = refusal(&lists, &PKI.revoked, rules);
            assert_eq!(revoked, Some(ReasonCode::CertificateRevoked), "taken back");
            // A list that cannot be used leaves it open who is on it.
            let other = refusal(&lists, &PKI.other, rules);
            let is_open = matches!(other, None | Some(ReasonCode::RevocationUnknown));
            assert!(is_open, "another list's fault: {other:?}");
        }
    }
}

/// Checks a CRL that the intermediate signed. `input` contains its entries and extensions as
/// [`items`]: an even kind is an entry, an odd kind an extension.
fn signed(input: &[u8]) {
    let (mut entries, mut extensions) = (Vec::new(), Vec::new());
    for (what, content) in items(input) {
        let list = match what % 2 {
            0 => &mut entries,
            _ => &mut extensions,
        };
        list.push(der::element(0x30, content));
    }
    let sign = |extensions: &[Vec<u8>]| {
        let mut fields = PKI.fields.clone();
        if !entries.is_empty() {
            fields.extend(der::sequence(&entries));
        }
        if !extensions.is_empty() {
            fields.extend(der::element(0xa0, &der::sequence(extensions)));
        }
        PKI.intermediate.signed(&der::element(0x30, &fields))
    };
    let list = sign(&extensions);
    summed_up(&list);
    // webpki does not read a list without extensions.
    let numbered = match extensions.is_empty() {
        true => sign(&[NUMBER.to_vec()]),
        false => list.clone(),
    };
    // Of a list that webpki does not read because of its scope, it reads the entries.
    let is_scope = |extension: &Vec<u8>| extension.windows(3).any(|id| id == [0x55, 0x1d, 0x1c]);
    let mut others = extensions.clone();
    others.retain(|extension| !is_scope(extension));
    if others.is_empty() {
        others.push(NUMBER.to_vec());
    }
    let without_scope = sign(&others);
    for (leaf, rules) in [&PKI.revoked, &PKI.other]
        .into_iter()
        .flat_map(|leaf| RULES.map(|rules| (leaf, rules)))
    {
        if refusal(&[&list], leaf, rules).is_none() {
            let agrees = webpki_agrees(&numbered, leaf)
                || is_beyond_webpki(&list) && webpki_agrees(&without_scope, leaf);
            assert!(agrees, "only we let this caller in");
            let counted = CrlOutline::read(&list).map(|outline| outline.entries);
            assert_eq!(counted, Some(entries.len()), "other entries");
        }
    }
}

fn summed_up(list: &[u8]) {
    let outline = CrlOutline::read(list).map(|outline| outline.times);
    assert_eq!(outline, CrlTimes::read(list), "two readings of the times");
}

/// The first byte of the input selects the meaning of the other bytes: a CRL, changes of a valid
/// CRL (see `altered`), or the entries and extensions of a CRL that its issuer then signs.
pub fn crl(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => {
            summed_up(rest);
            unsigned(rest);
        }
        1 => {
            let list = altered(&PKI.list, rest);
            summed_up(&list);
            unsigned(&list);
        }
        _ => signed(rest),
    }
}
