//! `BufferedBody`: a body that is read whole before its request is forwarded, on routes
//! whose assertions bind it.
//!
//! The size of one body is limited, and that of all of them together.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt as _;

use crate::crypto;
use crate::proxy::wire::buffer_budget::{BufferBudget, BufferReservation};
use crate::proxy::wire::refusal::Refusal;
use crate::reason::ReasonCode;

/// A whole body. Clones share its memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct BufferedBody {
    pub(super) data: Bytes,
    pub(super) trailers: Option<HeaderMap>,
    _reservation: Option<Arc<BufferReservation>>,
}

/// How much may be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BufferLimits {
    /// The length that the request declares.
    pub(crate) declared_length: Option<u64>,
    /// Most bytes of this body.
    pub(crate) max_bytes: u64,
    /// Most bytes of all bodies together.
    pub(crate) max_total: u64,
}

impl BufferedBody {
    /// Reads a body to its end.
    pub(crate) async fn read<B>(
        body: B,
        limits: BufferLimits,
        budget: &Arc<BufferBudget>,
    ) -> Result<Self, Refusal>
    where
        B: Body<Data = Bytes>,
        Refusal: From<B::Error>,
    {
        let max_bytes = limits.max_bytes;
        let too_large = || {
            Refusal::new(
                ReasonCode::TooLarge,
                format!("this route reads bodies of at most {max_bytes} bytes"),
            )
        };
        if limits
            .declared_length
            .is_some_and(|length| length > max_bytes)
        {
            return Err(too_large());
        }
        let mut reservation = BufferReservation::new(Arc::clone(budget));
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        let mut trailers = None;
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            match frame.into_data() {
                Ok(data) => {
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    if reservation.bytes().saturating_add(length) > max_bytes {
                        return Err(too_large());
                    }
                    reservation.grow(length, limits.max_total)?;
                    // Most bodies come in one frame, which is kept without a copy.
                    if first.is_empty() {
                        first = data;
                    } else {
                        if rest.is_empty() {
                            rest.extend_from_slice(&first);
                        }
                        rest.extend_from_slice(&data);
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(Self {
            data: if rest.is_empty() {
                first
            } else {
                rest.freeze()
            },
            trailers,
            _reservation: Some(Arc::new(reservation)),
        })
    }

    /// SHA-256 of the content.
    pub(crate) fn hash(&self) -> [u8; 32] {
        crypto::sha256(&self.data)
    }
}
