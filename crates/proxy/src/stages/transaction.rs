//! Transactions that consist of several requests. While a service handles a request, the service
//! may call another service through the gateway. The calling service then sends the assertion that
//! the gateway added to the first request. The gateway copies the `txn` claim of this assertion
//! into the assertion for the second request.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::clock;
use crate::policy::Permit;
use crate::snapshot::Snapshot;

/// Returns the value of the caller's header field `assertion`. Returns `None` if the request has no
/// such field, or more than one. Must be called before `strip_request` removes the field.
pub(crate) fn presented(headers: &HeaderMap, assertion: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(assertion).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.clone()),
        _ => None,
    }
}

/// Returns the `txn` claim of a presented assertion. Returns `None` if this gateway did not issue
/// the assertion, or if the assertion was issued for a service other than the current caller.
///
/// This assertion does not authenticate the caller. If the assertion is not acceptable, the request
/// is still accepted and begins a new transaction.
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
