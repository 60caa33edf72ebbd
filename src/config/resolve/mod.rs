//! What the values of the file mean together: builds the domain types, and
//! reports everything that does not fit.
//!
//! Each part goes on after an error, so that one look at the output shows all
//! of them. What could not be built is `None` from there on and complains no
//! further.

mod api_keys;
mod assertion;
mod authentication;
mod credentials;
mod crl_fetch;
mod deny_list;
mod limits;
mod listeners;
mod pem;
mod rate_limits;
mod routes;
mod summaries;
mod tickets;
mod tokens;
mod trust;
mod upstream_bounds;
mod upstreams;

use std::path::Path;
use std::sync::Arc;

use self::crl_fetch::ListCopy;
use super::diagnostics::{Diagnostic, Diagnostics, Span};
use super::document::Document;
use super::files::Files;
use super::inventory::Inventory;
use super::suggest::nearest;
use super::value::At;
use crate::authn::remote_lists::{FetchPolicy, ListSource, RemoteLists};
use crate::clock;
use crate::look::Look;
use crate::snapshot::{AuditDestination, Loaded, Settings, Snapshot};
use crate::tls::TicketSource;
use crate::trust::{DenyList, PathCache};

/// What every part needs.
struct Context<'a> {
    files: Files,
    diagnostics: &'a mut Diagnostics,
    inventory: Inventory,
    /// Seconds since the Unix epoch; one moment for the whole load.
    now: i64,
    /// What is in service, when this is to replace it.
    previous: Option<&'a Snapshot>,
    /// Verified chains, kept over reloads.
    paths: Arc<PathCache>,
    /// What session tickets are made with.
    tickets: TicketSource,
    /// Who is refused at once.
    denied: Option<Arc<DenyList>>,
    /// Revocation lists by URL, kept over reloads.
    remote: Arc<RemoteLists>,
    /// How they are fetched, where that is said.
    fetching: Option<Arc<FetchPolicy>>,
    /// Those that are in use.
    sources: Vec<ListSource>,
    /// What was in use of them before this process, where it differs.
    copies: Vec<ListCopy>,
}

impl<'a> Context<'a> {
    fn new(
        (path, look): (&Path, Option<Look>),
        previous: Option<&'a Snapshot>,
        diagnostics: &'a mut Diagnostics,
    ) -> Self {
        Self {
            files: Files::beside(path, look),
            diagnostics,
            inventory: Inventory::default(),
            now: i64::try_from(clock::unix_now()).unwrap_or(i64::MAX),
            previous,
            paths: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.paths)),
            tickets: previous
                .map_or_else(TicketSource::default, |previous| previous.tickets.clone()),
            denied: None,
            remote: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.remote)),
            fetching: None,
            sources: Vec::new(),
            copies: Vec::new(),
        }
    }
}

impl Context<'_> {
    fn error(&mut self, error: Diagnostic) {
        self.diagnostics.error(error);
    }

    fn warn(&mut self, warning: Diagnostic) {
        self.diagnostics.warn(warning);
    }

    /// Reports a reference to something that is not there.
    fn unknown_reference<'n>(
        &mut self,
        reference: &At<String>,
        what: &str,
        known: impl Iterator<Item = &'n str> + Clone,
    ) {
        let name = &reference.value;
        let help = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => {
                let known: Vec<_> = known.collect();
                if known.is_empty() {
                    format!("add a {what} of this name")
                } else {
                    format!("there are: {}", known.join(", "))
                }
            }
        };
        self.error(
            Diagnostic::new(
                reference.place.clone(),
                format!("there is no {what} named {name:?}"),
            )
            .label(format!("no such {what}"))
            .help(help),
        );
    }

    /// Reports names that stand twice among sections of one kind.
    fn unique<'n>(&mut self, what: &str, names: impl Iterator<Item = (&'n str, &'n Span)>) {
        let mut seen: Vec<(&str, &Span)> = Vec::new();
        for (name, place) in names {
            match seen.iter().find(|(other, _)| *other == name) {
                Some((_, first)) => self.diagnostics.error(
                    Diagnostic::new(place.clone(), format!("two {what}s are named {name:?}"))
                        .label("the second")
                        .also((*first).clone(), "the first")
                        .help("give each a name of its own"),
                ),
                None => seen.push((name, place)),
            }
        }
    }
}

/// Builds everything. `None` when an error was reported.
pub(super) fn resolve(
    document: &Document,
    (path, look): (&Path, Option<Look>),
    previous: Option<&Snapshot>,
    diagnostics: &mut Diagnostics,
) -> Option<(Loaded, Inventory)> {
    let mut context = Context::new((path, look), previous, diagnostics);
    report_missing_sections(document, &mut context);
    context.fetching = crl_fetch::policy(document.crl_fetch.as_ref(), &mut context);
    let domains = trust::domains(document, &mut context);
    context.denied = deny_list::deny_list(document.deny_list.as_ref(), &mut context);
    context.tickets = tickets::tickets(document.tickets.as_ref(), &mut context);
    let listener = listeners::listener(document, &domains, &mut context);
    let public = listeners::public(document, listener.credentials.as_ref(), &mut context);
    let admin = listeners::admin(document, &listener, &domains, &mut context);
    listeners::check_addresses(document, &mut context);
    let signer = assertion::signer(document, &mut context);
    if let Some(issuer) = document.assertion.as_ref().map(|section| &section.issuer) {
        assertion::check_issuer_leads(issuer, public.as_ref(), &mut context);
    }
    let upstreams = upstreams::upstreams(document, &mut context);
    let credentials = authentication::CredentialParts {
        issuers: tokens::issuers(document, &mut context),
        api_keys: api_keys::api_keys(document, &mut context),
    };
    let routes = routes::routes(document, &upstreams, &domains, &credentials, &mut context);
    let limiter = rate_limits::limiter(document, &mut context);
    let limits = limits::limits(document.limits.as_ref(), &mut context);
    let workers = limits::workers(document.runtime.as_ref(), &mut context);
    let audit = audit_destination(document, &context);
    if context.diagnostics.has_errors() {
        return None;
    }
    let base = context.files.locate("");
    let (files, looks) = context.files.into_seen();
    let (admin, operators) = admin.unzip();
    let public_credentials = public.as_ref().and_then(|public| public.tls.clone());
    let loaded = Loaded {
        settings: Settings {
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
        },
        snapshot: Snapshot {
            generation: 1,
            names: listener.names?,
            bundles: domains
                .iter()
                .filter_map(|domain| domain.bundle.as_ref().map(Arc::clone))
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
            paths: context.paths,
            tickets: context.tickets,
            denied: context.denied,
            remote: context.remote,
            list_sources: context.sources,
            operators: operators.flatten(),
        },
        warnings: Vec::new(),
        files,
        looks,
    };
    Some((loaded, context.inventory))
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
