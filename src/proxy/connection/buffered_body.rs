//! Bodies that are read whole before their request is forwarded, on routes whose
//! assertions bind them.
//!
//! Both one body and all of them together are bounded.

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

/// A whole body. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BufferedBody {
    pub(super) data: Bytes,
    pub(super) trailers: Option<HeaderMap>,
    _room: Option<Arc<BufferReservation>>,
}

impl BufferedBody {
    /// SHA-256 of its octets.
    pub(crate) fn hash(&self) -> [u8; 32] {
        crypto::sha256(&self.data)
    }
}

/// Reads a body of at most `most` bytes to its end; `most_held` bounds what all
/// requests hold together.
pub(crate) async fn read<B>(
    body: B,
    (most, declared): (u64, Option<u64>),
    (held, most_held): (&Arc<BufferBudget>, u64),
) -> Result<BufferedBody, Refusal>
where
    B: Body<Data = Bytes>,
    Refusal: From<B::Error>,
{
    let too_large = || {
        Refusal::new(
            ReasonCode::TooLarge,
            format!("this route reads bodies of at most {most} bytes"),
        )
    };
    if declared.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let mut room = BufferReservation::new(Arc::clone(held));
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut trailers = None;
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        match frame.into_data() {
            Ok(data) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                if room.bytes().saturating_add(length) > most {
                    return Err(too_large());
                }
                room.grow(length, most_held)?;
                // Most bodies come in one piece, which is kept as it is.
                if first.is_empty() {
                    first = data;
                } else {
                    if more.is_empty() {
                        more.extend_from_slice(&first);
                    }
                    more.extend_from_slice(&data);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(BufferedBody {
        data: if more.is_empty() {
            first
        } else {
            more.freeze()
        },
        trailers,
        _room: Some(Arc::new(room)),
    })
}
