//! `RevocationPosture`: how strictly revocation is checked. `RevocationDepth`: which certificates
//! are checked.

/// How a path is treated if its revocation status is unknown or its revocation lists are stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationPosture {
    /// The certificate path is refused.
    Hard,
    /// The certificate path is accepted, and assertions and audit lines contain `soft`.
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
