//! `SignatureChecks`: checks each signature of one verification only once, within a budget.
//!
//! Signature checks are the main cost of a verification. Any peer can present a chain, so its chain
//! must not decide how many signatures are checked. The search and webpki both use
//! [`SignatureChecks::algorithms`]. So webpki does not repeat a check that the search has made.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use crate::crypto;

/// Limits for the signature checks of one verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignatureBudget {
    /// Maximum number of signature checks.
    pub(crate) checks: usize,
    /// Maximum number of signature checks with the result "invalid".
    pub(crate) failures: usize,
    /// Maximum total number of bytes in the signed messages, because each message must be hashed.
    pub(crate) bytes: usize,
}

/// Maximum number of bundles, besides the first, that make the budget larger.
const MAX_FURTHER_BUNDLES: usize = 16;

impl SignatureBudget {
    /// The budget for a chain that a peer presents, if there is one bundle. Configured issuers and
    /// issuers with a matching key identifier are tried first. So a chain that follows RFC 5280
    /// causes no check with the result "invalid". The longest possible path needs seven checks.
    pub(crate) const PRESENTED: Self = Self {
        checks: 10,
        failures: 4,
        bytes: 64 * 1024,
    };

    /// Returns the budget for a chain that a peer presents. `bundles` is the number of bundles that
    /// are tried. Roots of different bundles can have the same name. So each bundle that is tried
    /// before the right one can cause one or two checks with the result "invalid".
    pub(crate) fn presented(bundles: usize) -> Self {
        let more = 2 * bundles.saturating_sub(1).min(MAX_FURTHER_BUNDLES);
        Self {
            checks: Self::PRESENTED.checks + more,
            failures: Self::PRESENTED.failures + more,
            bytes: Self::PRESENTED.bytes + more * 4 * 1024,
        }
    }

    /// The budget for commands, where only an operator waits for the result.
    pub(crate) const OFFLINE: Self = Self {
        checks: 4096,
        failures: 4096,
        bytes: usize::MAX,
    };
}

/// The results of the signature checks of one verification, and the remaining budget.
#[derive(Debug)]
pub(crate) struct SignatureChecks(Mutex<State>);

#[derive(Debug)]
struct State {
    known: HashMap<Check, bool>,
    left: SignatureBudget,
    spent: bool,
}

/// Identifies a signature check by algorithm, key, message and signature, on which its result
/// depends.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Check {
    /// The position of the signature algorithm in the list of the cryptography provider.
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

    /// Returns the signature algorithms of the cryptography provider. Each new check with one of
    /// these algorithms uses up a part of the budget. When the budget is used up, they report each
    /// signature that was not checked before as invalid.
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

    /// Whether a signature was not checked because the budget was used up.
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
    /// Subtracts one check of a message with `bytes` bytes from the budget. Returns `None` if the
    /// budget does not suffice.
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

/// A signature algorithm of the cryptography provider. Each new check with it uses up a part of the
/// budget in `checks`.
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
