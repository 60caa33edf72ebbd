//! Lints: what is wrong or unwise about a certificate or a revocation list,
//! beyond what a verifier has to refuse.
//!
//! An error means that a standard forbids it or that gateways refuse it; such a
//! leaf is not issued. A warning means that it works, and that one would rather
//! not. Nothing here decides whom to trust: see `crate::trust`.

mod certificate;
mod names;
mod revocation_list;

use serde::Serialize;

pub use certificate::certificate;
pub use revocation_list::revocation_list;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Forbidden by a standard, or refused by gateways.
    Error,
    /// Works, and is unwise.
    Warning,
}

/// What a lint found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The lint's name.
    pub lint: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where that is written.
    pub reference: &'static str,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{}: {} ({})",
            self.lint, self.message, self.reference
        )
    }
}

/// What a group of lints looks at.
trait Family {
    type Subject<'a>;
}

/// One lint.
struct Lint<F: Family> {
    name: &'static str,
    severity: Severity,
    reference: &'static str,
    check: fn(&F::Subject<'_>) -> Option<String>,
}

fn run<F: Family>(lints: &[Lint<F>], subject: &F::Subject<'_>) -> Vec<Finding> {
    lints
        .iter()
        .filter_map(|lint| {
            Some(Finding {
                severity: lint.severity,
                lint: lint.name,
                message: (lint.check)(subject)?,
                reference: lint.reference,
            })
        })
        .collect()
}

/// A finding of its own where the encoding does not read.
fn unreadable(why: &str) -> Vec<Finding> {
    vec![Finding {
        severity: Severity::Error,
        lint: "unreadable",
        message: why.to_owned(),
        reference: "RFC 5280 section 4.1",
    }]
}

/// The message of a lint that says the same every time.
fn when(wrong: bool, message: &str) -> Option<String> {
    wrong.then(|| message.to_owned())
}

#[cfg(test)]
#[path = "lint/tests.rs"]
mod tests;
