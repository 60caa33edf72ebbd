//! Decides what the values of the file mean together: builds the types of other modules, and
//! reports all contradictions.
//!
//! Each section is resolved even if another section has errors, so all errors are reported
//! together. A value that could not be built becomes `None`, and causes no further errors.
//!
//! Files for sections of the configuration, in the order of the sections:
//!
//! - `listeners`: `[listener]`, `[[server_name]]`, `[public]`, `[admin]`
//! - `tickets`: `[tls.tickets]`
//! - `trust`, `trust_material`: `[[trust_domain]]`, and the content of its files
//! - `crl_fetch`: `[crl_fetch]`
//! - `deny_list`: `[deny_list]`
//! - `assertion`: `[assertion]`
//! - `tokens`: `[[token_issuer]]`
//! - `api_keys`: `[api_keys]`, `[[api_key]]`
//! - `upstreams`, `upstream_bounds`, `header_rules`: `[[upstream]]`
//! - `routes`, `authentication`, `path_encoding`: `[[route]]`
//! - `rate_limits`: `[rate_limits]`
//! - `limits`: `[limits]`, `[runtime]`
//!
//! Files that the files above use:
//!
//! - `summaries`: summaries of roots and CRLs
//! - `credentials`: the gateway's own certificates and keys
//! - `pem`: reads certificates and CRLs from files
//! - `bounds`: durations and sizes within limits
//! - `context`: the state that all sections use

mod api_keys;
mod assertion;
mod authentication;
mod bounds;
mod context;
mod credentials;
mod crl_fetch;
mod deny_list;
mod header_rules;
mod limits;
mod listeners;
mod path_encoding;
mod pem;
mod rate_limits;
mod routes;
mod summaries;
mod tickets;
mod tokens;
mod trust;
mod trust_material;
mod upstream_bounds;
mod upstreams;

use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::document::Document;
use super::material::inventory::Inventory;
use super::material::units::Units;
use crate::file_stamp::FileStamps;
use crate::snapshot::{AuditDestination, Settings, Snapshot};
use context::Context;

pub(super) use context::ResolveInput;

/// Everything that was built from a configuration without errors.
pub(super) struct Resolved {
    pub(super) settings: Settings,
    pub(super) snapshot: Snapshot,
    /// The files that were read, starting with the configuration file, and the directories that
    /// were listed.
    pub(super) files: Vec<PathBuf>,
    pub(super) inventory: Inventory,
    pub(super) units: Units,
}

/// What a resolution found out about files. [`resolve`] returns it even if there were errors.
#[derive(Default)]
pub(super) struct ResolveReport {
    /// The stamps of the configuration's files, taken before they were read.
    pub(super) stamps: FileStamps,
    /// Errors in files, patterns and URLs that cannot be used. The last good content of these
    /// files, patterns and URLs stays in use.
    pub(super) degraded: Vec<Diagnostic>,
    /// Whether the operating system failed to read a file or to list a directory, for example
    /// because of too few descriptors.
    pub(super) system_failure: bool,
}

/// Builds everything that the configuration describes. Returns `None` if an error was reported.
/// Always returns the report.
pub(super) fn resolve(
    document: &Document,
    input: ResolveInput<'_>,
    diagnostics: &mut Diagnostics,
) -> (Option<Resolved>, ResolveReport) {
    let mut context = Context::new(input, diagnostics);
    let parts = build(document, &mut context);
    let Context {
        files,
        units,
        degraded,
        inventory,
        ..
    } = context;
    let system_failure = files.has_system_failure();
    let (paths, stamps) = files.into_seen();
    let report = ResolveReport {
        stamps,
        degraded,
        system_failure,
    };
    let resolved = parts.map(|(settings, snapshot)| Resolved {
        settings,
        snapshot,
        files: paths,
        inventory,
        units: units.used,
    });
    (resolved, report)
}

fn build(document: &Document, context: &mut Context<'_>) -> Option<(Settings, Snapshot)> {
    report_missing_sections(document, context);
    context.fetching = crl_fetch::policy(document.crl_fetch.as_ref(), context);
    let domains = trust::domains(document, context);
    context.deny_list = deny_list::deny_list(document.deny_list.as_ref(), context);
    context.tickets = tickets::tickets(document.tickets.as_ref(), context);
    let listener = listeners::listener(document, &domains, context);
    let public = listeners::public(document, listener.credentials.as_ref(), context);
    let admin = listeners::admin(document, &listener, &domains, context);
    listeners::check_addresses(document, context);
    let signer = assertion::signer(document, context);
    if let Some(issuer) = document.assertion.as_ref().map(|section| &section.issuer) {
        assertion::check_issuer_leads(issuer, public.as_ref(), context);
    }
    if let Some(signer) = &signer {
        assertion::check_path_room(&document.routes, signer.settings(), context);
    }
    let upstreams = upstreams::upstreams(document, context);
    let credentials = authentication::CredentialParts {
        issuers: tokens::issuers(document, context),
        api_keys: api_keys::api_keys(document, context),
    };
    let routes = routes::routes(document, &upstreams, &domains, &credentials, context);
    let limiter = rate_limits::limiter(document, context);
    let limits = limits::limits(document.limits.as_ref(), context);
    let workers = limits::workers(document.runtime.as_ref(), context);
    let audit = audit_destination(document, context);
    if context.diagnostics.has_errors() {
        return None;
    }
    let base = context.files.locate("");
    let (admin, operators) = admin.unzip();
    let public_credentials = public.as_ref().and_then(|public| public.tls.clone());
    let settings = Settings {
        address: listener.address?,
        workers,
        public,
        admin,
        audit,
        audit_chains: document
            .audit
            .as_ref()
            .and_then(|section| section.chains.value())
            .map(|directory| base.join(directory)),
    };
    let snapshot = Snapshot {
        generation: 1,
        server_names: listener.names?,
        bundles: domains
            .iter()
            .filter_map(|domain| domain.bundle.as_ref().map(Arc::clone))
            .collect(),
        max_unread: domains
            .iter()
            .filter_map(|domain| Some((domain.name.as_ref()?.value.clone(), domain.max_unread?)))
            .collect(),
        routes: routes?,
        upstreams: upstreams.into_iter().filter_map(|u| u.upstream).collect(),
        signer: signer?,
        token_issuers: credentials
            .issuers
            .iter()
            .filter_map(|part| part.issuer.as_ref().map(Arc::clone))
            .collect(),
        limiter: limiter?,
        api_keys: credentials.api_keys?,
        limits,
        balancers: listener.balancers,
        public_credentials,
        path_cache: Arc::clone(&context.path_cache),
        tickets: context.tickets.clone(),
        deny_list: context.deny_list.clone(),
        crl_fetcher: Arc::clone(&context.crl_fetcher),
        crl_sources: std::mem::take(&mut context.sources),
        operators: operators.flatten(),
        own_certificates: std::mem::take(&mut context.own_certificates),
    };
    Some((settings, snapshot))
}

fn audit_destination(document: &Document, context: &Context<'_>) -> AuditDestination {
    document
        .audit
        .as_ref()
        .and_then(|section| section.file.value())
        .map_or(AuditDestination::Stdout, |file| {
            AuditDestination::File(context.files.locate(file))
        })
}

fn report_missing_sections(document: &Document, context: &mut Context<'_>) {
    let needed = [
        ("listener", "[listener]", "says where callers connect"),
        (
            "trust_domain",
            "[[trust_domain]]",
            "says whose certificates are believed; without one nobody could connect",
        ),
        (
            "assertion",
            "[assertion]",
            "says who signs what services are told",
        ),
        (
            "upstream",
            "[[upstream]]",
            "names a service behind the gateway",
        ),
        (
            "route",
            "[[route]]",
            "says who may send what where; without one every request is refused",
        ),
    ];
    for (name, title, purpose) in needed {
        if !document.has(name) {
            context.error(
                Diagnostic::whole(format!("there is no {title} section"))
                    .help(format!("add {title}: it {purpose}")),
            );
        }
    }
}
