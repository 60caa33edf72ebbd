//! `Signatory`: identifies an authority by its name and its generation.

use serde::{Deserialize, Serialize};

/// Which of the two authorities of a generation is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityName {
    /// The root. It signs the intermediate, or leaves if there is no intermediate.
    Root,
    /// The intermediate, which signs leaves. It does not exist if the root signs leaves.
    Intermediate,
}

impl AuthorityName {
    /// Both names, the root first.
    pub const ALL: [Self; 2] = [Self::Root, Self::Intermediate];

    /// Returns the word that stands for the authority in file names and options.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        }
    }
}

/// The number of a generation. A generation is a root with its intermediate, and each rotation
/// makes a new one. The first has the number 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(u32);

impl Generation {
    /// The generation that `pki init` makes.
    pub const FIRST: Self = Self(1);

    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the generation before `self`. The first generation returns itself.
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

/// An authority of this directory: the root or the intermediate of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signatory {
    /// Whether the authority is the root or the intermediate.
    pub name: AuthorityName,
    /// The generation of the authority.
    pub generation: Generation,
}
