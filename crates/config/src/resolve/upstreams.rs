//! `[[upstream]]`: the services behind the gateway.

use std::sync::Arc;

use super::context::{Context, names};
use super::credentials::credentials;
use super::pem::material;
use super::{header_rules, pem, upstream_bounds};
use crate::diagnostics::Diagnostic;
use crate::document::Document;
use crate::document::raw::UpstreamSection;
use crate::document::url::HttpUrl;
use crate::document::value::{At, CertificateHeader, Field};
use crate::identity::IdentityPattern;
use crate::material::units::UnitKey;
use crate::tls::client::{self, ClientTls, ClientTlsConfig};
use crate::tls::{CertificateOwner, Credentials};
use crate::upstream::{
    Balance, CertificateFields, Endpoint, ForwardedFields, HttpProtocol, Sharing, TraceContext,
    Upstream, UpstreamConfig,
};

/// What was built from one `[[upstream]]`. A field is `None` if it could not be built.
pub(super) struct UpstreamPart {
    pub(super) name: Option<At<String>>,
    pub(super) upstream: Option<Arc<Upstream>>,
}

/// Builds the upstreams of all `[[upstream]]` sections.
pub(super) fn upstreams(document: &Document, context: &mut Context<'_>) -> Vec<UpstreamPart> {
    let sections = &document.upstreams;
    context.unique("upstream", names(sections.iter().map(|s| &s.name)));
    sections
        .iter()
        .map(|section| UpstreamPart {
            name: section.name.at().cloned(),
            upstream: upstream(section, document, context),
        })
        .collect()
}

fn upstream(
    section: &UpstreamSection,
    document: &Document,
    context: &mut Context<'_>,
) -> Option<Arc<Upstream>> {
    let urls: Vec<(&At<String>, HttpUrl)> = section
        .endpoints
        .items()
        .iter()
        .filter_map(|written| Some((written, endpoint(written, context)?)))
        .collect();
    let secure = urls.first().is_some_and(|(_, url)| url.https);
    if let Some((written, _)) = urls.iter().find(|(_, url)| url.https != secure) {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                "some endpoints of this upstream are https and some are not",
            )
            .help("use one scheme for all, or make two upstreams"),
        );
        return None;
    }
    if !secure {
        check_plaintext(section, &urls, context);
    }
    let protocol = section.protocol.or(HttpProtocol::Http1);
    let tls = if secure {
        Some(Arc::new(client_tls(section, protocol, &urls, context)?))
    } else {
        None
    };
    let mut config = UpstreamConfig {
        name: section.name.value().cloned().unwrap_or_default(),
        endpoints: urls
            .into_iter()
            .map(|(_, url)| Endpoint {
                port: url.port(),
                host: url.host.into(),
            })
            .collect(),
        protocol,
        tls,
        balance: section.balance.or(Balance::RoundRobin),
        identity: section.identity.value().cloned(),
        forwarded: section.forwarded.or(ForwardedFields::default()),
        trace: section.trace.or(TraceContext::default()),
        share: section.share.or(Sharing::default()),
        certificate_fields: certificate_fields(section, context),
        header_rules: header_rules::header_rules(section, document, context),
        host: section.host.value().cloned(),
        ..UpstreamConfig::default()
    };
    config.http1_upgrades = http1_upgrades(section, protocol, context);
    upstream_bounds::set(section, &mut config, context);
    let is_authority = |host: &At<String>| {
        HttpUrl::parse(&format!("http://{}", host.value)).is_ok_and(|url| url.path.is_empty())
    };
    if let Some(host) = section.host.at()
        && !is_authority(host)
    {
        context.error(
            Diagnostic::new(host.place.clone(), "this cannot stand in a Host field").help(
                "write a host name, with a port where it needs one: \"orders.internal:8080\"",
            ),
        );
    }
    (section.name.at().is_some() && !config.endpoints.is_empty()).then(|| {
        let mut earlier = context
            .previous
            .iter()
            .flat_map(|previous| &previous.upstreams);
        let earlier = earlier.find(|earlier| earlier.name() == config.name);
        Arc::new(Upstream::following(
            config,
            earlier.map(|earlier| &**earlier),
        ))
    })
}

/// Returns the value of the key `http1_upgrades`: whether upgrade requests use HTTP/1.1 although
/// the upstream uses HTTP/2 for other requests. Refuses the key if the upstream uses HTTP/1.1 for
/// all requests.
fn http1_upgrades(
    section: &UpstreamSection,
    protocol: HttpProtocol,
    context: &mut Context<'_>,
) -> bool {
    if let Some(written) = section.http1_upgrades.at()
        && protocol == HttpProtocol::Http1
    {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                "this upstream is spoken to in HTTP/1.1 anyway",
            )
            .help("remove it, or write protocol = \"h2\""),
        );
    }
    section.http1_upgrades.or(false)
}

/// Returns the header fields in which the service receives the caller's certificate.
fn certificate_fields(section: &UpstreamSection, context: &mut Context<'_>) -> CertificateFields {
    let has = |wanted| {
        let mut items = section.certificate_headers.items().iter();
        items.any(|item| item.value == wanted)
    };
    let fields = CertificateFields {
        client_cert: has(CertificateHeader::ClientCert),
        client_cert_chain: has(CertificateHeader::ClientCertChain),
        xfcc: has(CertificateHeader::Xfcc),
    };
    if fields.client_cert_chain
        && !fields.client_cert
        && let Some(written) = section.certificate_headers.at()
    {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                "\"client-cert-chain\" is never sent without \"client-cert\" (RFC 9440)",
            )
            .help("add \"client-cert\""),
        );
    }
    fields
}

fn endpoint(written: &At<String>, context: &mut Context<'_>) -> Option<HttpUrl> {
    let url = match HttpUrl::parse(&written.value) {
        Ok(url) if !url.path.is_empty() => {
            Err("an endpoint has no path: the path of the request is forwarded")
        }
        outcome => outcome,
    };
    url.map_err(|why| {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                format!("this cannot be an endpoint: {why}"),
            )
            .help("write for example \"http://127.0.0.1:9001\""),
        );
    })
    .ok()
}

/// Checks the endpoints without TLS (`http://`). They must be on this machine, unless
/// `allow_plaintext` is true. If there are such endpoints, the upstream must have no TLS settings.
fn check_plaintext(
    section: &UpstreamSection,
    urls: &[(&At<String>, HttpUrl)],
    context: &mut Context<'_>,
) {
    if !section.allow_plaintext.or(false) {
        for (written, _) in urls.iter().filter(|(_, url)| !url.is_loopback()) {
            context.error(
                Diagnostic::new(
                    written.place.clone(),
                    "this endpoint is not on this machine, so assertions and data would cross the network in the clear",
                )
                .label("plain http beyond loopback")
                .help("write https:// and add roots, or add allow_plaintext = true to this [[upstream]] where the network itself is trusted"),
            );
        }
    }
    let places = [
        section.roots.at().map(|at| &at.place),
        section.server_name.at().map(|at| &at.place),
        section.identity.at().map(|at| &at.place),
        section.certificate.at().map(|at| &at.place),
        section.private_key.at().map(|at| &at.place),
    ];
    // TLS settings have no effect on endpoints without TLS, so they are refused.
    if let Some(place) = places.into_iter().flatten().next()
        && !urls.is_empty()
    {
        context.error(
            Diagnostic::new(
                place.clone(),
                "this is about TLS, and the endpoints are plain http",
            )
            .help("write https:// endpoints, or remove roots, server_name, identity, certificate and private_key"),
        );
    }
}

fn client_tls(
    section: &UpstreamSection,
    protocol: HttpProtocol,
    urls: &[(&At<String>, HttpUrl)],
    context: &mut Context<'_>,
) -> Option<ClientTls> {
    let roots = match &section.roots {
        Field::Good(roots) => {
            let name = section.name.or(String::new());
            let key = UnitKey::new(format_args!("roots of [[upstream]] {name}"));
            context.unit(key, |context| material(&roots.value.0, context, pem::roots))
        }
        Field::Bad => None,
        Field::Absent => {
            if let Some((written, _)) = urls.first() {
                context.error(
                    Diagnostic::new(
                        written.place.clone(),
                        "this [[upstream]] has https endpoints and no `roots`",
                    )
                    .label("whom to believe here is not said")
                    .help("add roots = [\"FILE.pem\"] with the authorities that may vouch for the service"),
                );
            }
            None
        }
    };
    let name = match section.server_name.at() {
        None => Some(None),
        Some(written) => match client::server_name(&written.value) {
            Some(name) => Some(Some(name)),
            None => {
                context.error(
                    Diagnostic::new(written.place.clone(), "this is no server name")
                        .help("write the host name of the service's certificate, without port"),
                );
                None
            }
        },
    };
    if let Some(identity) = section.identity.at()
        && matches!(
            identity.value,
            IdentityPattern::ApiKey(_) | IdentityPattern::Client { .. }
        )
    {
        context.error(
            Diagnostic::new(identity.place.clone(), "no certificate carries such a name")
                .help("write for example \"spiffe://example.org/ns/shop/sa/orders\""),
        );
    }
    if let Some(identity) = section.identity.at()
        && matches!(identity.value, IdentityPattern::AnyCaller)
    {
        context.error(
            Diagnostic::new(identity.place.clone(), "this would accept every certificate of these roots")
                .help("write for example \"spiffe://example.org/ns/shop/sa/orders\", or leave it out: the server name is checked then"),
        );
    }
    if let (None, Some((written, url))) = (
        section.server_name.at(),
        urls.iter()
            .find(|(_, url)| client::server_name(&url.host).is_none()),
    ) {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                format!("{} is no name that a certificate could carry", url.host),
            )
            .help("add server_name"),
        );
    }
    let own = own_credentials(section, context)?;
    let tls = ClientTls::new(ClientTlsConfig {
        roots: roots?.into_iter().map(|found| found.value).collect(),
        server_name: name?,
        identity: section.identity.value().cloned(),
        credentials: own,
        protocol: protocol.alpn(),
    });
    tls.map_err(|error| {
        context.error(Diagnostic::new(section.place.clone(), error.to_string()));
    })
    .ok()
}

/// Reads the certificate that the gateway presents to the service. Returns `None` if it is invalid,
/// and `Some(None)` if none is configured.
fn own_credentials(
    section: &UpstreamSection,
    context: &mut Context<'_>,
) -> Option<Option<Credentials>> {
    let (missing, present) = match (
        section.certificate.is_absent(),
        section.private_key.is_absent(),
    ) {
        (true, true) => return Some(None),
        (false, false) => {
            let owner = CertificateOwner::Upstream(section.name.or(String::new()));
            return credentials(&owner, &section.certificate, &section.private_key, context)
                .map(Some);
        }
        (true, false) => ("certificate", "private_key"),
        (false, true) => ("private_key", "certificate"),
    };
    context.error(
        Diagnostic::new(
            section.place.clone(),
            format!("this [[upstream]] has a `{present}` and no `{missing}`"),
        )
        .label(format!("`{missing}` is missing here"))
        .help(format!("add `{missing}`")),
    );
    None
}
