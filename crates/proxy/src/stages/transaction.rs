//! Transactions that span requests: a service that calls another one in the course of a
//! request passes on the assertion it received, and the new assertion keeps its `txn`.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::clock;
use crate::policy::Permit;
use crate::snapshot::Snapshot;

/// Returns the assertion that a caller presents; none unless there is exactly one. Must be
/// called before the header is stripped.
pub(crate) fn presented(headers: &HeaderMap, assertion: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(assertion).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.clone()),
        _ => None,
    }
}

/// Returns the transaction of a presented assertion, if this gateway made the assertion
/// for the service that is now the caller.
///
/// The assertion authenticates nothing here. If it is not acceptable, the request is not
/// refused but begins a new transaction.
pub(crate) fn continued(
    snapshot: &Snapshot,
    permit: &Permit,
    presented: &HeaderValue,
) -> Option<String> {
    let caller = permit.principal()?.caller();
    let ours = snapshot
        .signer
        .verify_own(presented.to_str().ok()?, clock::unix_now())?;
    let is_for_caller = snapshot
        .routes
        .upstreams_of(&ours.aud)
        .filter_map(|upstream| upstream.config().identity.as_ref())
        .any(|identity| identity.names_one() && identity.matches(caller));
    is_for_caller.then_some(ours.txn).flatten()
}
