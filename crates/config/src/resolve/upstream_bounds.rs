//! The limits of an `[[upstream]]`: timeouts, maximum numbers and retries.

use std::time::Duration;

use super::bounds;
use super::context::Context;
use crate::diagnostics::Diagnostic;
use crate::document::raw::UpstreamSection;
use crate::upstream::UpstreamConfig;

/// Sets every limit in `config` that the section configures.
pub(super) fn set(
    section: &UpstreamSection,
    config: &mut UpstreamConfig,
    context: &mut Context<'_>,
) {
    for (field, time) in [
        (&section.connect_timeout, &mut config.connect_timeout),
        (&section.first_byte_timeout, &mut config.first_byte_timeout),
        (&section.idle_timeout, &mut config.idle_timeout),
        (&section.dns_refresh, &mut config.dns_refresh),
        (
            &section.tunnel_idle_timeout,
            &mut config.tunnel_idle_timeout,
        ),
    ] {
        bounds::set_time(field, time, context);
    }
    for (field, time) in [
        (&section.total_timeout, &mut config.total_timeout),
        (&section.stall_timeout, &mut config.stall_timeout),
    ] {
        if !field.is_absent() {
            bounds::set_time(field, time.insert(Duration::ZERO), context);
        }
    }
    for (field, max) in [
        (&section.max_connections, &mut config.max_connections),
        (&section.max_pending, &mut config.max_pending),
        (&section.max_requests, &mut config.max_requests),
    ] {
        if let Some(said) = field.value() {
            *max = usize::try_from(*said).unwrap_or(usize::MAX);
        }
    }
    let limits = &mut config.response_limits;
    if let Some(size) = bounds::size(&section.response_header_size, bounds::HEADER_SIZE, context) {
        limits.header_bytes = u32::try_from(size).unwrap_or(limits.header_bytes);
    }
    if let Some(fields) = bounds::header_fields(&section.response_header_fields, context) {
        limits.header_fields = fields;
    }
    config.health_check = section.health_check.value().cloned();
    if let Some(retries) = section.retries.value() {
        config.retries = retries.0;
    }
    if let Some(budget) = section.retry_budget.at() {
        config.retry_budget = budget.value;
        if budget.value > 100 {
            context.error(
                Diagnostic::new(budget.place.clone(), "this is more than every request")
                    .help("write a percentage from 1 to 100, or retries = 0 for none"),
            );
        }
    }
}
