//! How strictly revocation is checked, and for which certificates.

/// How an unknown or stale revocation status is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationPosture {
    /// Refuse.
    Hard,
    /// Allow, and say so.
    Soft,
    /// Revocation is not checked.
    Off,
}

/// The certificates of a path whose revocation status is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationDepth {
    /// The leaf and every intermediate.
    Chain,
    /// The leaf alone.
    Leaf,
}
