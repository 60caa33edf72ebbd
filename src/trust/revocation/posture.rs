//! How strictly revocation is checked, and for which certificates.

/// What an unknown or stale revocation status means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationPosture {
    /// Refuse.
    Hard,
    /// Allow, and say so.
    Soft,
    /// Revocation is not checked.
    Off,
}

/// Which certificates of a path are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationDepth {
    /// The leaf and every intermediate.
    Chain,
    /// The leaf alone.
    Leaf,
}
