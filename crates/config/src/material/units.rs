//! Units of material. A unit is a set of files that are read and take effect together.
//!
//! Examples of units are a certificate with its key, the roots and CRLs of one trust domain, a
//! directory of signing keys, a key set, or a secret. Each unit is kept together with the stamps of
//! its files ([`FileStamp`](crate::file_stamp::FileStamp)). If a file changes, only its unit is
//! read again. All other units stay in service.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::inventory::TrustDomainSummary;
use crate::crl_fetch::CrlSource;
use crate::diagnostics::Diagnostic;
use crate::file_stamp::FileStamps;
use crate::identity::TrustDomain;

/// The name of a unit of material, for example `certificate of [listener]`. Messages to operators
/// contain it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitKey(Arc<str>);

const TRUST_DOMAIN: &str = "trust domain ";

impl UnitKey {
    /// Creates the name of a unit. `name` contains the kind of the unit and its section, for
    /// example `certificate of [listener]`.
    pub(crate) fn new(name: impl fmt::Display) -> Self {
        Self(name.to_string().into())
    }

    /// Returns the name of the unit that contains the roots, intermediates and CRLs of a trust
    /// domain.
    #[must_use]
    pub fn trust_domain(name: &TrustDomain) -> Self {
        Self::new(format_args!("{TRUST_DOMAIN}{name}"))
    }

    pub(crate) fn is_trust_domain(&self) -> bool {
        self.0.starts_with(TRUST_DOMAIN)
    }
}

impl fmt::Display for UnitKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A set of files that were read together, and the value that was built from them.
pub(crate) struct Unit {
    /// A hash of the unit's content. If the unit has the same hash after it was read again, its
    /// content has not changed. Only trust domains have a hash, because their files are often
    /// rewritten without a change.
    pub(crate) digest: Option<[u8; 32]>,
    pub(crate) value: Box<dyn Any + Send + Sync>,
    /// The stamps of the unit's files and directories, taken before they were read.
    pub(crate) stamps: FileStamps,
    /// The CRLs of the unit that are configured as URLs.
    pub(crate) sources: Vec<CrlSource>,
    /// The warnings about the unit's files.
    pub(crate) warnings: Vec<Diagnostic>,
    /// Summaries of trust domains for `countersign check`. Empty if the unit is not a trust domain.
    pub(crate) summaries: Vec<TrustDomainSummary>,
}

/// All units of a configuration by their names.
pub(crate) type Units = BTreeMap<UnitKey, Arc<Unit>>;

impl Unit {
    /// Returns the value that was built from the unit's files. Returns `None` if the value has
    /// another type than `T`.
    pub(crate) fn value<T: Clone + 'static>(&self) -> Option<T> {
        self.value.downcast_ref::<T>().cloned()
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value is not printed, because it may contain keys and secrets.
        formatter
            .debug_struct("Unit")
            .field("stamps", &self.stamps)
            .finish_non_exhaustive()
    }
}

/// The units of one load: the units that the load uses again without reading, the units that it
/// reads again, and the units that result.
#[derive(Debug, Default)]
pub(crate) struct UnitLoad {
    /// Units whose present values the load uses again. The load does not read the files of these
    /// units.
    pub(crate) known: Units,
    /// Units in service that the load reads again. If a file cannot be used, the earlier content in
    /// these units can replace it (see `keep_last_good`).
    pub(crate) before: Units,
    /// Whether the last good content of a file, pattern or URL of a trust domain stays in use if
    /// the new content cannot be used. True if only material is loaded. False if the configuration
    /// file is loaded, because a configuration is accepted or refused as a whole.
    pub(crate) keep_last_good: bool,
    /// Whether only the CRLs of a trust domain are loaded. Its roots and intermediates in service
    /// then stay in use. Set if the unit cannot be loaded with its new roots.
    pub(crate) crls_only: bool,
    /// Trust domains whose files could not be read for longer than `max_unread`, with the time of
    /// the last success in seconds since the Unix epoch.
    pub(crate) suspended: BTreeMap<TrustDomain, i64>,
    /// All units that result from the load: the units that it uses again, and the units that it has
    /// built.
    pub(crate) used: Units,
}
