//! The body of a request: checks its declared length, and streams or buffers it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::RequestContext;
use crate::connection::buffered_body::{BufferLimits, BufferedBody, RATE_PERIOD};
use crate::connection::request_body::RequestBody;
use crate::connection::unread_body::CallerBody;
use crate::identity::ShareKey;
use crate::reason::ReasonCode;
use crate::route::Route;
use crate::upstream::find_source;
use crate::wire::buffer_budget::BudgetLimits;
use crate::wire::head::content_length;
use crate::wire::headers::RequestTrailers;
use crate::wire::refusal::Refusal;

/// Reads `Content-Length`, and refuses a length above `max_bytes`.
///
/// Removes leading zeros from the length, because some services read a number with a leading zero
/// as octal.
pub(crate) fn declared_length(
    headers: &mut HeaderMap,
    max_bytes: Option<u64>,
) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get_mut(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = content_length(value.as_bytes()).ok_or_else(|| {
        Refusal::new(
            ReasonCode::MalformedRequest,
            "Content-Length is not a plain number",
        )
    })?;
    if value.len() > 1 && value.as_bytes().starts_with(b"0") {
        *value = length.into();
    }
    match max_bytes {
        Some(max) if length > max => Err(Refusal::new(
            ReasonCode::TooLarge,
            format!("the body has {length} bytes, at most {max} are accepted"),
        )),
        _ => Ok(Some(length)),
    }
}

/// If `Content-Length` is 0, waits for the end of the body. Over HTTP/2 the end may arrive in a
/// DATA frame after the head. Without this wait, the gateway would forward the request as a request
/// with a body.
pub(crate) async fn await_declared_end(
    context: RequestContext<'_>,
    mut incoming: CallerBody,
    declared_length: Option<u64>,
) -> Result<CallerBody, Refusal> {
    if declared_length != Some(0) || incoming.is_end_stream() {
        return Ok(incoming);
    }
    let not_empty = || {
        let detail = "Content-Length is 0, but the body is not empty";
        Refusal::new(ReasonCode::MalformedRequest, detail)
    };
    // Boxed, so that requests without this wait need no space for this future.
    let ended = Box::pin(async {
        loop {
            match incoming.frame().await {
                None => return Ok(()),
                Some(Ok(frame)) if frame.data_ref().is_none_or(Bytes::is_empty) => {}
                Some(Ok(_)) => return Err(not_empty()),
                // If the length of the body differs from `Content-Length`, h2 resets the stream.
                Some(Err(error)) if is_protocol_error(&error) => return Err(not_empty()),
                Some(Err(error)) => return Err(RequestBody::read_error(&error).into()),
            }
        }
    });
    match tokio::time::timeout(context.snapshot.limits.body_timeout, ended).await {
        Ok(Ok(())) => Ok(incoming),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::new(
            ReasonCode::Timeout,
            "the caller's body did not end in time",
        )),
    }
}

/// Returns whether h2 reset the stream because the caller violated the HTTP/2 protocol.
fn is_protocol_error(error: &hyper::Error) -> bool {
    find_source::<h2::Error>(error).is_some_and(|error| {
        error.reason() == Some(h2::Reason::PROTOCOL_ERROR) && !error.is_remote()
    })
}

/// Makes a body that is streamed to the service. If `may_stall` is true, the caller may pause
/// without limit.
pub(crate) fn streamed(
    context: RequestContext<'_>,
    route: &Route,
    incoming: CallerBody,
    may_stall: bool,
) -> RequestBody {
    let snapshot = context.snapshot;
    RequestBody::new(
        incoming,
        (!may_stall).then_some(snapshot.limits.body_timeout),
        snapshot.limits.body_bytes,
        RequestTrailers::new(
            snapshot.private_fields(),
            Arc::clone(&route.upstream.config().header_rules),
        ),
        context.connection.guard().clone(),
    )
}

/// Buffers a body of at most `max_bytes` and returns the body's SHA-256 hash. `max_bytes` is `None`
/// if the route does not bind assertions to the body. In this case, returns the unchanged body and
/// no hash.
pub(crate) async fn bound(
    context: RequestContext<'_>,
    max_bytes: Option<u64>,
    streamed: RequestBody,
    declared_length: Option<u64>,
    caller: ShareKey,
) -> Result<(RequestBody, Option<[u8; 32]>), Refusal> {
    let Some(max_bytes) = max_bytes else {
        return Ok((streamed, None));
    };
    // Boxed, so that requests without a buffered body need no space for this future.
    let (body, hash) = Box::pin(buffered(
        context,
        streamed,
        max_bytes,
        declared_length,
        caller,
    ))
    .await?;
    Ok((body, Some(hash)))
}

/// Reads a body of at most `max_bytes` into memory. The buffer budget counts the bytes of the body
/// under the key `caller`.
async fn buffered(
    context: RequestContext<'_>,
    streamed: RequestBody,
    max_bytes: u64,
    declared_length: Option<u64>,
    caller: ShareKey,
) -> Result<(RequestBody, [u8; 32]), Refusal> {
    let snapshot = context.snapshot;
    let limits = BufferLimits {
        declared_length,
        max_bytes,
        budget: BudgetLimits {
            max_total: snapshot.limits.held_bytes,
            share: snapshot.limits.caller.buffered_bodies,
        },
        rate_period: RATE_PERIOD,
    };
    let budget = &context.connection.worker().shared().buffer_budget;
    let trailers = streamed.trailers().clone();
    let body = BufferedBody::read(streamed, limits, budget, caller).await?;
    let hash = body.hash();
    let guard = context.connection.guard().clone();
    let body = RequestBody::buffered(body, trailers, guard);
    Ok((body, hash))
}
