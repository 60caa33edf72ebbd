//! `SignatureChecks`: each signature of one verification is checked once, and no more of
//! them than a budget allows.
//!
//! Signature checks are the main cost. Anybody can present a chain, so that its content must not
//! decide how many signatures are checked. Search and webpki both check by
//! [`SignatureChecks::algorithms`]: a signature that one of them has checked costs the other
//! nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use crate::crypto;

/// Limits for the verification of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignatureBudget {
    /// Maximum number of checks.
    pub(crate) checks: usize,
    /// Maximum number of checks that may fail.
    pub(crate) failures: usize,
    /// Number of signed bytes that may be hashed.
    pub(crate) bytes: usize,
}

/// Bundles beside the first one for which the budget grows.
const MAX_FURTHER_BUNDLES: usize = 16;

impl SignatureBudget {
    /// The budget for a chain that a peer presents. Issuers that are configured, or that match by
    /// key identifier, are tried first. A chain that follows RFC 5280 therefore causes no failed
    /// check, and the longest possible chain needs eight checks.
    pub(crate) const PRESENTED: Self = Self {
        checks: 10,
        failures: 4,
        bytes: 64 * 1024,
    };

    /// Returns the budget for a chain that a peer presents, if it is verified under `bundles`
    /// bundles. Roots of several bundles may have the same name. Each bundle that is tried before
    /// the right one may therefore cost one or two failed checks.
    pub(crate) fn presented(bundles: usize) -> Self {
        let more = 2 * bundles.saturating_sub(1).min(MAX_FURTHER_BUNDLES);
        Self {
            checks: Self::PRESENTED.checks + more,
            failures: Self::PRESENTED.failures + more,
            bytes: Self::PRESENTED.bytes + more * 4 * 1024,
        }
    }

    /// The budget for certificates of an operator, who waits for the result.
    pub(crate) const OFFLINE: Self = Self {
        checks: 4096,
        failures: 4096,
        bytes: usize::MAX,
    };
}

/// The results of signature checks, and the remaining budget.
#[derive(Debug)]
pub(crate) struct SignatureChecks(Mutex<State>);

#[derive(Debug)]
struct State {
    known: HashMap<Check, bool>,
    left: SignatureBudget,
    spent: bool,
}

/// One signature, identified by everything that its validity depends on.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Check {
    /// Position of the algorithm.
    algorithm: usize,
    key: Box<[u8]>,
    message: Box<[u8]>,
    signature: Box<[u8]>,
}

impl SignatureChecks {
    pub(crate) fn new(budget: SignatureBudget) -> Self {
        Self(Mutex::new(State {
            known: HashMap::new(),
            left: budget,
            spent: false,
        }))
    }

    /// Returns the provider's algorithms, limited by the budget. Once the budget is spent, they
    /// report each signature as invalid.
    pub(crate) fn algorithms(&self) -> Vec<BoundedAlgorithm<'_>> {
        let all = crypto::provider().signature_verification_algorithms.all;
        all.iter()
            .enumerate()
            .map(|(position, algorithm)| BoundedAlgorithm {
                position,
                algorithm: *algorithm,
                checks: self,
            })
            .collect()
    }

    /// Whether a signature was not checked because the budget was spent.
    pub(crate) fn is_spent(&self) -> bool {
        self.state().spent
    }

    /// Returns the number of signatures that were checked.
    pub(crate) fn count(&self) -> usize {
        self.state().known.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes one check of `bytes` bytes from the budget.
    fn take(&mut self, bytes: usize) -> Option<()> {
        if self.left.failures == 0 {
            return None;
        }
        let checks = self.left.checks.checked_sub(1)?;
        let bytes = self.left.bytes.checked_sub(bytes)?;
        (self.left.checks, self.left.bytes) = (checks, bytes);
        Some(())
    }
}

/// A signature algorithm of the provider that charges each check to the budget.
pub(crate) struct BoundedAlgorithm<'a> {
    position: usize,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    checks: &'a SignatureChecks,
}

impl fmt::Debug for BoundedAlgorithm<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.algorithm.fmt(formatter)
    }
}

impl SignatureVerificationAlgorithm for BoundedAlgorithm<'_> {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }

    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let check = Check {
            algorithm: self.position,
            key: public_key.into(),
            message: message.into(),
            signature: signature.into(),
        };
        let mut state = self.checks.state();
        let holds = match state.known.get(&check) {
            Some(holds) => *holds,
            None => {
                if state.take(message.len()).is_none() {
                    state.spent = true;
                    return Err(InvalidSignature);
                }
                let checked = self
                    .algorithm
                    .verify_signature(public_key, message, signature);
                state.left.failures -= usize::from(checked.is_err());
                state.known.insert(check, checked.is_ok());
                checked.is_ok()
            }
        };
        if holds { Ok(()) } else { Err(InvalidSignature) }
    }
}
