//! Runs the public test suite x509-limbo with the path rules of the listener.
//!
//! Each case runs in this process with the function that `countersign pki verify` uses. Some
//! cases also run with the program. A case that differs from the suite must be in
//! [`DEVIATIONS`] with its cause, and only such cases. The suite is not part of the repository;
//! see [`countersign_testkit::skipped`].

mod deviations;
mod program;

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::clock;
use countersign_core::reason::ReasonCode;
use countersign_core::trust::{PathError, PathPurpose, PathTrust};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use serde::Deserialize;

use deviations::{Cause, DEVIATIONS, cause};

#[derive(Debug, Deserialize)]
struct Corpus {
    testcases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    id: String,
    #[serde(default)]
    features: Vec<String>,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
    #[serde(default)]
    crls: Vec<String>,
    validation_time: Option<String>,
    expected_result: String,
    max_chain_depth: Option<u32>,
}

impl Case {
    fn is_valid(&self) -> bool {
        self.expected_result == "SUCCESS"
    }

    /// Returns whether a case is about the path rules. Other cases are about names, depth options
    /// or the stricter rules of the Web PKI.
    fn is_core(&self) -> bool {
        !self.id.starts_with("webpki::")
            && self.max_chain_depth.is_none()
            && !self
                .features
                .iter()
                .any(|feature| feature.starts_with("pedantic-"))
    }

    fn time(&self) -> UnixTime {
        let seconds = self
            .validation_time
            .as_deref()
            .map_or_else(clock::unix_now, |text| {
                let moment = time::OffsetDateTime::parse(
                    text,
                    &time::format_description::well_known::Rfc3339,
                );
                u64::try_from(moment.unwrap().unix_timestamp()).unwrap()
            });
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn verdict(&self) -> Result<(), PathError> {
        let roots: Vec<_> = self
            .trusted_certs
            .iter()
            .map(|pem| certificate(pem))
            .collect();
        let intermediates = self
            .untrusted_intermediates
            .iter()
            .map(|pem| certificate(pem))
            .collect();
        let lists: Vec<_> = self
            .crls
            .iter()
            .map(|pem| CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap())
            .collect();
        let lists = (!lists.is_empty()).then_some(lists.as_slice());
        PathTrust::new(&roots, intermediates, lists, PathPurpose::Client)
            .verify(&certificate(&self.peer_certificate), self.time())
            .map(|_| ())
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Returns the cases, and the ids of cases that must agree with the suite. Returns `None` if the
/// suite is not installed.
fn corpus() -> Option<(Vec<Case>, BTreeSet<String>)> {
    let folder = countersign_testkit::skipped::corpus("limbo")?;
    let cases = std::fs::read(folder.join("cases.json")).unwrap();
    let cases: Corpus = serde_json::from_slice(&cases).unwrap();
    let must = std::fs::read_to_string(folder.join("must-pass.txt")).unwrap();
    let must = must.split_whitespace().map(str::to_owned).collect();
    Some((cases.testcases, must))
}

#[test]
fn every_difference_from_the_suite_has_a_known_cause() {
    let Some((cases, _)) = corpus() else { return };
    let mut seen = BTreeSet::new();
    for case in &cases {
        let verdict = case.verdict();
        let agrees = verdict.is_ok() == case.is_valid();
        let cause = cause(&case.id).filter(|_| !agrees);
        seen.extend((!agrees).then(|| case.id.clone()));
        match (agrees, cause, &verdict) {
            (true, _, _) | (false, Some(Cause::Lenient(_) | Cause::NotAsked(_)), Ok(())) => {}
            (false, Some(Cause::Stricter(expected, why)), Err((reason, _))) => {
                assert_eq!(*reason, expected, "{}: {why}", case.id);
            }
            _ => panic!(
                "{}: {verdict:?}, not for a known cause ({cause:?})",
                case.id
            ),
        }
    }
    for (known, cause) in DEVIATIONS {
        assert!(
            seen.iter().any(|id| id.starts_with(known)),
            "{known} agrees now and can leave the list ({cause:?})"
        );
    }
}

#[test]
fn the_cases_that_every_verifier_agrees_on_agree() {
    let Some((cases, must)) = corpus() else {
        return;
    };
    let agreeing: BTreeSet<String> = cases
        .iter()
        .filter(|case| case.verdict().is_ok() == case.is_valid())
        .map(|case| case.id.clone())
        .collect();
    assert_eq!(must.len(), 71);
    let missing: Vec<_> = must.difference(&agreeing).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

/// The verifier of rustls agrees in 93 cases, counted in the same way.
#[test]
fn more_core_cases_agree_than_with_any_common_verifier() {
    let Some((cases, _)) = corpus() else { return };
    let core: Vec<_> = cases.iter().filter(|case| case.is_core()).collect();
    let agreeing = core
        .iter()
        .filter(|case| case.verdict().is_ok() == case.is_valid())
        .count();
    assert_eq!((agreeing, core.len()), (108, 128));
}

#[test]
fn unsupported_constraints_refuse_with_a_sentence_that_says_so() {
    let Some((cases, _)) = corpus() else { return };
    let case = cases
        .iter()
        .find(|case| case.id == "rfc5280::nc::nc-permits-email-exact")
        .unwrap();
    let (reason, detail) = case.verdict().unwrap_err();
    assert_eq!(reason, ReasonCode::NameConstraint);
    assert!(
        detail.contains("e-mail name constraints are not supported"),
        "{detail}"
    );
}
