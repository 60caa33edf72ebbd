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
mod header_rules;
mod limits;
mod listeners;
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

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::crl_fetch::ListCopy;
use super::diagnostics::{Diagnostic, Diagnostics, Span};
use super::document::Document;
use super::files::{Access, Files};
use super::inventory::Inventory;
use super::suggest::nearest;
use super::units::{Unit, UnitKey, UnitLoad, Units};
use super::value::At;
use crate::authn::remote_lists::{FetchPolicy, ListSource, RemoteLists};
use crate::clock;
use crate::file_stamp::{FileStamp, FileStamps};
use crate::secret::Secret;
use crate::snapshot::{AuditDestination, Settings, Snapshot};
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
    units: UnitLoad,
    /// What cannot be used of the unit that is read, and for which its last good part
    /// stands in.
    degraded: Vec<Diagnostic>,
}

/// What a configuration is resolved in place of, and how.
pub(super) struct ResolveInput<'a> {
    /// The configuration file, and its stamp before it was read.
    pub(super) file: (&'a Path, Option<FileStamp>),
    /// What is in service, when this is to replace it.
    pub(super) previous: Option<&'a Snapshot>,
    pub(super) units: UnitLoad,
    /// How files are read.
    pub(super) access: Access,
}

/// What a configuration resolves to.
pub(super) struct Resolved {
    pub(super) settings: Settings,
    pub(super) snapshot: Snapshot,
    /// Files that were read and directories that were listed, the configuration
    /// itself first.
    pub(super) files: Vec<PathBuf>,
    pub(super) inventory: Inventory,
    pub(super) units: Units,
}

/// What is known of a resolution whether it succeeded or not.
#[derive(Default)]
pub(super) struct ResolveReport {
    /// The files that were read, as they were before.
    pub(super) stamps: FileStamps,
    /// Parts for which the last good one stands in.
    pub(super) degraded: Vec<Diagnostic>,
    /// Whether the system failed to read a file that may be there.
    pub(super) system_failure: bool,
}

impl<'a> Context<'a> {
    fn new(input: ResolveInput<'a>, diagnostics: &'a mut Diagnostics) -> Self {
        let previous = input.previous;
        Self {
            files: Files::beside(input.file, input.access),
            diagnostics,
            inventory: Inventory::default(),
            now: i64::try_from(clock::unix_now()).unwrap_or(i64::MAX),
            previous,
            paths: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.path_cache)),
            tickets: previous
                .map_or_else(TicketSource::default, |previous| previous.tickets.clone()),
            denied: None,
            remote: previous
                .map_or_else(Arc::default, |previous| Arc::clone(&previous.crl_fetcher)),
            fetching: None,
            sources: Vec::new(),
            copies: Vec::new(),
            units: input.units,
            degraded: Vec::new(),
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

    /// Builds a unit of material, or takes it as it is known. What `build` reads,
    /// fetches and sums up belongs to the unit.
    fn unit<T: Clone + Send + Sync + 'static>(
        &mut self,
        key: UnitKey,
        build: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        if let Some(unit) = self.units.used.get(&key)
            && let Some(value) = unit.value()
        {
            return Some(value);
        }
        if let Some(unit) = self.units.known.get(&key).cloned()
            && let Some(value) = unit.value()
        {
            // How lists are fetched may have changed since the unit was read.
            let sources = unit.sources.iter().map(|source| ListSource {
                policy: self
                    .fetching
                    .as_ref()
                    .map_or_else(|| Arc::clone(&source.policy), Arc::clone),
                ..source.clone()
            });
            self.sources.extend(sources);
            let summaries = unit.summaries.iter().cloned();
            self.inventory.trust_domains.extend(summaries);
            self.units.used.insert(key, unit);
            return Some(value);
        }
        let (files, sources) = (self.files.mark(), self.sources.len());
        let summaries = self.inventory.trust_domains.len();
        let warnings = self.diagnostics.warning_count();
        let value = build(self)?;
        let unit = Unit {
            digest: None,
            value: Box::new(value.clone()),
            stamps: self.files.stamps_since(files),
            warnings: self.diagnostics.warnings_from(warnings),
            sources: self.sources.get(sources..).unwrap_or_default().to_vec(),
            summaries: self
                .inventory
                .trust_domains
                .get(summaries..)
                .unwrap_or_default()
                .to_vec(),
        };
        self.units.used.insert(key, Arc::new(unit));
        Some(value)
    }

    /// The lists by URL of a unit.
    fn sources_of(&self, key: &UnitKey) -> Vec<ListSource> {
        let unit = self.units.used.get(key);
        unit.map_or_else(Vec::new, |unit| unit.sources.clone())
    }

    /// Says what a unit that was just built amounts to: two with the same digest are the
    /// same to everybody.
    fn set_digest(&mut self, key: &UnitKey, digest: [u8; 32]) {
        if let Some(unit) = self.units.used.get_mut(key).and_then(Arc::get_mut) {
            unit.digest.get_or_insert(digest);
        }
    }

    /// What is in service of a unit that is read now.
    fn unit_before<T: Clone + 'static>(&self, key: &UnitKey) -> Option<T> {
        self.units.before.get(key)?.value()
    }

    /// Reads a part of a unit. If it cannot be used and the last good part may stand
    /// in for it, the errors are noted instead of reported, and nothing is returned.
    fn part<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let errors = self.diagnostics.error_count();
        let value = read(self);
        if self.units.keep_last_good {
            let errors = self.diagnostics.take_errors_from(errors);
            if !errors.is_empty() {
                self.degraded.extend(errors);
                return None;
            }
        }
        value
    }

    /// Reads a file as a unit of its own.
    fn read_unit(&mut self, key: UnitKey, written: &At<String>, path: &Path) -> Option<Secret> {
        self.unit(key, |context| {
            let content = context.files.read(written, path, context.diagnostics)?;
            Some(Secret::new(content))
        })
    }

    /// Reads a private file as a unit of its own.
    fn read_private_unit(
        &mut self,
        key: UnitKey,
        written: &At<String>,
        path: &Path,
    ) -> Option<Secret> {
        self.unit(key, |context| {
            let files = &mut context.files;
            files.read_private(written, path, context.diagnostics)
        })
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

/// Builds everything. Nothing is resolved if an error was reported; the report is
/// there in any case.
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
    context.denied = deny_list::deny_list(document.deny_list.as_ref(), context);
    context.tickets = tickets::tickets(document.tickets.as_ref(), context);
    let listener = listeners::listener(document, &domains, context);
    let public = listeners::public(document, listener.credentials.as_ref(), context);
    let admin = listeners::admin(document, &listener, &domains, context);
    listeners::check_addresses(document, context);
    let signer = assertion::signer(document, context);
    if let Some(issuer) = document.assertion.as_ref().map(|section| &section.issuer) {
        assertion::check_issuer_leads(issuer, public.as_ref(), context);
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
        path_cache: Arc::clone(&context.paths),
        tickets: context.tickets.clone(),
        deny_list: context.denied.clone(),
        crl_fetcher: Arc::clone(&context.remote),
        crl_sources: std::mem::take(&mut context.sources),
        operators: operators.flatten(),
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
