//! `BufferedBody`: a body that is read completely before its request is forwarded. Used on routes
//! whose assertions contain a hash of the body.
//!
//! The size of each body is limited, and so is the total size of all bodies. Memory is counted when
//! it is allocated. A body is stored in pieces, so that stored data is not copied again when more
//! data arrives.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::crypto;
use crate::identity::ShareKey;
use crate::reason::ReasonCode;
use crate::wire::buffer_budget::{BudgetLimits, BufferBudget, BufferReservation};
use crate::wire::refusal::Refusal;

/// Size of the first piece of a body in bytes. Each further piece is as large as all earlier pieces
/// together, up to [`MAX_PIECE`].
const MIN_PIECE: u64 = 4 * 1024;
/// Maximum size of a piece in bytes.
const MAX_PIECE: u64 = 64 * 1024;

/// The value of [`BufferLimits::rate_period`] in production. Tests use a shorter period.
pub(crate) const RATE_PERIOD: Duration = Duration::from_secs(10);
/// Minimum number of bytes that must arrive in each rate period, except in the period in which the
/// body ends.
const RATE_BYTES: u64 = 10 * 1024;

/// A body that was read to its end. Clones share the same memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct BufferedBody {
    /// The content in order. No piece is empty.
    pub(super) pieces: VecDeque<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    _reservation: Option<Arc<BufferReservation>>,
}

/// The limits that apply while a body is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BufferLimits {
    /// The Content-Length of the request. `None` if the request has none.
    pub(crate) declared_length: Option<u64>,
    /// Maximum size of this body in bytes.
    pub(crate) max_bytes: u64,
    /// The limits for all buffered bodies together.
    pub(crate) budget: BudgetLimits,
    /// Length of a rate period. The read fails if fewer than `RATE_BYTES` arrive in a period.
    pub(crate) rate_period: Duration,
}

impl BufferedBody {
    /// Reads a body to its end. `caller` is the key under which the memory of the body is counted.
    pub(crate) async fn read<B>(
        body: B,
        limits: BufferLimits,
        budget: &Arc<BufferBudget>,
        caller: ShareKey,
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
        let mut reservation = BufferReservation::new(budget, caller);
        let mut pieces = Pieces::new(limits);
        let mut trailers = None;
        let mut rate = RateCheck::new(limits.rate_period);
        let mut body = pin!(body);
        while let Some(frame) = next_frame(body.as_mut(), &mut rate, &reservation).await? {
            match frame.into_data() {
                Ok(data) => {
                    if pieces.length.saturating_add(to_u64(data.len())) > max_bytes {
                        return Err(too_large());
                    }
                    if pieces.length == 0 && body.is_end_stream() {
                        // A body in a single frame is stored without a copy.
                        reservation.grow(to_u64(data.len()), limits.budget)?;
                        pieces.whole(data);
                    } else {
                        pieces.append(&data, &mut reservation)?;
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        reservation.complete()?;
        Ok(Self {
            pieces: pieces.finish(),
            trailers,
            _reservation: Some(Arc::new(reservation)),
        })
    }

    /// Returns the SHA-256 hash of the content.
    pub(crate) fn hash(&self) -> [u8; 32] {
        crypto::sha256_of_parts(self.pieces.iter().map(|piece| &**piece))
    }

    /// Returns the length of the content in bytes.
    pub(super) fn length(&self) -> u64 {
        self.pieces.iter().map(|piece| to_u64(piece.len())).sum()
    }
}

/// Returns the next frame of a body. Fails if the body arrives too slowly, or if the budget took
/// back this body's memory for another body.
async fn next_frame<B>(
    mut body: Pin<&mut B>,
    rate: &mut RateCheck,
    reservation: &BufferReservation,
) -> Result<Option<Frame<Bytes>>, Refusal>
where
    B: Body<Data = Bytes>,
    Refusal: From<B::Error>,
{
    loop {
        let period_end = rate.period_end;
        let next = tokio::select! {
            biased;
            refusal = reservation.ended() => return Err(refusal),
            next = tokio::time::timeout_at(period_end, body.frame()) => next,
        };
        match next {
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => {
                let frame = frame?;
                rate.bytes += frame.data_ref().map_or(0, |data| to_u64(data.len()));
                return Ok(Some(frame));
            }
            Err(_) => rate.end_period()?,
        }
    }
}

/// Checks that a body arrives at the minimum rate.
struct RateCheck {
    period: Duration,
    period_end: Instant,
    /// Number of bytes that arrived in the current period.
    bytes: u64,
}

impl RateCheck {
    fn new(period: Duration) -> Self {
        Self {
            period,
            period_end: Instant::now() + period,
            bytes: 0,
        }
    }

    fn end_period(&mut self) -> Result<(), Refusal> {
        let Self { period, bytes, .. } = *self;
        if bytes < RATE_BYTES {
            return Err(Refusal::new(
                ReasonCode::BodyTooSlow,
                format!(
                    "{bytes} bytes of the body arrived in {period:?}, at least {RATE_BYTES} are expected"
                ),
            ));
        }
        *self = Self::new(period);
        Ok(())
    }
}

/// The part of a body that was read until now.
struct Pieces {
    /// The pieces that are full.
    full: VecDeque<Bytes>,
    /// The piece that receives the next bytes. Its capacity is already counted in the reservation.
    last: Vec<u8>,
    length: u64,
    limits: BufferLimits,
}

impl Pieces {
    const fn new(limits: BufferLimits) -> Self {
        Self {
            full: VecDeque::new(),
            last: Vec::new(),
            length: 0,
            limits,
        }
    }

    fn whole(&mut self, data: Bytes) {
        self.length = to_u64(data.len());
        if !data.is_empty() {
            self.full.push_back(data);
        }
    }

    fn append(
        &mut self,
        mut data: &[u8],
        reservation: &mut BufferReservation,
    ) -> Result<(), Refusal> {
        while !data.is_empty() {
            if self.last.len() == self.last.capacity() {
                let size = self.next_size(to_u64(data.len()));
                reservation.grow(size, self.limits.budget)?;
                let next = Vec::with_capacity(usize::try_from(size).unwrap_or(data.len()));
                let full = std::mem::replace(&mut self.last, next);
                if !full.is_empty() {
                    self.full.push_back(full.into());
                }
            }
            let room = self.last.capacity() - self.last.len();
            let (now, later) = data.split_at(room.min(data.len()));
            self.last.extend_from_slice(now);
            self.length += to_u64(now.len());
            data = later;
        }
        Ok(())
    }

    /// Returns the size of the next piece in bytes. `needed` is the number of received bytes that
    /// must be stored next. The piece is as large as all earlier pieces together, or as `needed` if
    /// `needed` is larger, between [`MIN_PIECE`] and [`MAX_PIECE`]. It is smaller if fewer bytes of
    /// the declared length remain. If there is no declared length, `max_bytes` is used instead.
    fn next_size(&self, needed: u64) -> u64 {
        let size = self.length.max(needed).clamp(MIN_PIECE, MAX_PIECE);
        let end = self.limits.declared_length.unwrap_or(self.limits.max_bytes);
        let left = end.saturating_sub(self.length);
        size.min(left).max(needed.min(MIN_PIECE))
    }

    fn finish(mut self) -> VecDeque<Bytes> {
        if !self.last.is_empty() {
            self.full.push_back(self.last.into());
        }
        self.full
    }
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "buffered_body_tests.rs"]
mod tests;
