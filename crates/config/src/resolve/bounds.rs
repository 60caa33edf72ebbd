//! Reads durations and sizes, and checks that they are between a minimum and a maximum.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::context::Context;
use crate::diagnostics::Diagnostic;
use crate::document::quantity::{ByteSize, TimeSpan};
use crate::document::value::Field;

const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Sets `target` to the configured duration, if there is one. Reports an error if the duration is
/// not between a millisecond and a day.
pub(super) fn set_time(field: &Field<TimeSpan>, target: &mut Duration, context: &mut Context<'_>) {
    set_time_within(field, MILLISECOND..=DAY, target, context);
}

/// Sets `target` to the configured duration, if there is one. Reports an error if the duration is
/// not within `bounds`.
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

/// The bounds in bytes of the size of a message head. The minimum is 8 KiB, because hyper's buffer
/// for a message head has at least this size.
pub(super) const HEADER_SIZE: RangeInclusive<u64> = 8 * 1024..=1024 * 1024;
/// The bounds of the number of header fields in a message head.
const HEADER_FIELDS: RangeInclusive<u32> = 16..=1000;

/// Returns the configured number of header fields, if there is one. If the number is not within
/// `HEADER_FIELDS`, reports an error and returns `None`.
pub(super) fn header_fields(field: &Field<u32>, context: &mut Context<'_>) -> Option<usize> {
    let said = field.at()?;
    if HEADER_FIELDS.contains(&said.value) {
        return usize::try_from(said.value).ok();
    }
    let (min, max) = (HEADER_FIELDS.start(), HEADER_FIELDS.end());
    context.error(
        Diagnostic::new(
            said.place.clone(),
            format!("{} is out of bounds", said.value),
        )
        .help(format!("write a number between {min} and {max}")),
    );
    None
}

/// Returns the configured size in bytes, if there is one. If the size is not within `bounds`,
/// reports an error and returns `None`.
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
