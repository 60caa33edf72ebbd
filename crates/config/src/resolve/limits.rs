//! `[limits]` and `[runtime]`: the limits of the gateway. Each limit must be within a fixed range.

use std::time::Duration;

use super::bounds::{DAY, HEADER_SIZE, header_fields, set_time, set_time_within, size};
use super::context::Context;
use crate::diagnostics::Diagnostic;
use crate::document::raw::{AddressLimitsSection, CallerLimitsSection, LimitsSection, Runtime};
use crate::snapshot::{AddressLimits, CallerLimits, Limits};

/// Reads the limits of `[limits]`. A limit that is not configured has its default.
pub(super) fn limits(section: Option<&LimitsSection>, context: &mut Context<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(section) = section else {
        return limits;
    };
    for (field, target) in [
        (&section.handshake_timeout, &mut limits.handshake_timeout),
        (&section.header_timeout, &mut limits.header_timeout),
        (&section.body_timeout, &mut limits.body_timeout),
    ] {
        set_time(field, target, context);
    }
    set_time_within(
        &section.drain_timeout,
        Duration::ZERO..=DAY,
        &mut limits.drain_timeout,
        context,
    );
    if let Some(connections) = section.connections.value() {
        limits.connections = usize::try_from(*connections).unwrap_or(usize::MAX);
    }
    if let Some(streams) = section.streams.value() {
        limits.streams = *streams;
    }
    if let Some(size) = size(&section.header_size, HEADER_SIZE, context) {
        limits.header_bytes = usize::try_from(size).unwrap_or(limits.header_bytes);
    }
    if let Some(fields) = header_fields(&section.header_fields, context) {
        limits.header_fields = fields;
    }
    if let Some(size) = size(&section.held_bodies, 1..=u64::MAX, context) {
        limits.held_bytes = size;
    }
    if let Some(size) = size(&section.body_size, 1..=u64::MAX, context) {
        limits.body_bytes = Some(size);
    }
    if let Some(caller) = section.caller.value() {
        set_caller(caller, &mut limits.caller);
    }
    if let Some(address) = section.address.value() {
        set_address(address, &mut limits.address, context);
    }
    limits
}

/// Sets the limits of `[limits.caller]` that are configured.
fn set_caller(section: &CallerLimitsSection, limits: &mut CallerLimits) {
    limits.connections = section.connections.or(limits.connections);
    limits.requests_in_flight = section.requests_in_flight.or(limits.requests_in_flight);
    if let Some(tunnels) = section.tunnels.value() {
        limits.tunnels = usize::try_from(*tunnels).unwrap_or(usize::MAX);
    }
    if let Some(share) = section.buffered_bodies.value() {
        limits.buffered_bodies = share.0;
    }
}

fn set_address(
    section: &AddressLimitsSection,
    limits: &mut AddressLimits,
    context: &mut Context<'_>,
) {
    if let Some(said) = section.handshakes_in_progress.at() {
        if said.value == 0 {
            context.error(
                Diagnostic::new(said.place.clone(), "this must be at least 1")
                    .help("an address that should not connect at all belongs into a firewall"),
            );
        }
        limits.handshakes_in_progress = usize::try_from(said.value).unwrap_or(usize::MAX);
    }
    limits.trusted_networks = section.trusted_networks.values();
}

/// Returns the configured number of worker threads, if there is one.
pub(super) fn workers(section: Option<&Runtime>, context: &mut Context<'_>) -> Option<usize> {
    let workers = section?.workers.at()?;
    if workers.value > 1024 {
        context.error(
            Diagnostic::new(workers.place.clone(), "more than 1024 workers")
                .help("one per core is right; leave the key out for that"),
        );
    }
    usize::try_from(workers.value).ok()
}
