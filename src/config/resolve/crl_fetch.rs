//! `[crl_fetch]`: how revocation lists are fetched that `crls` names by URL.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls_pki_types::CertificateRevocationListDer;

use super::Context;
use super::limits::set_time_within;
use super::pem::{self, Found, material};
use crate::authn::http_client::checked_url;
use crate::authn::remote_lists::{FetchPolicy, ListSource};
use crate::config::diagnostics::Diagnostic;
use crate::config::raw::CrlFetch;
use crate::config::value::{At, Field};
use crate::identity::TrustDomain;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

/// How lists are fetched, where that is said.
pub(super) fn policy(
    section: Option<&CrlFetch>,
    context: &mut Context<'_>,
) -> Option<Arc<FetchPolicy>> {
    let section = section?;
    let Field::Good(roots) = &section.roots else {
        return None;
    };
    let found = material(&roots.value.0, context, pem::certificates)?;
    let mut store = RootCertStore::empty();
    for root in found {
        if let Err(error) = store.add(root.value) {
            context.error(
                Diagnostic::new(
                    root.place,
                    format!("{}: a root cannot be used: {error}", root.path.display()),
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
    Some(Arc::new(FetchPolicy {
        roots: Arc::new(store),
        timeout,
        most_octets: usize::try_from(size).unwrap_or(usize::MAX),
        interval,
        directory: section
            .directory
            .value()
            .map(|directory| context.files.locate(directory)),
    }))
}

/// The lists behind a URL; `None` when an error was reported.
pub(super) fn lists(
    written: &At<String>,
    domain: &TrustDomain,
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
    let source = ListSource {
        trust_domain: domain.clone(),
        url,
        policy,
    };
    read(written, &source, context)
}

fn read(
    written: &At<String>,
    source: &ListSource,
    context: &mut Context<'_>,
) -> Option<Vec<Found<CertificateRevocationListDer<'static>>>> {
    let octets = match context.remote.get(source) {
        Ok(octets) => octets,
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
    let path = std::path::PathBuf::from(source.url.to_string());
    let lists = pem::lists_of(written, &path, &octets, context)?;
    context.sources.push(source.clone());
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

/// Whether an entry of `crls` is a URL.
pub(super) fn is_url(written: &At<String>) -> bool {
    written.value.contains("://")
}
