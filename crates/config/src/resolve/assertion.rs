//! `[assertion]`: the issuer, the signing keys and the lifetime of assertions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::bounds;
use super::context::Context;
use super::credentials::covers;
use crate::assertion::{
    AssertionDetail, AssertionSettings, AssertionSigner, DEFAULT_MAX_SIZE, KeyRingError, RING_FILE,
    SigningAlgorithm, SigningKeyRing, WANTED_PATH,
};
use crate::diagnostics::Diagnostic;
use crate::document::Document;
use crate::document::raw::RouteSection;
use crate::document::url::HttpUrl;
use crate::document::value::{At, Field};
use crate::identity::IdentityPattern;
use crate::material::units::UnitKey;
use crate::snapshot::PublicSettings;

pub(super) const DEFAULT_HEADER: HeaderName = HeaderName::from_static("countersign-assertion");
const DEFAULT_LIFETIME: Duration = Duration::from_secs(30);
const MAX_LIFETIME: Duration = Duration::from_secs(300);

/// The minimum of `max_size` in bytes. With a smaller limit, assertions about callers with names of
/// usual length would not fit.
const MIN_SIZE: u64 = 2 * 1024;

/// The maximum of `max_size` in bytes. Many servers refuse a header line of more than 8 KiB.
const MAX_SIZE: u64 = 7 * 1024;

/// Header fields that cannot carry the assertion. The gateway uses some of them itself, and
/// services give a different meaning to the others.
const RESERVED_HEADERS: [&str; 12] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// Whether a header field is in [`RESERVED_HEADERS`].
pub(super) fn is_reserved(header: &HeaderName) -> bool {
    RESERVED_HEADERS.contains(&header.as_str())
}

/// Builds the signer of assertions from `[assertion]`. Reads the signing keys.
pub(super) fn signer(document: &Document, context: &mut Context<'_>) -> Option<AssertionSigner> {
    let section = document.assertion.as_ref()?;
    let issuer = section
        .issuer
        .at()
        .filter(|issuer| check_issuer(issuer, context));
    let header = section.header.or(DEFAULT_HEADER);
    if let Some(at) = section.header.at()
        && is_reserved(&header)
    {
        context.error(
            Diagnostic::new(
                at.place.clone(),
                format!("the header field {header} has another purpose"),
            )
            .help("leave the key out for Countersign-Assertion"),
        );
    }
    let mut lifetime = DEFAULT_LIFETIME;
    let bounds = Duration::from_secs(1)..=MAX_LIFETIME;
    bounds::set_time_within(&section.lifetime, bounds, &mut lifetime, context);
    if let Some(at) = section.lifetime.at()
        && lifetime.subsec_nanos() != 0
    {
        context.error(
            Diagnostic::new(at.place.clone(), "the lifetime is not in whole seconds")
                .help("the dates of an assertion have whole seconds"),
        );
    }
    let algorithm = section.algorithm.or(SigningAlgorithm::Es256);
    let sizes = MIN_SIZE..=MAX_SIZE;
    let max_size = bounds::size(&section.max_size, sizes, context)
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(DEFAULT_MAX_SIZE);
    let keys = section.keys.at().and_then(|keys| {
        let unit = UnitKey::new("keys of [assertion]");
        context.unit(unit, |context| ring(keys, algorithm, context))
    });
    Some(AssertionSigner::new(
        AssertionSettings {
            issuer: issuer?.value.clone(),
            header,
            lifetime,
            max_size,
        },
        keys?,
    ))
}

fn ring(
    keys: &At<String>,
    algorithm: SigningAlgorithm,
    context: &mut Context<'_>,
) -> Option<Arc<SigningKeyRing>> {
    let directory = context.files.locate(&keys.value);
    // If a key file is replaced, the stamp of the directory can stay the same. The stamp of the
    // ring file changes, so the ring file is recorded too.
    context.files.remember(&directory);
    context.files.remember(&directory.join(RING_FILE));
    let loaded = context
        .files
        .reading(&directory, || SigningKeyRing::load(&directory, algorithm));
    match loaded {
        Ok(ring) => {
            for warning in ring.warnings() {
                context.warn(Diagnostic::new(keys.place.clone(), warning.clone()));
            }
            Some(Arc::new(ring))
        }
        Err(error) => {
            if let KeyRingError::Io { error, .. } = &error {
                context.files.note_failure(error);
            }
            // The error gets no help text, because its message already names the command that
            // helps.
            context.error(
                Diagnostic::new(keys.place.clone(), error.to_string()).label("this directory"),
            );
            None
        }
    }
}

fn check_issuer(issuer: &At<String>, context: &mut Context<'_>) -> bool {
    let refusal = match HttpUrl::parse(&issuer.value) {
        Ok(url) if !url.https && !url.is_loopback() => {
            "http is for this machine alone; services must fetch keys over https"
        }
        Ok(_) => return true,
        Err(why) => why,
    };
    context.error(
        Diagnostic::new(
            issuer.place.clone(),
            format!("this cannot be an issuer: {refusal}"),
        )
        .label("expected an https URL")
        .help("write for example \"https://gateway.example.org:9080\""),
    );
    false
}

/// Warns if the issuer's URL does not lead to the listener of `[public]`. Services fetch the key
/// set from below that URL.
pub(super) fn check_issuer_leads(
    issuer: &Field<String>,
    public: Option<&PublicSettings>,
    context: &mut Context<'_>,
) {
    let Some(issuer) = issuer.at() else { return };
    let Ok(url) = HttpUrl::parse(&issuer.value) else {
        return;
    };
    if let Some(why) = misleads(&url, public) {
        context.warn(
            Diagnostic::new(
                issuer.place.clone(),
                format!("services may not find the keys at {}: {why}", issuer.value),
            )
            .help(
                "let issuer name the [public] listener, or make sure that a proxy leads from it there",
            ),
        );
    }
}

fn misleads(url: &HttpUrl, public: Option<&PublicSettings>) -> Option<String> {
    let Some(public) = public else {
        return Some("there is no [public] listener".to_owned());
    };
    if !public.keys {
        return Some("[public] does not serve keys".to_owned());
    }
    if !url.path.is_empty() {
        return Some(format!(
            "[public] serves them at its root, not below {}",
            url.path
        ));
    }
    if url.https != public.tls.is_some() {
        let (said, used) = if url.https {
            ("https", "plain http")
        } else {
            ("http", "https")
        };
        return Some(format!("it says {said} and [public] speaks {used}"));
    }
    // With port 0, the operating system selects the port when the gateway starts. This port is not
    // known yet and cannot be compared with the URL.
    let port = public.address.port();
    if port != 0 && port != url.port() {
        return Some(format!(
            "it says port {} and [public] has {port}",
            url.port()
        ));
    }
    let address = public.address.ip();
    let leads_to_address = match url.host.parse::<IpAddr>() {
        Ok(named) => address.is_unspecified() || named == address,
        Err(_) => address.is_unspecified() || address.is_loopback() == url.is_loopback(),
    };
    if !leads_to_address {
        return Some(format!("{} does not lead to {address}", url.host));
    }
    match &public.tls {
        Some(credentials) if !covers(credentials.facts(), &url.host) => Some(format!(
            "the certificate of [listener] is not for {}",
            url.host
        )),
        _ => None,
    }
}

/// Warns if assertions about a caller have too little room for the path of a request. Only callers
/// that a route names without wildcards are checked.
pub(super) fn check_path_room(
    sections: &[RouteSection],
    settings: &AssertionSettings,
    context: &mut Context<'_>,
) {
    let rooms = sections.iter().flat_map(|section| {
        let named = section.callers.items().iter();
        let named = named.filter(|pattern| pattern.value.names_one());
        named.map(move |pattern| (path_room(section, pattern, settings), section, pattern))
    });
    let Some((room, section, pattern)) = rooms.min_by_key(|(room, ..)| *room) else {
        return;
    };
    if room >= WANTED_PATH {
        return;
    }
    let compact = section.assertion.or(AssertionDetail::Full) == AssertionDetail::Compact;
    let remedy = if compact {
        "raise `max_size` of [assertion] (at most 7KiB)"
    } else {
        "raise `max_size` of [assertion] (at most 7KiB), or give the routes of this audience assertion = \"compact\""
    };
    context.warn(
        Diagnostic::new(
            pattern.place.clone(),
            format!("assertions about this caller have room for a path of {room} bytes only"),
        )
        .label(format!("{} bytes", pattern.value.to_string().len()))
        .help(remedy),
    );
}

fn path_room(
    section: &RouteSection,
    caller: &At<IdentityPattern>,
    settings: &AssertionSettings,
) -> usize {
    let hosts = section.hosts.items().iter();
    let authority = hosts.map(|host| host.value.to_string().len()).max();
    let trust_domain = caller.value.spiffe_trust_domain();
    let texts = [
        section.audience.value().map_or(0, String::len),
        authority.unwrap_or(0),
        trust_domain.map_or(0, |domain| domain.as_str().len()),
        caller.value.to_string().len(),
    ];
    let detail = section.assertion.or(AssertionDetail::Full);
    settings.path_room(texts.iter().sum(), detail)
}
