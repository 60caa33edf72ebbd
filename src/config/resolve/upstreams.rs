//! `[[upstream]]`: the services behind the gateway.

use std::sync::Arc;
use std::time::Duration;

use super::routes::names;
use super::{Context, limits};
use crate::config::diagnostics::Diagnostic;
use crate::config::document::Document;
use crate::config::raw::UpstreamSection;
use crate::config::url::HttpUrl;
use crate::config::value::At;
use crate::upstream::{Endpoint, Upstream, UpstreamConfig};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One upstream as far as it could be built.
pub(super) struct UpstreamPart {
    pub(super) name: Option<At<String>>,
    pub(super) upstream: Option<Arc<Upstream>>,
}

/// Builds the upstreams.
pub(super) fn upstreams(document: &Document, context: &mut Context<'_>) -> Vec<UpstreamPart> {
    let sections = &document.upstreams;
    context.unique("upstream", names(sections.iter().map(|s| &s.name)));
    sections
        .iter()
        .map(|section| UpstreamPart {
            name: section.name.at().cloned(),
            upstream: upstream(section, context),
        })
        .collect()
}

fn upstream(section: &UpstreamSection, context: &mut Context<'_>) -> Option<Arc<Upstream>> {
    let plaintext = section.allow_plaintext.or(false);
    let endpoints: Vec<Endpoint> = section
        .endpoints
        .items()
        .iter()
        .filter_map(|written| endpoint(written, plaintext, context))
        .collect();
    let mut config = UpstreamConfig {
        name: section.name.value().cloned().unwrap_or_default(),
        endpoints,
        host: section.host.value().cloned(),
        connect_timeout: CONNECT_TIMEOUT,
        first_byte_timeout: FIRST_BYTE_TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
    };
    limits::set_time(
        &section.connect_timeout,
        &mut config.connect_timeout,
        context,
    );
    limits::set_time(
        &section.first_byte_timeout,
        &mut config.first_byte_timeout,
        context,
    );
    limits::set_time(&section.idle_timeout, &mut config.idle_timeout, context);
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
    (section.name.at().is_some() && !config.endpoints.is_empty())
        .then(|| Arc::new(Upstream::new(config)))
}

fn endpoint(written: &At<String>, plaintext: bool, context: &mut Context<'_>) -> Option<Endpoint> {
    let url = match HttpUrl::parse(&written.value) {
        Ok(url) if url.https => {
            context.error(
                Diagnostic::new(
                    written.place.clone(),
                    "TLS to upstreams is not supported yet",
                )
                .help("write http://HOST:PORT of a service on this machine"),
            );
            return None;
        }
        Ok(url) if !url.path.is_empty() => {
            Err("an endpoint has no path: the path of the request is forwarded")
        }
        outcome => outcome,
    };
    let url = url
        .map_err(|why| {
            context.error(
                Diagnostic::new(
                    written.place.clone(),
                    format!("this cannot be an endpoint: {why}"),
                )
                .help("write for example \"http://127.0.0.1:9001\""),
            );
        })
        .ok()?;
    if !plaintext && !url.is_loopback() {
        context.error(
            Diagnostic::new(
                written.place.clone(),
                "this endpoint is not on this machine, so assertions and data would cross the network in the clear",
            )
            .label("plain http beyond loopback")
            .help("add allow_plaintext = true to this [[upstream]] where the network itself is trusted"),
        );
        return None;
    }
    Some(Endpoint {
        port: url.port(),
        host: url.host.into(),
    })
}
