//! Checks whether a connection may carry another request.

use http::StatusCode;

use crate::connection::Connection;
use crate::reason::ReasonCode;
use crate::snapshot::Snapshot;
use crate::wire::head::FramingError;
use crate::wire::refusal::Refusal;

/// Checks that the connection is not ending, and that its identity is valid under `snapshot`. After
/// `Ok`, the connection's `ConnectionProof` is verified under `snapshot`.
pub(crate) fn check(
    connection: &Connection,
    snapshot: &Snapshot,
    framing_error: Option<FramingError>,
) -> Result<(), Refusal> {
    match (framing_error, connection.cut_reason()) {
        // The connection was cut, but is not closed yet. In HTTP/2 the caller may still open
        // streams on it in this time.
        (_, Some(denial)) => Err(denial.clone().into()),
        (Some(error), None) => Err(framing_refusal(error)),
        (None, None) if connection.is_stopping() => Err(Refusal::new(
            ReasonCode::ShuttingDown,
            "the gateway takes no more requests; repeat it on a new connection",
        )),
        (None, None) => Ok(connection.ensure_verified(snapshot)?),
    }
}

fn framing_refusal(error: FramingError) -> Refusal {
    let mut refusal = Refusal::new(error.reason, error.detail);
    if error.reason == ReasonCode::TooLarge {
        refusal.status = Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    refusal
}
