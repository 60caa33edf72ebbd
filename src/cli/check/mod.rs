//! `countersign check`: loads a configuration with all files that it names, without serving.
//! Reports errors and warnings.
//!
//! - `against`: decides again about the requests of an audit log
//! - `table`: shows the routes
//! - `running`: asks the gateway that runs with the configuration

pub(super) mod against;
mod running;
mod table;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::app;
use crate::cli::common::config_loading::{self, LoadError};
use crate::cli::common::format::absolute;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::clock;
use crate::config::{self, ConfigErrors, Inventory, Loaded};
use crate::descriptors::{DescriptorPlan, raise_limit};
use crate::identity::text::{printable, printable_within};
use crate::snapshot::AuditDestination;
use crate::tls::{CertificateOwner, OwnCertificate};

/// Arguments of `countersign check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  countersign check
  countersign check --config /etc/countersign/countersign.toml
  countersign check --json
  countersign check --against /var/log/countersign/audit.jsonl

Loads the file, certificates, keys and revocation lists as `serve` does. Checks that the addresses
are free, and that sockets, the audit log, its chains and the deny list can be written, without
listening and without writing. An address at which the gateway of this configuration listens is no
fault. Run it as the user that runs the gateway, or with --files-only in CI and elsewhere.

With --against it also decides again about every request of an audit log, by host, path, method and
caller, and about every caller's certificate by the chains that [audit] chains has kept. Of a
caller's certificates only those count that were not replaced.

Exit code 0, or 2 with every error at once; 3: good, but requests of the log would be refused.")]
pub struct CheckArgs {
    /// The configuration file [default: $COUNTERSIGN_CONFIG, ./countersign.toml,
    /// /etc/countersign/countersign.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show which requests of this audit log would now be refused or allowed.
    #[arg(long, value_name = "AUDIT_LOG")]
    against: Option<PathBuf>,
    /// Do not check this machine: its addresses, sockets, and files that the gateway writes.
    #[arg(long)]
    files_only: bool,
}

/// Runs `countersign check`.
pub(crate) fn run(args: &CheckArgs, output: Output) -> Result<Exit, CliError> {
    let path = config::path(args.config.as_deref()).map_err(CliError::usage)?;
    let running = (!args.files_only).then(|| running::ask(&path));
    let inspected = match &running {
        Some(running) => config_loading::inspect_on_host(&path, running.state.clone()),
        None => config_loading::inspect(&path),
    };
    let (mut loaded, inventory) = match inspected {
        Ok(found) => found,
        Err(LoadError::Refused(errors)) if output.is_json() => {
            output.json(&json!({
                "ok": false,
                "config": absolute(&path),
                "errors": errors.records(),
            }));
            return Ok(Exit::Usage);
        }
        Err(LoadError::Refused(errors)) => return Err(refusal(&errors)),
        Err(error) => return Err(error.into()),
    };
    let alarms = certificate_alarms(&loaded);
    loaded.warnings.extend(alarms);
    for warning in loaded.warnings.iter().chain(&descriptor_warning(&loaded)) {
        output.note(format_args!("warning: {warning}"));
    }
    if let Some(note) = running.as_ref().and_then(running::Found::note) {
        output.note(note);
    }
    let preview = match &args.against {
        Some(log) => Some(against::preview(log, &loaded)?),
        None => None,
    };
    output.say(report(&path, &loaded, &inventory));
    let mut found = document(&path, &loaded, &inventory);
    if let Some(members) = found.as_object_mut() {
        let pid = running.as_ref().and_then(|running| running.pid);
        members.insert("running_gateway".to_owned(), json!(pid));
        if let Some(preview) = &preview {
            output.say(format_args!("\n{}", preview.text()));
            members.insert("against".to_owned(), preview.document());
        }
    }
    output.json(&found);
    Ok(match preview {
        Some(preview) if preview.refuses() => Exit::No,
        _ => Exit::Done,
    })
}

/// Formats all errors for the terminal.
pub(super) fn refusal(errors: &ConfigErrors) -> CliError {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    CliError::coloured_usage(errors.render(io::stderr().is_terminal() && !plain))
}

fn report(path: &Path, loaded: &Loaded, inventory: &Inventory) -> String {
    let settings = &loaded.settings;
    let mut text = format!("{} is good", path.display());
    let _ = match loaded.warnings.len() {
        0 => writeln!(text, "."),
        1 => writeln!(text, ", with 1 warning."),
        count => writeln!(text, ", with {count} warnings."),
    };
    let _ = write!(text, "\nlistener {}", settings.address);
    for entry in &inventory.server_names {
        let names = match (entry.names.is_empty(), inventory.server_names.len()) {
            (true, 1) => "any name".to_owned(),
            (true, _) => "any other name".to_owned(),
            (false, _) => entry.names.join(", "),
        };
        let _ = write!(
            text,
            "\n  {names}: client certificate {}, from {}\n    {} ({}) until {}",
            entry.client_certificate,
            entry.trust_domains.join(", "),
            entry.certificate.file,
            entry.certificate.names,
            entry.certificate.not_after,
        );
    }
    if let Some(public) = &settings.public {
        let scheme = if public.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let _ = write!(
            text,
            "\npublic   {scheme}://{} ({})",
            public.address,
            served(loaded).join(", ")
        );
    }
    if let Some(admin) = &settings.admin {
        let (scheme, audience) = match admin.operators.as_slice() {
            [] => ("http", String::new()),
            operators => (
                "https",
                format!(
                    " (for {})",
                    operators
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            ),
        };
        let _ = write!(text, "\nadmin    {scheme}://{}{audience}", admin.address);
        if let Some(socket) = &admin.socket {
            let _ = write!(text, "\nsocket   {}", socket.display());
        }
    }
    let signer = loaded.snapshot.signer.settings();
    let _ = write!(
        text,
        "\nissuer   {} ({}, valid for {}s, in {})",
        signer.issuer,
        loaded.snapshot.signer.keys().algorithm().as_str(),
        signer.lifetime.as_secs(),
        signer.header,
    );
    let _ = write!(text, "\naudit    {}", audit(loaded));
    push_certificates(&mut text, loaded);
    let plan = descriptors_here(loaded);
    let configured = loaded.snapshot.limits.connections;
    let _ = write!(
        text,
        "\nlimits   {} connections of callers, {} to services, of {} descriptors here\n",
        plan.connections_of(configured),
        plan.services,
        plan.limit
    );
    push_trust_domains(&mut text, inventory);
    table::push_routes(&mut text, &loaded.snapshot);
    text
}

/// Warns of certificates of the gateway that should be renewed.
fn certificate_alarms(loaded: &Loaded) -> Vec<String> {
    let now = clock::certificate_now();
    let own = loaded.snapshot.own_certificates.iter();
    let alarm = |own: &OwnCertificate| {
        let (alarm, command) = (own.alarm(now)?, own.command());
        let command = printable_within(&command, usize::MAX);
        Some(format!("{}\n  try: {command}", printable(&alarm)))
    };
    own.filter_map(alarm).collect()
}

/// Adds the certificates that the lines of the listener do not show.
fn push_certificates(text: &mut String, loaded: &Loaded) {
    let is_shown = |own: &&OwnCertificate| {
        let of_listener = matches!(
            own.owner,
            CertificateOwner::Listener | CertificateOwner::ServerName(..)
        );
        of_listener && !own.is_intermediate
    };
    let own = loaded.snapshot.own_certificates.iter();
    for own in own.filter(|own| !is_shown(own)) {
        let kind = match own.is_intermediate {
            false => "certificate",
            true => "intermediate beside the certificate",
        };
        let end = clock::rfc3339(own.not_after);
        let line = format!(
            "{kind} of {}: {} until {end}",
            own.owner,
            own.file.display()
        );
        let _ = write!(text, "\n{}", printable(&line));
    }
}

/// Returns the descriptors that a gateway with the limits of this shell would have.
fn descriptors_here(loaded: &Loaded) -> DescriptorPlan {
    DescriptorPlan::divide(raise_limit(), app::worker_count(&loaded.settings))
}

/// Warns if the resource limits of this shell allow fewer connections than the configuration.
fn descriptor_warning(loaded: &Loaded) -> Option<String> {
    let plan = descriptors_here(loaded);
    let configured = loaded.snapshot.limits.connections;
    (plan.connections_of(configured) < configured).then(|| {
        format!(
            "with {} descriptors, as here, there are at most {} connections of callers, not \
             the {configured} of [limits] connections; allow the gateway {} (systemd: \
             LimitNOFILE, shell: ulimit -n)",
            plan.limit,
            plan.connections,
            plan.limit_for(configured)
        )
    })
}

fn push_trust_domains(text: &mut String, inventory: &Inventory) {
    for domain in &inventory.trust_domains {
        let _ = write!(text, "\ntrust domain {}", domain.name);
        for root in &domain.roots {
            let _ = write!(text, "\n  root  {} until {}", root.subject, root.not_after);
        }
        for list in &domain.revocation_lists {
            let next = list.next_update.as_deref().unwrap_or("no date");
            let _ = write!(
                text,
                "\n  list  of {}: {} revoked, next due {next}",
                list.issuer, list.revoked
            );
        }
        let _ = write!(
            text,
            "\n  revocation {} ({}); callers named by {}, among {}\n",
            domain.revocation,
            domain.revocation_depth,
            domain.identity_from.join(", "),
            domain.vouches_for.join(", "),
        );
    }
}

fn audit(loaded: &Loaded) -> String {
    match &loaded.settings.audit {
        AuditDestination::Stdout => "standard output".to_owned(),
        AuditDestination::File(file) => file.display().to_string(),
    }
}

fn served(loaded: &Loaded) -> Vec<&'static str> {
    let Some(public) = &loaded.settings.public else {
        return Vec::new();
    };
    [
        ("keys", public.keys),
        ("health", public.health),
        ("metrics", public.metrics),
    ]
    .into_iter()
    .filter_map(|(what, served)| served.then_some(what))
    .collect()
}

fn document(path: &Path, loaded: &Loaded, inventory: &Inventory) -> Value {
    let settings = &loaded.settings;
    let signer = &loaded.snapshot.signer;
    let audit = match &settings.audit {
        AuditDestination::Stdout => None,
        AuditDestination::File(file) => Some(absolute(file)),
    };
    json!({
        "ok": true,
        "config": absolute(path),
        "listener": settings.address,
        "server_names": inventory.server_names,
        "public": settings.public.as_ref().map(|public| json!({
            "address": public.address,
            "tls": public.tls.is_some(),
            "serve": served(loaded),
        })),
        "admin": settings.admin.as_ref().map(|admin| admin.address),
        "admin_operators": settings.admin.as_ref().map(|admin| {
            admin.operators.iter().map(ToString::to_string).collect::<Vec<_>>()
        }),
        "admin_socket": settings.admin.as_ref().and_then(|admin| admin.socket.as_deref()).map(absolute),
        "audit": audit,
        "certificates": loaded.snapshot.own_certificates.iter().map(certificate).collect::<Vec<_>>(),
        "trust_domains": inventory.trust_domains,
        "assertion": {
            "issuer": signer.settings().issuer,
            "header": signer.settings().header.as_str(),
            "algorithm": signer.keys().algorithm().as_str(),
            "lifetime_seconds": signer.settings().lifetime.as_secs(),
            "max_size": signer.settings().max_size,
        },
        "upstreams": loaded.snapshot.upstreams.iter().map(|upstream| json!({
            "name": upstream.name(),
            "endpoints": upstream.config().endpoints.iter().map(|endpoint| {
                format!("{}:{}", bracketed(&endpoint.host), endpoint.port)
            }).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "routes": table::routes(&loaded.snapshot),
        "files": loaded.files.iter().map(|file| absolute(file)).collect::<Vec<_>>(),
        "warnings": loaded.warnings,
    })
}

fn certificate(own: &OwnCertificate) -> Value {
    json!({
        "use": own.owner.usage(),
        "name": own.owner.name(),
        "file": absolute(&own.file),
        "subject": printable(&own.subject),
        "serial": own.serial,
        "intermediate": own.is_intermediate,
        "not_after": clock::rfc3339(own.not_after),
        "renewal_due": clock::rfc3339(own.renewal_due()),
    })
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
