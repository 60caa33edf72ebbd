//! `[limits]` and `[runtime]`: bounds on everything, each within bounds itself.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Context;
use crate::config::diagnostics::Diagnostic;
use crate::config::quantity::{ByteSize, TimeSpan};
use crate::config::raw::{AddressLimitsSection, CallerLimitsSection, LimitsSection, Runtime};
use crate::config::value::Field;
use crate::snapshot::{AddressLimits, CallerLimits, Limits};

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1024;

/// Every bound, the default where nothing is said.
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
    // hyper reads heads into a buffer of at least 8 KiB.
    if let Some(size) = size(&section.header_size, 8 * KIB..=KIB * KIB, context) {
        limits.header_bytes = usize::try_from(size).unwrap_or(limits.header_bytes);
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

/// Takes over what is said of one caller.
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

/// The number of workers, where it is said.
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

/// Takes over a duration between a millisecond and a day.
pub(super) fn set_time(field: &Field<TimeSpan>, target: &mut Duration, context: &mut Context<'_>) {
    set_time_within(field, MILLISECOND..=DAY, target, context);
}

/// Takes over a duration within bounds.
pub(super) fn set_time_within(
    field: &Field<TimeSpan>,
    bounds: RangeInclusive<Duration>,
    target: &mut Duration,
    context: &mut Context<'_>,
) {
    let Some(said) = field.at() else { return };
    if bounds.contains(&said.value.get()) {
        *target = said.value.get();
        return;
    }
    let show = |bound: &Duration| TimeSpan::from_duration(*bound);
    context.error(
        Diagnostic::new(
            said.place.clone(),
            format!("{} is out of bounds", said.value),
        )
        .help(format!(
            "write a duration between {} and {}",
            show(bounds.start()),
            show(bounds.end())
        )),
    );
}

/// A size within bounds, where one is said.
pub(super) fn size(
    field: &Field<ByteSize>,
    bounds: RangeInclusive<u64>,
    context: &mut Context<'_>,
) -> Option<u64> {
    let said = field.at()?;
    let bytes = said.value.bytes();
    if bounds.contains(&bytes) {
        return Some(bytes);
    }
    let help = if *bounds.end() == u64::MAX {
        format!("write at least {}", ByteSize::from_bytes(*bounds.start()))
    } else {
        format!(
            "write a size between {} and {}",
            ByteSize::from_bytes(*bounds.start()),
            ByteSize::from_bytes(*bounds.end())
        )
    };
    context.error(
        Diagnostic::new(
            said.place.clone(),
            format!("{} is out of bounds", said.value),
        )
        .help(help),
    );
    None
}
