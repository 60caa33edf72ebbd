//! Units of material: files that are read and take effect together.
//!
//! A certificate with its key, one trust domain's roots and revocation lists, one
//! directory of signing keys, one key set, one secret. Each is built once and kept
//! with the stamps of its files, so that a change of one file reads that unit alone
//! and everything else stays as it is in service.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::inventory::TrustDomainSummary;
use crate::config::diagnostics::Diagnostic;
use crate::crl_fetch::CrlSource;
use crate::file_stamp::FileStamps;
use crate::identity::TrustDomain;

/// Names a unit, in words that an operator understands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitKey(Arc<str>);

const TRUST_DOMAIN: &str = "trust domain ";

impl UnitKey {
    /// Names a unit by its kind and its owner, for example `certificate of [listener]`.
    pub(in crate::config) fn new(name: impl fmt::Display) -> Self {
        Self(name.to_string().into())
    }

    /// Names the unit of a trust domain's roots, intermediates and revocation lists.
    #[must_use]
    pub fn trust_domain(name: &TrustDomain) -> Self {
        Self::new(format_args!("{TRUST_DOMAIN}{name}"))
    }

    pub(in crate::config) fn is_trust_domain(&self) -> bool {
        self.0.starts_with(TRUST_DOMAIN)
    }
}

impl fmt::Display for UnitKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A unit as it was built.
pub(in crate::config) struct Unit {
    /// Hash of the content, for units that may be read repeatedly without a change.
    pub(in crate::config) digest: Option<[u8; 32]>,
    pub(in crate::config) value: Box<dyn Any + Send + Sync>,
    /// Stamps of the files and directories, taken before they were read.
    pub(in crate::config) stamps: FileStamps,
    /// The URLs among its revocation lists.
    pub(in crate::config) sources: Vec<CrlSource>,
    /// Warnings for an operator.
    pub(in crate::config) warnings: Vec<Diagnostic>,
    /// Summaries of trust domains, for `countersign check`.
    pub(in crate::config) summaries: Vec<TrustDomainSummary>,
}

/// Units by name.
pub(in crate::config) type Units = BTreeMap<UnitKey, Arc<Unit>>;

impl Unit {
    /// Returns the value of the unit, if it has this type.
    pub(in crate::config) fn value<T: Clone + 'static>(&self) -> Option<T> {
        self.value.downcast_ref::<T>().cloned()
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values hold keys and secrets.
        formatter
            .debug_struct("Unit")
            .field("stamps", &self.stamps)
            .finish_non_exhaustive()
    }
}

/// How one load treats units.
#[derive(Debug, Default)]
pub(in crate::config) struct UnitLoad {
    /// Taken as they are, unread.
    pub(in crate::config) known: Units,
    /// The units in service that are read again now. In a load of material, the last good part of a
    /// unit replaces a part that cannot be used.
    pub(in crate::config) before: Units,
    /// Whether the last good part of a unit replaces a part that cannot be used. False in a load of
    /// the configuration, which is accepted as a whole or refused.
    pub(in crate::config) keep_last_good: bool,
    /// Reads only revocation lists and keeps roots and intermediates, because these may prevent the
    /// unit from loading as a whole.
    pub(in crate::config) crls_only: bool,
    /// Trust domains whose files could not be read for too long, since when in seconds
    /// since the Unix epoch.
    pub(in crate::config) suspended: BTreeMap<TrustDomain, i64>,
    /// Everything that was used.
    pub(in crate::config) used: Units,
}
