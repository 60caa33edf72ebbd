//! `Context`: the state that all sections use while they are resolved.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock;
use crate::crl_fetch::{CrlFetchPolicy, CrlFetcher, CrlSource};
use crate::diagnostics::suggest::nearest;
use crate::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::document::value::{At, Field};
use crate::file_stamp::FileStamp;
use crate::material::files::{Access, Files};
use crate::material::inventory::Inventory;
use crate::material::units::{Unit, UnitKey, UnitLoad};
use crate::secret::Secret;
use crate::snapshot::Snapshot;
use crate::tls::{OwnCertificate, TicketSource};
use crate::trust::{DenyList, PathCache};

/// The state that all sections use while they are resolved: input, and results that sections share.
pub(super) struct Context<'a> {
    pub(super) files: Files,
    pub(super) diagnostics: &'a mut Diagnostics,
    pub(super) inventory: Inventory,
    /// The time of the load, in seconds since the Unix epoch. It is the same for all sections.
    pub(super) now: i64,
    /// The snapshot in service, which the new snapshot will replace. `None` at start.
    pub(super) previous: Option<&'a Snapshot>,
    /// The cache of verified certificate paths, which stays the same over reloads.
    pub(super) path_cache: Arc<PathCache>,
    /// The keys for session tickets, which stay the same over reloads.
    pub(super) tickets: TicketSource,
    /// The callers and certificates that the gateway refuses immediately. `None` without
    /// `[deny_list]`.
    pub(super) deny_list: Option<Arc<DenyList>>,
    /// Fetches CRLs by URL, and keeps them over reloads.
    pub(super) crl_fetcher: Arc<CrlFetcher>,
    /// How CRLs are fetched by URL. `None` without `[crl_fetch]`.
    pub(super) fetching: Option<Arc<CrlFetchPolicy>>,
    /// The URLs of CRLs that the new snapshot uses, with the fetched content.
    pub(super) sources: Vec<CrlSource>,
    /// The certificates that the gateway presents.
    pub(super) own_certificates: Vec<OwnCertificate>,
    /// The copies on disk of CRLs that an earlier process fetched. Only copies that differ from the
    /// CRL that was fetched now are in this list.
    pub(super) copies: Vec<CrlCopy>,
    pub(super) units: UnitLoad,
    /// Errors in files, patterns and URLs that cannot be used. The last good content of these
    /// files, patterns and URLs stays in use.
    pub(super) degraded: Vec<Diagnostic>,
}

/// The copy on disk of a CRL that an earlier process fetched by URL.
pub(super) struct CrlCopy {
    pub(super) source: CrlSource,
    pub(super) bytes: Bytes,
}

/// The input of a resolution, which decides what the values of a configuration mean.
pub(crate) struct ResolveInput<'a> {
    /// The path of the configuration file, and its stamp before it was read.
    pub(crate) file: (&'a Path, Option<FileStamp>),
    /// The snapshot in service, which the new snapshot will replace. `None` at start.
    pub(crate) previous: Option<&'a Snapshot>,
    pub(crate) units: UnitLoad,
    /// How the load accesses files.
    pub(crate) access: Access,
}

impl<'a> Context<'a> {
    pub(super) fn new(input: ResolveInput<'a>, diagnostics: &'a mut Diagnostics) -> Self {
        let previous = input.previous;
        Self {
            files: Files::beside(input.file, input.access),
            diagnostics,
            inventory: Inventory::default(),
            now: clock::certificate_now(),
            previous,
            path_cache: previous
                .map_or_else(Arc::default, |previous| Arc::clone(&previous.path_cache)),
            tickets: previous
                .map_or_else(TicketSource::default, |previous| previous.tickets.clone()),
            deny_list: None,
            crl_fetcher: previous
                .map_or_else(Arc::default, |previous| Arc::clone(&previous.crl_fetcher)),
            fetching: None,
            sources: Vec::new(),
            own_certificates: Vec::new(),
            copies: Vec::new(),
            units: input.units,
            degraded: Vec::new(),
        }
    }
}

impl Context<'_> {
    pub(super) fn error(&mut self, error: Diagnostic) {
        self.diagnostics.error(error);
    }

    pub(super) fn warn(&mut self, warning: Diagnostic) {
        self.diagnostics.warn(warning);
    }

    /// Returns the value of a unit of material. If the load uses the present value of the unit
    /// again ([`UnitLoad::known`]), reads no files. Otherwise, `build` reads the files. The unit
    /// then records these files, and all CRL sources, summaries and warnings that `build` adds.
    pub(super) fn unit<T: Clone + Send + Sync + 'static>(
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
            // Uses the current `[crl_fetch]`, because it may have changed since the unit was read.
            let sources = unit.sources.iter().map(|source| CrlSource {
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

    /// Returns the CRLs of a unit that are configured as URLs. Returns an empty list if this load
    /// has not used the unit.
    pub(super) fn sources_of(&self, key: &UnitKey) -> Vec<CrlSource> {
        let unit = self.units.used.get(key);
        unit.map_or_else(Vec::new, |unit| unit.sources.clone())
    }

    /// Sets the digest of a unit that this load has just built. If the digest is the same as that
    /// of the unit in service, the load has not changed the unit.
    pub(super) fn set_digest(&mut self, key: &UnitKey, digest: [u8; 32]) {
        if let Some(unit) = self.units.used.get_mut(key).and_then(Arc::get_mut) {
            unit.digest.get_or_insert(digest);
        }
    }

    /// Returns the value in service of a unit that this load reads again.
    pub(super) fn unit_before<T: Clone + 'static>(&self, key: &UnitKey) -> Option<T> {
        self.units.before.get(key)?.value()
    }

    /// Runs `read` for one file, pattern or URL of a unit. If `keep_last_good` is true and `read`
    /// reports an error, the error goes to `degraded` and the result is `None`. The last good
    /// content then stays in use.
    pub(super) fn part<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
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

    /// Returns the content of a single file that is a unit of material. Does not read the file if
    /// this load keeps the content that is in service.
    pub(super) fn read_unit(
        &mut self,
        key: UnitKey,
        written: &At<String>,
        path: &Path,
    ) -> Option<Secret> {
        self.unit(key, |context| {
            let content = context.files.read(written, path, context.diagnostics)?;
            Some(Secret::new(content))
        })
    }

    /// Same as [`Self::read_unit`], but warns if users other than the file's owner have any
    /// permission for it.
    pub(super) fn read_private_unit(
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

    /// Reports that a key refers to a name that no section has. `what` is the kind of the section.
    pub(super) fn unknown_reference<'n>(
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

    /// Reports names that several sections of one kind have. `what` is the kind of the sections.
    pub(super) fn unique<'n>(
        &mut self,
        what: &str,
        names: impl Iterator<Item = (&'n str, &'n Span)>,
    ) {
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

/// Returns the names in the fields, with their places. Leaves out absent and invalid fields.
pub(super) fn names<'a>(
    fields: impl Iterator<Item = &'a Field<String>>,
) -> impl Iterator<Item = (&'a str, &'a Span)> {
    fields.filter_map(|field| field.at().map(|at| (at.value.as_str(), &at.place)))
}
