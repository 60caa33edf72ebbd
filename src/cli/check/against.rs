//! `countersign check --against AUDIT_LOG`: lists the callers of a log that the configuration
//! would refuse.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::impact::{Outlook, WouldRefuse, outlook};
use crate::cli::common::output::CliError;
use crate::config::Loaded;
use crate::telemetry::chains::{self, ChainId};

/// Maximum number of bytes that are read from a line.
const MAX_LINE: u64 = 64 * 1024;

/// The members of an audit line that this command uses.
#[derive(Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    caller: Option<String>,
    #[serde(default)]
    chain: Option<String>,
}

/// How many callers of a log would be admitted or refused.
#[derive(Debug, Default)]
pub(super) struct Preview {
    log: String,
    callers: usize,
    expired: usize,
    /// Number of callers whose chains were not kept, have been deleted, or cannot be read.
    unknown: usize,
    refused: Vec<WouldRefuse>,
}

/// Reads an audit log. Decides for each of its callers whether the new configuration would admit
/// the caller.
pub(super) fn preview(log: &Path, loaded: &Loaded) -> Result<Preview, CliError> {
    let Some(directory) = &loaded.settings.audit_chains else {
        return Err(CliError::usage(
            "the configuration keeps no chains, so that nothing is known of callers but their \
             names; set [audit] chains = \"DIR\" and let the gateway run for a while",
        ));
    };
    let mut preview = Preview {
        log: log.display().to_string(),
        ..Preview::default()
    };
    let mut seen: BTreeMap<String, ()> = BTreeMap::new();
    let mut without = 0_usize;
    for_each_line(log, |line| {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return;
        };
        match (line.event.as_str(), line.caller, line.chain) {
            ("request", Some(_), Some(chain)) => drop(seen.insert(chain, ())),
            ("request", Some(_), None) => without += 1,
            _ => {}
        }
    })?;
    if seen.is_empty() {
        return Err(CliError::usage(match without {
            0 => format!(
                "{}: there is no caller with a certificate in it",
                log.display()
            ),
            _ => format!(
                "{}: its callers' chains were not kept; set [audit] chains = \"DIR\" and let the \
                 gateway run for a while",
                log.display()
            ),
        }));
    }
    preview.callers = seen.len();
    for id in seen.keys() {
        let kept = ChainId::parse(id).and_then(|id| chains::read(directory, &id).ok());
        match kept.map(|kept| outlook(&loaded.snapshot, &kept)) {
            None => preview.unknown += 1,
            Some(Outlook::Admitted) => {}
            Some(Outlook::Expired) => preview.expired += 1,
            Some(Outlook::Refused(why)) => preview.refused.push(*why),
        }
    }
    Ok(preview)
}

/// Calls `each` with every line of a file, without the line ending. Cuts lines that are longer than
/// `MAX_LINE`.
pub(in crate::cli) fn for_each_line(
    log: &Path,
    mut each: impl FnMut(&[u8]),
) -> Result<(), CliError> {
    let named = |error: std::io::Error| CliError::usage(format!("{}: {error}", log.display()));
    let mut reader = BufReader::new(File::open(log).map_err(named)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(named)?;
        if read == 0 {
            return Ok(());
        }
        each(line.strip_suffix(b"\n").unwrap_or(&line));
    }
}

impl Preview {
    pub(super) fn refuses(&self) -> bool {
        !self.refused.is_empty()
    }

    pub(super) fn document(&self) -> Value {
        json!({
            "log": self.log,
            "callers": self.callers,
            "expired": self.expired,
            "unknown": self.unknown,
            "refused": self.refused,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "Of {} callers in {}, {} would be refused.",
            self.callers,
            self.log,
            self.refused.len()
        );
        for why in &self.refused {
            let _ = write!(
                text,
                "\n  {} (serial {}, last seen {}): {}, {}",
                why.names, why.serial, why.last_seen, why.reason, why.detail
            );
        }
        if self.expired > 0 {
            let _ = write!(text, "\n{} have expired meanwhile.", self.expired);
        }
        if self.unknown > 0 {
            let _ = write!(
                text,
                "\n{} cannot be judged: their chains are not kept (any longer).",
                self.unknown
            );
        }
        text
    }
}
