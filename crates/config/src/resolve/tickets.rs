//! `[tls.tickets]`: how callers resume TLS sessions without a full handshake.

use std::time::Duration;

use super::bounds::set_time_within;
use super::context::Context;
use super::pem;
use crate::document::raw::Tickets;
use crate::document::value::{At, Field};
use crate::material::units::UnitKey;
use crate::secret::Secret;
use crate::tls::tickets::MIN_SECRET;
use crate::tls::{TicketPolicy, TicketSource};

/// The maximum age of a ticket is seven days (RFC 8446 section 4.6.1).
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
const MIN_AGE: Duration = Duration::from_secs(1);

/// Returns the source of ticket keys, with the settings of `[tls.tickets]`.
pub(super) fn tickets(section: Option<&Tickets>, context: &mut Context<'_>) -> TicketSource {
    let mut policy = TicketPolicy::default();
    let Some(section) = section else {
        return context.tickets.with(policy, None);
    };
    policy.enabled = section.enabled.or(true);
    // A key encrypts new tickets for the time `rotation`, and decrypts tickets for twice that time.
    // So `rotation` may be at most half of [`MAX_AGE`].
    set_time_within(
        &section.rotation,
        MIN_AGE..=MAX_AGE / 2,
        &mut policy.rotation,
        context,
    );
    set_time_within(
        &section.max_age,
        MIN_AGE..=MAX_AGE,
        &mut policy.max_age,
        context,
    );
    let secret = match &section.secret_file {
        Field::Good(file) => secret(file, context),
        _ => None,
    };
    context.tickets.with(policy, secret)
}

fn secret(written: &At<String>, context: &mut Context<'_>) -> Option<Secret> {
    let path = context.files.locate(&written.value);
    let unit = UnitKey::new("secret_file of [tls.tickets]");
    let content = context.unit(unit, |context| {
        let files = &mut context.files;
        files.read_private(written, &path, context.diagnostics)
    })?;
    if content.expose().len() < MIN_SECRET {
        let error = pem::about(
            written,
            &path,
            &format!("has fewer than {MIN_SECRET} octets"),
        );
        context.error(error.help(format!(
            "make a secret and give it to every replica: openssl rand -out {} 48",
            path.display()
        )));
        return None;
    }
    Some(content)
}
