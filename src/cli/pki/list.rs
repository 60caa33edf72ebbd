//! `countersign pki list`: lists issued certificates.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::json;

use super::times::now;
use crate::cli::common::format::moment;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::clock;
use crate::identity::text::printable;
use crate::pki::{Entry, Filter, Lifetime, Pki, Status};

const EXAMPLES: &str = "\
Examples:
  countersign pki list --dir certs
  countersign pki list --dir certs --expiring 7d
  countersign pki list --dir certs --identity /ns/shop/sa/checkout
  countersign pki list --dir certs --revoked --json
  countersign pki list --dir certs --limit 100 --after 4200

--expiring lists what is valid now and ends within the time; revoked certificates and those
that have ended already are left out. It ends with exit code 3 when there are such ones.";

/// Default maximum number of entries in a listing as text.
const PAGE: u32 = 1_000;

/// Arguments of `countersign pki list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ListArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Show only certificates that expire within TIME, such as 7d.
    #[arg(long, value_name = "TIME", conflicts_with = "revoked")]
    expiring: Option<Lifetime>,
    /// Show only certificates with this name: a SPIFFE ID or its path, a host name, mailto:ADDRESS,
    /// ip:ADDRESS or another URI.
    #[arg(long, value_name = "ID")]
    identity: Option<String>,
    /// Show only revoked certificates.
    #[arg(long)]
    revoked: bool,
    /// Show at most N certificates [default: 1000 as text, all with --json].
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Continue after the certificate with this number, the `id` of its entry.
    #[arg(long, value_name = "NUMBER")]
    after: Option<i64>,
}

pub(super) fn run(args: &ListArgs, output: Output) -> Result<Exit, CliError> {
    let pki = Pki::open(&args.dir)?;
    let now = now();
    let filter = Filter {
        name: args.identity.as_deref().map(|text| pki.printed_name(text)),
        live_at: args.expiring.map(|_| now),
        ending_by: args
            .expiring
            .map(|time| now.saturating_add(time.as_seconds())),
        revoked: args.revoked,
        after: args.after,
        limit: args.limit.or((!output.is_json()).then_some(PAGE)),
        ..Filter::default()
    };
    let any = if output.is_json() {
        let mut list = output.list("certificates");
        pki.each_issued(&filter, |found| list.item(&document(&found)))?;
        list.end()
    } else {
        let found = pki.issued(&filter)?;
        if found.is_empty() {
            output.say("No certificates.");
        } else {
            output.say(table(&found));
        }
        if filter.limit.and_then(|limit| usize::try_from(limit).ok()) == Some(found.len())
            && let Some((last, _)) = found.last()
        {
            output.note(format_args!("there may be more: --after {}", last.id));
        }
        !found.is_empty()
    };
    Ok(if args.expiring.is_some() && any {
        Exit::No
    } else {
        Exit::Done
    })
}

/// Returns an entry as JSON.
pub(in crate::cli) fn document((entry, status): &(Entry, Status)) -> serde_json::Value {
    json!({
        "id": entry.id,
        "serial": entry.serial,
        "status": status.as_str(),
        "identity": entry.names.first(),
        "names": entry.names,
        "profile": entry.profile,
        "issuer": entry.issuer,
        "parent": entry.parent,
        "not_before": clock::rfc3339(entry.not_before),
        "not_after": clock::rfc3339(entry.not_after),
        "issued_at": clock::rfc3339(entry.issued_at),
        "issued_by": entry.issued_by,
        "cause": entry.cause,
        "revoked_at": entry.revoked.as_ref().map(|(at, _)| clock::rfc3339(*at)),
        "revoked_reason": entry.revoked.as_ref().map(|(_, reason)| reason),
        "x5t#S256": entry.thumbprint,
        "certificate": entry.certificate,
    })
}

fn table(found: &[(Entry, Status)]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["STATUS", "ENDS", "PROFILE", "SERIAL", "NAMES"]);
    for (entry, status) in found {
        let status = match &entry.revoked {
            Some((_, reason)) => format!("revoked ({reason})"),
            None => status.as_str().to_owned(),
        };
        table.add_row([
            status,
            moment(entry.not_after),
            entry.profile.clone(),
            entry.serial.clone(),
            printable(&entry.names.join(", ")),
        ]);
    }
    table
}
