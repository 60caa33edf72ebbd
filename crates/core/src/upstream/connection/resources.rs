//! `HeldResources`: the slot and the file descriptor that a connection holds until it is closed.

use super::error::ConnectError;
use crate::upstream::limits::connection_limit::Slot;
use crate::upstream::limits::descriptors::{self, Descriptor};

/// The slot and the file descriptor of one connection.
pub(in crate::upstream) struct HeldResources {
    _slot: Option<Slot>,
    _descriptor: Descriptor,
}

impl HeldResources {
    pub(super) async fn with(slot: Option<Slot>) -> Result<Self, ConnectError> {
        Ok(Self {
            _slot: slot,
            _descriptor: descriptors::take()
                .await
                .ok_or(ConnectError::NoDescriptor)?,
        })
    }
}
