//! Transactions that go on: a service that calls another one in the course of a
//! request passes on the assertion it received, and the new one keeps its `txn`.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::clock;
use crate::policy::Permit;
use crate::snapshot::Snapshot;

/// The assertion that a caller presents, before it is stripped; none when there
/// is not exactly one.
pub(crate) fn presented(headers: &HeaderMap, assertion: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(assertion).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.clone()),
        _ => None,
    }
}

/// The transaction of an assertion that this gateway made for the very caller who
/// presents it. It authenticates nothing: whatever is wrong with it, the request
/// goes on as a new transaction.
pub(crate) fn transaction(
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
