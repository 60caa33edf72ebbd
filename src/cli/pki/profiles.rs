//! `countersign pki profiles`: lists the certificate profiles of an authority.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::json;

use super::authority::open;
use crate::cli::common::format::absolute;
use crate::cli::common::output::{CliError, Exit, Output};
use crate::pki::CertificateProfile;

const EXAMPLES: &str = "\
Examples:
  countersign pki profiles --dir certs
  countersign pki profiles --dir certs --json

Lists the profiles that pki issue and pki sign take with --profile, and that of new
intermediates. DIR/profiles.toml replaces built-in ones and adds others; docs/pki.md says how.
Exit code 2 when there is something wrong with it; each error names line and remedy.";

/// Arguments of `countersign pki profiles`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ProfilesArgs {
    /// The authority's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(args: &ProfilesArgs, output: Output) -> Result<Exit, CliError> {
    let pki = open(&args.dir)?;
    let profiles = pki.profiles();
    let file = pki.layout().profiles();
    let all: Vec<&CertificateProfile> = profiles
        .leaves()
        .iter()
        .chain([profiles.intermediate()])
        .collect();
    output.json(&json!({
        "file": file.exists().then(|| absolute(&file)),
        "profiles": all.iter().map(|profile| document(profile)).collect::<Vec<_>>(),
    }));
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["PROFILE", "FOR", "LIFETIME", "AT MOST", "KEYS", "NAMES"]);
    for profile in all {
        let usages = match profile.usages() {
            Some(usages) => usages.words().join(" and "),
            None => "signing".to_owned(),
        };
        table.add_row([
            profile.name().to_owned(),
            usages,
            profile.lifetime().to_string(),
            profile.max_lifetime().to_string(),
            or_any(&key_types(profile).join(", ")),
            or_any(&identities(profile).join(", ")),
        ]);
    }
    output.say(table);
    Ok(Exit::Done)
}

fn or_any(text: &str) -> String {
    if text.is_empty() { "any" } else { text }.to_owned()
}

fn key_types(profile: &CertificateProfile) -> Vec<&'static str> {
    let kinds = profile.rules().key_types.iter();
    kinds.map(|kind| kind.as_str()).collect()
}

fn identities(profile: &CertificateProfile) -> Vec<String> {
    let patterns = profile.rules().identities.iter();
    patterns.map(ToString::to_string).collect()
}

fn document(profile: &CertificateProfile) -> serde_json::Value {
    let rules = profile.rules();
    json!({
        "name": profile.name(),
        "usages": profile.usages().map(|usages| usages.words()),
        "lifetime": profile.lifetime().to_string(),
        "max_lifetime": profile.max_lifetime().to_string(),
        "identities": identities(profile),
        "key_types": key_types(profile),
        "crl_urls": rules.crl_urls,
        "issuer_urls": rules.issuer_urls,
        "organization": rules.organization,
        "organizational_unit": rules.organizational_unit,
        "common_name": if rules.without_common_name { "none" } else { "label" },
    })
}
