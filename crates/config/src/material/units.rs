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
use crate::crl_fetch::CrlSource;
use crate::diagnostics::Diagnostic;
use crate::file_stamp::FileStamps;
use crate::identity::TrustDomain;

/// Names a unit, in words that an operator understands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitKey(Arc<str>);

const TRUST_DOMAIN: &str = "trust domain ";

impl UnitKey {
    /// Names a unit by its kind and its owner, for example `certificate of [listener]`.
    pub(crate) fn new(name: impl fmt::Display) -> Self {
        Self(name.to_string().into())
    }

    /// Names the unit of a trust domain's roots, intermediates and revocation lists.
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

/// A unit as it was built.
pub(crate) struct Unit {
    /// Hash of the content, for units that may be read repeatedly without a change.
    pub(crate) digest: Option<[u8; 32]>,
    pub(crate) value: Box<dyn Any + Send + Sync>,
    /// Stamps of the files and directories, taken before they were read.
    pub(crate) stamps: FileStamps,
    /// The URLs among its revocation lists.
    pub(crate) sources: Vec<CrlSource>,
    /// Warnings for an operator.
    pub(crate) warnings: Vec<Diagnostic>,
    /// Summaries of trust domains, for `countersign check`.
    pub(crate) summaries: Vec<TrustDomainSummary>,
}

/// Units by name.
pub(crate) type Units = BTreeMap<UnitKey, Arc<Unit>>;

impl Unit {
    /// Returns the value of the unit, if it has this type.
    pub(crate) fn value<T: Clone + 'static>(&self) -> Option<T> {
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
pub(crate) struct UnitLoad {
    /// Taken as they are, unread.
    pub(crate) known: Units,
    /// The units in service that are read again now. In a load of material, the last good part of a
    /// unit replaces a part that cannot be used.
    pub(crate) before: Units,
    /// Whether the last good part of a unit replaces a part that cannot be used. False in a load of
    /// the configuration, which is accepted as a whole or refused.
    pub(crate) keep_last_good: bool,
    /// Reads only revocation lists and keeps roots and intermediates, because these may prevent the
    /// unit from loading as a whole.
    pub(crate) crls_only: bool,
    /// Trust domains whose files could not be read for too long, since when in seconds
    /// since the Unix epoch.
    pub(crate) suspended: BTreeMap<TrustDomain, i64>,
    /// Everything that was used.
    pub(crate) used: Units,
}
