//! `Signatory`: which of an authority's certificates signs.

use serde::{Deserialize, Serialize};

/// One of the two authorities of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityName {
    /// Signs the intermediate.
    Root,
    /// Signs leaves.
    Intermediate,
}

impl AuthorityName {
    /// Both authorities.
    pub const ALL: [Self; 2] = [Self::Root, Self::Intermediate];

    /// Returns the word in file names and options.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        }
    }
}

/// An authority's place in the order of rotations; the first one is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(u32);

impl Generation {
    /// The generation that `pki init` made.
    pub const FIRST: Self = Self(1);

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the generation before this one. The first generation returns itself.
    pub(crate) const fn previous(self) -> Self {
        match self.0 {
            0 | 1 => Self::FIRST,
            number => Self(number - 1),
        }
    }

    /// Returns the number of the generation.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(crate) const fn is_first(&self) -> bool {
        self.0 == Self::FIRST.0
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self::FIRST
    }
}

/// An authority that can sign, identified by its name and its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signatory {
    /// Root or intermediate.
    pub name: AuthorityName,
    /// The generation of the authority.
    pub generation: Generation,
}
