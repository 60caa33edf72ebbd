//! Certificate revocation lists. A CRL without the issuer's signature must not change a
//! decision. With a signed CRL, a caller may be accepted only if webpki also accepts the caller
//! with this CRL.

use std::sync::LazyLock;
use std::time::Duration;

use countersign_core::clock;
use countersign_core::reason::ReasonCode;
use countersign_core::trust::revocation::next_update;
use countersign_core::trust::{CrlOutline, PathPurpose, PathTrust};
use countersign_testkit::{Authority, AuthoritySpec, Crl, Leaf, der};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::input::{altered, items};

/// The serial number of the certificate that [`Pki::list`] revokes.
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

/// Returns why a caller with the certificate `leaf` is refused, if the gateway has these CRLs
/// and the CRL of the root. Returns `None` if the caller is accepted.
fn refusal(lists: &[&[u8]], leaf: &CertificateDer<'_>) -> Option<ReasonCode> {
    let lists: Vec<_> = [&[PKI.root_list.as_slice()], lists]
        .concat()
        .into_iter()
        .map(CertificateRevocationListDer::from)
        .collect();
    let intermediates = vec![PKI.intermediate.der().clone()];
    let roots = [PKI.root.clone()];
    let trust = PathTrust::new(&roots, intermediates, Some(&lists), PathPurpose::Client);
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

/// Checks that a CRL without the intermediate's signature never makes a revoked caller accepted.
/// `list` may also be the intermediate's real CRL, if the changes did not change a byte.
fn unsigned(list: &[u8]) {
    let intact = &*PKI.list;
    assert!(refusal(&[list], &PKI.revoked).is_some());
    for lists in [[intact, list], [list, intact]] {
        let revoked = refusal(&lists, &PKI.revoked);
        assert_eq!(revoked, Some(ReasonCode::CertificateRevoked), "taken back");
        // If a CRL is unusable, the revocation status of the caller that is not revoked may be
        // unknown.
        let other = refusal(&lists, &PKI.other);
        let is_open = matches!(other, None | Some(ReasonCode::RevocationUnknown));
        assert!(is_open, "another list's fault: {other:?}");
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
    let mut fields = PKI.fields.clone();
    if !entries.is_empty() {
        fields.extend(der::sequence(&entries));
    }
    if !extensions.is_empty() {
        fields.extend(der::element(0xa0, &der::sequence(&extensions)));
    }
    let list = PKI.intermediate.signed(&der::element(0x30, &fields));
    summed_up(&list);
    for leaf in [&PKI.revoked, &PKI.other] {
        if refusal(&[&list], leaf).is_none() {
            assert!(webpki_agrees(&list, leaf), "only we let this caller in");
            let counted = CrlOutline::read(&list).map(|outline| outline.entries);
            assert_eq!(counted, Some(entries.len()), "other entries");
        }
    }
}

fn summed_up(list: &[u8]) {
    let outline = CrlOutline::read(list).map(|outline| outline.next_update);
    assert_eq!(outline, next_update(list), "two readings of nextUpdate");
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
