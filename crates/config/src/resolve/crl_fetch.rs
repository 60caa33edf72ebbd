//! `[crl_fetch]`: how the gateway fetches CRLs whose URLs are in `crls`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::RootCertStore;
use rustls_pki_types::CertificateRevocationListDer;

use super::bounds::set_time_within;
use super::context::{Context, CrlCopy};
use super::pem::{self, Found, material};
use crate::crl_fetch::{self, CrlFetchPolicy, CrlSource, Obtained};
use crate::diagnostics::Diagnostic;
use crate::document::raw::CrlFetch;
use crate::document::value::{At, Field};
use crate::http_client::checked_url;
use crate::identity::TrustDomain;
use crate::material::units::UnitKey;
use crate::trust::{RevocationPosture, TrustBundle, TrustBundleConfig};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

/// Returns how CRLs are fetched. Returns `None` if there is no `[crl_fetch]`, or if its roots
/// cannot be read.
pub(super) fn policy(
    section: Option<&CrlFetch>,
    context: &mut Context<'_>,
) -> Option<Arc<CrlFetchPolicy>> {
    let section = section?;
    let Field::Good(roots) = &section.roots else {
        return None;
    };
    let key = UnitKey::new("roots of [crl_fetch]");
    let found = context.unit(key, |context| material(&roots.value.0, context, pem::roots))?;
    let mut store = RootCertStore::empty();
    for root in found {
        if store.add(root.value).is_err() {
            let path = root.path.display();
            context.error(
                Diagnostic::new(
                    root.place,
                    format!("{path}: a root cannot be used: it is no certificate that can be read"),
                )
                .label("this file")
                .help("name the certificate of a certificate authority"),
            );
        }
    }
    let (mut interval, mut timeout) = (Duration::from_secs(3600), 10 * SECOND);
    set_time_within(&section.interval, SECOND..=7 * DAY, &mut interval, context);
    set_time_within(
        &section.timeout,
        SECOND / 10..=60 * SECOND,
        &mut timeout,
        context,
    );
    let size = section.size.value().map_or(32 * MIB, |size| size.bytes());
    Some(Arc::new(CrlFetchPolicy {
        roots: Arc::new(store),
        timeout,
        max_bytes: usize::try_from(size).unwrap_or(usize::MAX),
        interval,
        directory: section
            .directory
            .value()
            .map(|directory| context.files.locate(directory)),
    }))
}

/// Returns the CRLs at the URL `written`. Returns `None` if an error was reported.
pub(super) fn lists(
    written: &At<String>,
    domain: &TrustDomain,
    max_age: Option<Duration>,
    context: &mut Context<'_>,
) -> Option<Vec<Found<CertificateRevocationListDer<'static>>>> {
    let url = match checked_url(&written.value) {
        Ok(url) if url.scheme_str() == Some("https") => url,
        _ => {
            context.error(
                Diagnostic::new(
                    written.place.clone(),
                    "this is no URL that lists are fetched from",
                )
                .label("expected https://HOST/PATH")
                .help("lists are fetched by https only; name a file otherwise"),
            );
            return None;
        }
    };
    let Some(policy) = context.fetching.clone() else {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                "there is no [crl_fetch] that says how lists are fetched",
            )
            .help("add [crl_fetch] with roots = [\"FILE.pem\"]: the authorities of the servers"),
        );
        return None;
    };
    let source = CrlSource {
        trust_domain: domain.clone(),
        url,
        policy,
        max_age,
        in_use: Bytes::new(),
    };
    read(written, &source, context)
}

fn read(
    written: &At<String>,
    source: &CrlSource,
    context: &mut Context<'_>,
) -> Option<Vec<Found<CertificateRevocationListDer<'static>>>> {
    // If the snapshot in service uses this URL, the content that the fetcher keeps was already
    // checked. Then no new fetch is necessary.
    let serving = context.previous.is_some_and(|previous| {
        let mut sources = previous.crl_sources.iter();
        sources.any(|other| other.url == source.url && other.trust_domain == source.trust_domain)
    });
    let kept = context.crl_fetcher.kept(source).filter(|_| serving);
    let obtained = match kept {
        Some(bytes) => Ok(Obtained {
            bytes,
            before: None,
        }),
        None => context.crl_fetcher.obtain(source),
    };
    let Obtained { bytes, before } = match obtained {
        Ok(obtained) => obtained,
        Err(error) => {
            context.error(
                Diagnostic::new(
                    written.place.clone(),
                    format!("the revocation list cannot be fetched: {error}"),
                )
                .label("this URL")
                .help(
                    "reach the server, or keep a copy for such times: [crl_fetch] directory = \"DIR\"",
                ),
            );
            return None;
        }
    };
    let path = document_path(source);
    let lists = pem::lists_of(written, &path, &bytes, context)?;
    let source = CrlSource {
        in_use: bytes,
        ..source.clone()
    };
    if let Some(bytes) = before {
        let source = source.clone();
        context.copies.push(CrlCopy { source, bytes });
    }
    context.sources.push(source);
    Some(
        lists
            .into_iter()
            .map(|value| Found {
                value,
                path: path.clone(),
                place: written.place.clone(),
            })
            .collect(),
    )
}

/// Returns the URL of a source as a path, because messages about CRLs show a path.
fn document_path(source: &CrlSource) -> PathBuf {
    PathBuf::from(source.url.to_string())
}

/// Compares the CRLs that were fetched at start with the copies on disk from an earlier process. If
/// a fetched CRL must not replace its copy, for example because the fetched CRL is older, uses the
/// copy and adds a warning.
///
/// Returns the CRLs to use. Also returns a bundle with the copies, against which the new bundle is
/// checked. The bundle is `None` if there are no usable copies or revocation is off.
pub(super) fn check_against_copies(
    mut lists: Vec<Found<CertificateRevocationListDer<'static>>>,
    config: &TrustBundleConfig,
    context: &mut Context<'_>,
) -> (
    Vec<Found<CertificateRevocationListDer<'static>>>,
    Option<TrustBundle>,
) {
    let (copies, others): (Vec<_>, Vec<_>) = std::mem::take(&mut context.copies)
        .into_iter()
        .partition(|copy| copy.source.trust_domain == config.name);
    context.copies = others;
    if copies.is_empty() || config.posture == RevocationPosture::Off {
        return (lists, None);
    }
    let now = context.now;
    let of = |copy: &CrlCopy| crl_fetch::crls_in(&copy.bytes).unwrap_or_default();
    let bundle_of = |copies: &[CrlCopy]| {
        let crls = copies.iter().flat_map(of).collect();
        let config = config.clone();
        TrustBundle::build(TrustBundleConfig { crls, ..config }, now)
    };
    let (copies, before) = match bundle_of(&copies) {
        Ok(before) => (copies, before),
        // A damaged copy is left out, so that the other copies can be compared.
        Err(_) => {
            let (good, damaged): (Vec<_>, Vec<_>) = copies
                .into_iter()
                .partition(|copy| bundle_of(std::slice::from_ref(copy)).is_ok());
            for copy in &damaged {
                warn_of_damage(&copy.source, &lists, context);
            }
            match bundle_of(&good) {
                Ok(before) => (good, before),
                Err(error) => {
                    tracing::error!(%error, "revocation lists that were kept on disk cannot be used");
                    return (lists, None);
                }
            }
        }
    };
    for copy in copies {
        let path = document_path(&copy.source);
        let came: Vec<_> = lists
            .iter()
            .filter(|list| list.path == path)
            .map(|list| list.value.clone())
            .collect();
        let kept = of(&copy);
        let (Err(why), Some(at)) = (
            before.check_crls(&came, &kept, now),
            lists.iter().position(|list| list.path == path),
        ) else {
            continue;
        };
        let Some(place) = lists.get(at).map(|list| list.place.clone()) else {
            continue;
        };
        context.warn(
            Diagnostic::new(
                place.clone(),
                format!(
                    "what was fetched from {} is not used: {why}",
                    path.display()
                ),
            )
            .label("this URL")
            .help("the list that was kept on disk stays in use; mend what the server gives out"),
        );
        lists.retain(|list| list.path != path);
        lists.extend(kept.into_iter().map(|value| Found {
            value,
            path: path.clone(),
            place: place.clone(),
        }));
        context
            .crl_fetcher
            .fall_back(&copy.source, copy.bytes.clone());
        for source in &mut context.sources {
            if source.url == copy.source.url {
                source.in_use = copy.bytes.clone();
            }
        }
    }
    (lists, Some(before))
}

/// Warns that the copy on disk of a CRL is damaged. Without the copy, the gateway cannot detect
/// that the fetched CRL is older than the CRL that was in use before.
fn warn_of_damage(
    source: &CrlSource,
    lists: &[Found<CertificateRevocationListDer<'static>>],
    context: &mut Context<'_>,
) {
    let path = document_path(source);
    let Some(list) = lists.iter().find(|list| list.path == path) else {
        return;
    };
    context.warn(
        Diagnostic::new(
            list.place.clone(),
            format!("what was kept on disk of {} is damaged", path.display()),
        )
        .label("this URL")
        .help("what was fetched is used without being held against it"),
    );
}

/// Whether an entry of `crls` is a URL.
pub(super) fn is_url(written: &At<String>) -> bool {
    written.value.contains("://")
}
