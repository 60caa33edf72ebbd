//! `countersign reasons`: explains the gateway's reason codes.
//!
//! `docs/reasons.md` is the output of `countersign reasons --markdown`, and a test compares the
//! two. All texts come from [`crate::reason`].

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::common::output::{CliError, Exit, Output};
use crate::admin::{ProblemCode, Severity};
use crate::identity::text::printable;
use crate::reason::{Category, FixedBy, ReasonCode};

const EXAMPLES: &str = "\
Examples:
  countersign reasons
  countersign reasons certificate-revoked
  countersign reasons 46
  countersign reasons --alert certificate_unknown
  countersign reasons --problems
  countersign reasons --json
  countersign reasons --markdown > docs/reasons.md

The same code stands in the answer's Countersign-Reason field and problem document, in audit
lines and in metrics. A refused handshake has a TLS alert only, and one alert has several possible
reasons: 46 and the name that a TLS library prints (certificate_unknown, \"unknown certificate\") list
them. The operator's audit line has the one.

--problems lists the codes of problems, which /readyz of the operators' listener, `countersign
status` and the metric countersign_problem have.";

/// The TLS alerts and their registered names (RFC 8446 section 6).
const ALERTS: [(u8, &str); 27] = [
    (0, "close_notify"),
    (10, "unexpected_message"),
    (20, "bad_record_mac"),
    (22, "record_overflow"),
    (40, "handshake_failure"),
    (42, "bad_certificate"),
    (43, "unsupported_certificate"),
    (44, "certificate_revoked"),
    (45, "certificate_expired"),
    (46, "certificate_unknown"),
    (47, "illegal_parameter"),
    (48, "unknown_ca"),
    (49, "access_denied"),
    (50, "decode_error"),
    (51, "decrypt_error"),
    (70, "protocol_version"),
    (71, "insufficient_security"),
    (80, "internal_error"),
    (86, "inappropriate_fallback"),
    (90, "user_canceled"),
    (109, "missing_extension"),
    (110, "unsupported_extension"),
    (112, "unrecognized_name"),
    (113, "bad_certificate_status_response"),
    (115, "unknown_psk_identity"),
    (116, "certificate_required"),
    (120, "no_application_protocol"),
];

/// The names that Go's TLS library prints, if they differ from the registered names.
const ALERTS_IN_GO: [(u8, &str); 4] = [
    (44, "revoked certificate"),
    (45, "expired certificate"),
    (46, "unknown certificate"),
    (48, "unknown certificate authority"),
];

/// Maximum number of suggestions for an unknown code.
const SUGGESTIONS: usize = 3;

/// Arguments of `countersign reasons`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReasonsArgs {
    /// Explain only this code: a reason code, or the number or name of a TLS alert.
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// List the possible reasons of this TLS alert, which is given by its number or name.
    #[arg(long, value_name = "NUMBER|NAME", conflicts_with = "code")]
    alert: Option<String>,
    /// List the codes of problems, and the command that usually fixes each problem.
    #[arg(long, conflicts_with_all = ["code", "alert", "markdown"])]
    problems: bool,
    /// Print the reference page in Markdown.
    #[arg(long, conflicts_with_all = ["code", "alert"])]
    markdown: bool,
}

/// Runs `countersign reasons`.
pub(crate) fn run(args: &ReasonsArgs, output: Output) -> Result<Exit, CliError> {
    if args.problems {
        output.json(&problem_document());
        if !output.is_json() {
            output.result(problem_list());
        }
        return Ok(Exit::Done);
    }
    let word = args.code.as_deref();
    let number = match (&args.alert, word) {
        (Some(text), _) => Some(alert(text).ok_or_else(|| no_alert(text))?),
        (None, Some(text)) if ReasonCode::parse(text).is_none() => alert(text),
        (None, _) => None,
    };
    if let Some(number) = number {
        let reasons = ReasonCode::behind_alert(number);
        output.json(&alert_document(number, &reasons));
        if !output.is_json() {
            output.result(alert_explanation(number, &reasons));
        }
        return Ok(Exit::Done);
    }
    let code = word.map(find).transpose()?;
    if output.is_json() {
        match code {
            Some(code) => output.json(&document(code)),
            None => output.json(&json!({
                "reasons": ReasonCode::ALL.iter().copied().map(document).collect::<Vec<_>>(),
            })),
        }
    } else if args.markdown {
        output.result(markdown().trim_end());
    } else {
        match code {
            Some(code) => output.result(explanation(code)),
            None => output.result(list()),
        }
    }
    Ok(Exit::Done)
}

/// Returns the number of an alert. `text` is the number or a name. Case, and the separators between
/// words, do not matter: TLS libraries print `certificate_unknown`, `CertificateUnknown` and
/// `certificate unknown`.
fn alert(text: &str) -> Option<u8> {
    let letters = |text: &str| -> String {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        letters.collect::<String>().to_ascii_lowercase()
    };
    let wanted = letters(text);
    let known = || ALERTS.iter().chain(&ALERTS_IN_GO);
    let number: Option<u8> = text.trim().parse().ok();
    known()
        .find(|(known, name)| number == Some(*known) || letters(name) == wanted)
        .map(|(number, _)| *number)
}

fn no_alert(text: &str) -> CliError {
    CliError::usage(format!(
        "there is no TLS alert \"{}\"; give its number or name as the TLS library prints it, such as \
         46 or certificate_unknown",
        printable(text)
    ))
}

fn alert_name(number: u8) -> &'static str {
    let known = ALERTS.iter().find(|(known, _)| *known == number);
    known.map_or("", |(_, name)| *name)
}

fn alert_document(number: u8, reasons: &[ReasonCode]) -> Value {
    json!({
        "alert": { "number": number, "name": alert_name(number) },
        "reasons": reasons.iter().copied().map(document).collect::<Vec<_>>(),
    })
}

fn alert_explanation(number: u8, reasons: &[ReasonCode]) -> String {
    let mut text = format!("TLS alert {number} {}\n", alert_name(number));
    if reasons.is_empty() {
        text.push_str(
            "\nNo reason code has this alert. If the gateway sent it, the TLS settings of both sides \
             do not fit, or the peer broke the protocol; the audit line says more.",
        );
        return text;
    }
    text.push_str(
        "\nThe gateway sends it for one of these reasons. The operator's audit line says which one.\n",
    );
    for code in reasons {
        let _ = write!(
            text,
            "\n{code}: {}\n  {} ({})\n",
            code.title(),
            code.hint(),
            mender(code.fixed_by())
        );
    }
    text.truncate(text.trim_end().len());
    text
}

fn find(word: &str) -> Result<ReasonCode, CliError> {
    ReasonCode::parse(word).ok_or_else(|| {
        let mut message = format!("there is no reason code \"{}\"", printable(word));
        let near = suggestions(word);
        if near.is_empty() {
            message.push_str("; see all with: countersign reasons");
        } else {
            let _ = write!(message, "; did you mean {}?", near.join(", "));
        }
        CliError::usage(message)
    })
}

/// Returns the codes that are most similar to `word`. Similar words have many pairs of adjacent
/// letters in common (Dice's coefficient).
fn suggestions(word: &str) -> Vec<&'static str> {
    let wanted = pairs(&word.to_ascii_lowercase());
    let mut near: Vec<(usize, &'static str)> = ReasonCode::ALL
        .iter()
        .filter_map(|code| {
            let candidate = pairs(code.as_str());
            let common = wanted.intersection(&candidate).count();
            let percent = (200 * common).checked_div(wanted.len() + candidate.len())?;
            (percent >= 45).then_some((percent, code.as_str()))
        })
        .collect();
    near.sort_by_key(|(percent, _)| std::cmp::Reverse(*percent));
    near.into_iter()
        .take(SUGGESTIONS)
        .map(|(_, code)| code)
        .collect()
}

fn pairs(word: &str) -> BTreeSet<(char, char)> {
    word.chars().zip(word.chars().skip(1)).collect()
}

fn document(code: ReasonCode) -> Value {
    json!({
        "code": code,
        "category": code.category().as_str(),
        "status": code.status(),
        "grpc_status": code.grpc_status(),
        "tls_alert": code.alert().map(|alert| json!({
            "number": alert.number(),
            "name": alert.name(),
        })),
        "mender": code.fixed_by().as_str(),
        "title": code.title(),
        "hint": code.hint(),
    })
}

fn problem_document() -> Value {
    let problems = ProblemCode::ALL.map(|code| {
        json!({
            "code": code,
            "severity": code.usual_severity(),
            "meaning": code.meaning(),
            "command": code.usual_command(),
        })
    });
    json!({ "problems": problems })
}

fn problem_list() -> String {
    let codes = ProblemCode::ALL.iter();
    let width = codes.map(|code| code.as_str().len()).max().unwrap_or(0);
    let mut text = format!("{:<width$}  SEVERITY  MEANING, AND WHAT TO TRY", "CODE");
    for code in ProblemCode::ALL {
        let severity = match code.usual_severity() {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let _ = write!(
            text,
            "\n{:<width$}  {severity:<8}  {}\n{:<width$}            {}",
            code.as_str(),
            code.meaning(),
            "",
            code.usual_command()
        );
    }
    text
}

fn list() -> String {
    let width = ReasonCode::ALL
        .iter()
        .map(|code| code.as_str().len())
        .max()
        .unwrap_or_default();
    let mut text = format!("{:<width$}  STATUS  MEANING", "CODE");
    for code in ReasonCode::ALL {
        let _ = write!(
            text,
            "\n{:<width$}  {:<6}  {}",
            code.as_str(),
            code.status(),
            code.title()
        );
    }
    text
}

fn explanation(code: ReasonCode) -> String {
    let mut text = format!(
        "{code}: {}\n\nWhat helps   {}\nWho          {}\nHTTP status  {}\ngRPC status  {}",
        code.title(),
        code.hint(),
        mender(code.fixed_by()),
        code.status(),
        code.grpc_status(),
    );
    if let Some(alert) = code.alert() {
        let _ = write!(text, "\nTLS alert    {} {}", alert.number(), alert.name());
    }
    text
}

const fn mender(mender: FixedBy) -> &'static str {
    match mender {
        FixedBy::Caller => "the caller",
        FixedBy::Operator => "the gateway's operator",
        FixedBy::Service => "the service's operator",
        FixedBy::Time => "time: try again later",
    }
}

const INTRODUCTION: &str = "\
# Reason codes

Every refusal and failure has one of these codes. The same word stands in the answer's
`Countersign-Reason` field, in the `code` of its problem document (RFC 9457), in the
`reason` of gRPC's `ErrorInfo`, in audit lines and in metrics. `countersign reasons CODE`
and `/reasons/CODE` on the public listener say the same as this page.

A refused handshake sends the TLS alert where the table names one; the audit line has the
reason. This page is the output of `countersign reasons --markdown`.
";

fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (category, heading) in [
        (Category::Certificate, "The caller's certificate"),
        (Category::Token, "A token beside the certificate"),
        (Category::Request, "The request"),
        (Category::Upstream, "The service behind the gateway"),
        (Category::Gateway, "The gateway itself"),
    ] {
        let _ = write!(
            text,
            "\n## {heading}\n\n\
             | Code | HTTP | gRPC | TLS alert | Meaning | What helps | Who |\n\
             |---|---|---|---|---|---|---|\n"
        );
        for code in ReasonCode::ALL {
            if code.category() != category {
                continue;
            }
            let alert = code
                .alert()
                .map(|alert| format!("{} `{}`", alert.number(), alert.name()))
                .unwrap_or_default();
            let _ = writeln!(
                text,
                "| `{code}` | {} | {} | {alert} | {} | {} | {} |",
                code.status(),
                code.grpc_status(),
                cell(code.title()),
                cell(code.hint()),
                mender(code.fixed_by()),
            );
        }
    }
    text
}

/// Formats a text as a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('*', "\\*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_what_the_program_prints() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reasons.md");
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page == markdown(),
            "docs/reasons.md is out of date: countersign reasons --markdown > docs/reasons.md"
        );
    }

    #[test]
    fn every_code_is_on_the_page_once() {
        let page = markdown();
        for code in ReasonCode::ALL {
            assert_eq!(page.matches(&format!("| `{code}` |")).count(), 1);
        }
    }

    #[test]
    fn alerts_have_numbers_and_names() {
        for (text, number) in [
            ("46", Some(46)),
            (" 46 ", Some(46)),
            ("certificate_unknown", Some(46)),
            ("CertificateUnknown", Some(46)),
            ("unknown certificate", Some(46)),
            ("unknown certificate authority", Some(48)),
            ("Unknown CA", Some(48)),
            ("handshake failure", Some(40)),
            ("1", None),
            ("300", None),
            ("", None),
            ("certificate", None),
        ] {
            assert_eq!(alert(text), number, "{text:?}");
        }
        for code in ReasonCode::ALL {
            if let Some(known) = code.alert() {
                assert_eq!(alert(known.name()), Some(known.number()));
                assert_eq!(alert_name(known.number()), known.name());
            }
        }
    }

    #[test]
    fn mistyped_codes_are_recognised() {
        for (word, code) in [
            ("certificate-revokd", "certificate-revoked"),
            ("revoked", "certificate-revoked"),
            ("RATE_LIMITED", "rate-limited"),
            ("no-rout", "no-route"),
            ("caller-not-alowed", "caller-not-allowed"),
        ] {
            assert!(
                suggestions(word).contains(&code),
                "{word}: {:?}",
                suggestions(word)
            );
        }
        assert!(suggestions("xyzzy").is_empty());
        assert!(suggestions("").is_empty());
        assert_eq!(find("nonsense\u{1b}[2J").unwrap_err().exit, Exit::Usage);
    }
}
