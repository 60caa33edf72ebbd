//! The state of an authority (`pki.toml`): its trust domain, its latest CRL numbers, and its
//! revoked certificates.
//!
//! `pki.toml` is small and is always replaced as a whole. Signed certificates are in
//! [`super::inventory`]. This file also reads `issued.jsonl`, in which old versions of this program
//! recorded signed certificates.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::identity::TrustDomain;
use crate::signing::revoked::RevokedCertificate;
use crate::signing::signatory::{AuthorityName, Generation, Signatory};
use crate::store::{self, StoreError};

/// The newest format version that this program knows. A file with a newer version is refused. Only
/// authorities that were rotated have version 2, only authorities without intermediate have
/// version 3, and only authorities whose intermediate was replaced below the same root have
/// version 4. All others have version 1, so that old versions of this program can read them.
const VERSION: u32 = 4;
const WITH_GENERATIONS: u32 = 2;
const ROOT_ONLY: u32 = 3;
const KEPT_ROOT: u32 = 4;

const HEADER: &str = "# State of a certificate authority, kept by `countersign pki`.\n\
    # List numbers must never go back, so restore this file from a backup with care.\n\n";

/// The reason why `pki.toml` or `issued.jsonl` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `pki.toml` or `issued.jsonl` cannot be parsed.
    #[error("{} is damaged: {why}", .path.display())]
    Damaged {
        /// The path of the file.
        path: PathBuf,
        /// The reason why the file cannot be parsed.
        why: String,
    },
    /// A newer version of this program has written `pki.toml`.
    #[error("{} has format version {found}; this program knows {VERSION} and older", .path.display())]
    Newer {
        /// The path of the file.
        path: PathBuf,
        /// The format version of the file.
        found: u32,
    },
}

/// The generation before the current one. It is still trusted, because a rotation is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EarlierState {
    pub(crate) generation: Generation,
    pub(crate) crl_number: CrlNumbers,
}

/// The content of `pki.toml`, which describes the state of an authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    #[serde(with = "trust_domain_text")]
    pub(crate) trust_domain: TrustDomain,
    /// Whether the root signs leaves itself, because there is no intermediate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) root_only: bool,
    #[serde(default, skip_serializing_if = "Generation::is_first")]
    pub(crate) generation: Generation,
    /// Whether an old version of this program has left a rotation incomplete. See
    /// `files::unsettled`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unsettled: bool,
    pub(crate) crl_number: CrlNumbers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) earlier: Option<EarlierState>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) revoked: Vec<RevokedCertificate>,
}

/// The latest CRL number (RFC 5280 section 5.2.3) of the root and of the intermediate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CrlNumbers {
    root: u64,
    /// Zero if there is no intermediate, or if it has signed no list.
    intermediate: u64,
}

impl CrlNumbers {
    /// Increments the CRL number of an authority. Returns the new CRL number.
    pub(crate) const fn take_next(&mut self, authority: AuthorityName) -> u64 {
        let number = match authority {
            AuthorityName::Root => &mut self.root,
            AuthorityName::Intermediate => &mut self.intermediate,
        };
        *number = number.saturating_add(1);
        *number
    }

    const fn last(&self, authority: AuthorityName) -> u64 {
        match authority {
            AuthorityName::Root => self.root,
            AuthorityName::Intermediate => self.intermediate,
        }
    }

    /// Sets the state so that the next list of an authority gets the CRL number `number`.
    ///
    /// # Errors
    /// If `number` is lower than the next CRL number, or too high. The error is the lowest number
    /// that is allowed.
    fn set_next(&mut self, authority: AuthorityName, number: u64) -> Result<(), u64> {
        let last = match authority {
            AuthorityName::Root => &mut self.root,
            AuthorityName::Intermediate => &mut self.intermediate,
        };
        let next = last.saturating_add(1);
        if number < next || i64::try_from(number).is_err() {
            return Err(next);
        }
        *last = number.saturating_sub(1);
        Ok(())
    }
}

impl State {
    pub(crate) fn new(trust_domain: TrustDomain, root_only: bool) -> Self {
        Self {
            version: if root_only { ROOT_ONLY } else { 1 },
            trust_domain,
            root_only,
            generation: Generation::FIRST,
            unsettled: false,
            crl_number: CrlNumbers::default(),
            earlier: None,
            revoked: Vec::new(),
        }
    }

    pub(crate) fn is_revoked(&self, issuer: Signatory, serial: &str) -> bool {
        self.revoked
            .iter()
            .any(|entry| entry.is_of(issuer) && entry.serial == serial)
    }

    /// Returns the revocations of certificates that an authority has signed.
    pub(crate) fn revoked_by(&self, signatory: Signatory) -> Vec<&RevokedCertificate> {
        self.revoked
            .iter()
            .filter(|entry| entry.is_of(signatory))
            .collect()
    }

    /// Increments the CRL number of an authority. Returns the new CRL number, or 0 if the authority
    /// belongs neither to the current nor to the earlier generation.
    pub(crate) fn take_number(&mut self, signatory: Signatory) -> u64 {
        if signatory.generation == self.generation {
            return self.crl_number.take_next(signatory.name);
        }
        match &mut self.earlier {
            Some(earlier) if earlier.generation == signatory.generation => {
                earlier.crl_number.take_next(signatory.name)
            }
            _ => 0,
        }
    }

    /// Returns the CRL number of the last list of an authority, or 0 if the authority belongs neither
    /// to the current nor to the earlier generation.
    pub(crate) fn last_number(&self, signatory: Signatory) -> u64 {
        if signatory.generation == self.generation {
            return self.crl_number.last(signatory.name);
        }
        match &self.earlier {
            Some(earlier) if earlier.generation == signatory.generation => {
                earlier.crl_number.last(signatory.name)
            }
            _ => 0,
        }
    }

    /// Records that an authority has signed a list with this CRL number elsewhere. A lower number
    /// changes nothing.
    pub(crate) fn note_number(&mut self, signatory: Signatory, number: u64) {
        // An error means that the number is not higher.
        let _ = self.set_next_number(signatory, number.saturating_add(1));
    }

    /// Returns the authority with this name of the current generation.
    pub(crate) const fn current(&self, name: AuthorityName) -> Signatory {
        Signatory {
            name,
            generation: self.generation,
        }
    }

    /// Sets the state so that the next list of an authority gets the CRL number `number`. Changes
    /// nothing if the authority belongs neither to the current nor to the earlier generation.
    ///
    /// # Errors
    /// If `number` is lower than the next CRL number, or too high. The error is the lowest number
    /// that is allowed.
    pub(crate) fn set_next_number(&mut self, signatory: Signatory, number: u64) -> Result<(), u64> {
        if signatory.generation == self.generation {
            return self.crl_number.set_next(signatory.name, number);
        }
        match &mut self.earlier {
            Some(earlier) if earlier.generation == signatory.generation => {
                earlier.crl_number.set_next(signatory.name, number)
            }
            _ => Ok(()),
        }
    }

    /// Makes the current generation the earlier one. If the new generation keeps the root, moves
    /// the revocations of that root to the new generation. The root then continues its revocation
    /// list.
    pub(crate) fn rotate(&mut self, keeps_root: bool) {
        let mut crl_number = CrlNumbers::default();
        let next = self.generation.next();
        if keeps_root {
            crl_number.root = self.crl_number.root;
            for entry in &mut self.revoked {
                if entry.issuer == AuthorityName::Root && entry.generation == self.generation {
                    entry.generation = next;
                }
            }
            self.version = self.version.max(KEPT_ROOT);
        }
        self.earlier = Some(EarlierState {
            generation: self.generation,
            crl_number: self.crl_number,
        });
        self.version = self.version.max(WITH_GENERATIONS);
        self.generation = next;
        self.crl_number = crl_number;
    }

    /// Ends a rotation: removes the earlier generation, and the revocations of its certificates.
    pub(crate) fn retire(&mut self) {
        if let Some(earlier) = self.earlier.take() {
            self.revoked
                .retain(|entry| entry.generation != earlier.generation);
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self, StateError> {
        Self::parse(path, &store::read(path)?)
    }

    /// Parses the content of `pki.toml`. `path` is used only in error messages.
    fn parse(path: &Path, content: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |why: String| StateError::Damaged {
            path: path.to_owned(),
            why,
        };
        let text = str::from_utf8(content).map_err(|error| damaged(error.to_string()))?;
        // First tries to parse the whole file. If this fails, parses only the version, because a
        // newer version is a different error. The version is not parsed first, because parsing
        // twice is slow with 100,000 revocations.
        let (found, read) = match toml::from_str::<Self>(text) {
            Ok(state) => (state.version, Ok(state)),
            Err(error) => {
                let Version { version } =
                    toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
                (version, Err(damaged(error.message().to_owned())))
            }
        };
        if found > VERSION {
            return Err(StateError::Newer {
                path: path.to_owned(),
                found,
            });
        }
        read
    }

    /// Returns the text of `pki.toml` for this state. `path` is used only in error messages.
    pub(crate) fn to_file(&self, path: &Path) -> Result<Vec<u8>, StateError> {
        let text = toml::to_string(self).map_err(|error| StateError::Damaged {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        Ok(format!("{HEADER}{text}").into_bytes())
    }
}

/// The bytes of `pki.toml` that were read last, and the state in them. The same bytes are not
/// parsed again, because parsing many revocations is slow.
#[derive(Debug, Default)]
pub(crate) struct StateCache(Mutex<Option<(Vec<u8>, State)>>);

impl StateCache {
    /// Reads `pki.toml`. If its bytes are the same as at the last call, returns the cached state.
    pub(crate) fn read(&self, path: &Path) -> Result<State, StateError> {
        let content = store::read(path)?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((seen, state)) if *seen == content => Ok(state.clone()),
            _ => {
                let state = State::parse(path, &content)?;
                *known = Some((content, state.clone()));
                Ok(state)
            }
        }
    }

    /// Stores the state that was just written to `pki.toml`, with the bytes of the file.
    pub(crate) fn remember(&self, content: Vec<u8>, state: &State) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((content, state.clone()));
    }
}

mod trust_domain_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::identity::TrustDomain;

    pub(crate) fn serialize<S: Serializer>(
        domain: &TrustDomain,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(domain.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TrustDomain, D::Error> {
        let name = String::deserialize(deserializer)?;
        TrustDomain::parse(&name).map_err(serde::de::Error::custom)
    }
}

/// One line of `issued.jsonl`, which records a signed certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedRecord {
    /// The serial number in lower-case hexadecimal.
    pub serial: String,
    /// The subject key identifier of the authority that signed the certificate, in hexadecimal.
    pub issuer_key: String,
    /// The profile under which the certificate was issued.
    pub profile: String,
    /// The names in printed form, for example `dns:a`.
    pub names: Vec<String>,
    /// notBefore in seconds since the Unix epoch.
    pub not_before: i64,
    /// notAfter in seconds since the Unix epoch.
    pub not_after: i64,
    /// The SHA-256 hash of the certificate in base64url.
    #[serde(rename = "x5t#S256")]
    pub thumbprint: String,
    /// The path of the certificate file.
    pub certificate: PathBuf,
}

/// Reads all records of `issued.jsonl`. Skips a line that is truncated. It was truncated by a
/// crash, and its certificate was never written.
pub(crate) fn read_issued(path: &Path) -> Result<Vec<IssuedRecord>, StateError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let content = store::read(path)?;
    Ok(content
        .split(|octet| *octet == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::revoked::RevocationReason;
    use crate::store::{Audience, Existing};

    impl State {
        fn write(&self, path: &Path) -> Result<(), StateError> {
            let content = self.to_file(path)?;
            Ok(store::write(
                path,
                &content,
                Audience::Public,
                Existing::Replace,
            )?)
        }
    }

    #[test]
    fn state_survives_a_round_trip() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki.toml");
        let mut state = State::new(TrustDomain::parse("example.org").unwrap(), false);
        assert_eq!(state.crl_number.take_next(AuthorityName::Root), 1);
        assert_eq!(state.crl_number.take_next(AuthorityName::Root), 2);
        assert_eq!(state.crl_number.take_next(AuthorityName::Intermediate), 1);
        state.revoked.push(RevokedCertificate {
            issuer: AuthorityName::Intermediate,
            generation: Generation::FIRST,
            serial: "0badc0de".to_owned(),
            time: 1_770_000_000,
            reason: RevocationReason::KeyCompromise,
        });
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
    }

    #[test]
    fn only_a_rotated_authority_needs_the_newer_format() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki.toml");
        let mut state = State::new(TrustDomain::parse("example.org").unwrap(), false);
        state.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("version = 1") && !text.contains("generation"));
        state.rotate(false);
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("version = 2") && text.contains("generation = 2"));
        let earlier = Signatory {
            name: AuthorityName::Root,
            generation: Generation::FIRST,
        };
        assert_eq!(state.take_number(earlier), 1);
        state.retire();
        assert_eq!(state.take_number(earlier), 0);
    }

    #[test]
    fn a_cache_sees_what_others_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki.toml");
        let mut state = State::new(TrustDomain::parse("example.org").unwrap(), true);
        let (cache, other) = (StateCache::default(), StateCache::default());
        state.write(&path).unwrap();
        cache.remember(state.to_file(&path).unwrap(), &state);
        assert_eq!(cache.read(&path).unwrap(), state);
        assert_eq!(other.read(&path).unwrap(), state);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("version = 3") && text.contains("root_only = true"));
        state.crl_number.take_next(AuthorityName::Root);
        state.write(&path).unwrap();
        assert_eq!(cache.read(&path).unwrap(), state);
        assert_eq!(other.read(&path).unwrap(), state);
    }

    #[test]
    fn damaged_and_newer_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki.toml");
        for (content, newer) in [
            ("", false),
            ("version = 1", false),
            (
                "version = 1\ntrust_domain = \"A\"\n[crl_number]\nroot=1\nintermediate=1",
                false,
            ),
            (
                "version = 1\ntrust_domain = \"a\"\nx = 1\n[crl_number]\nroot=1\nintermediate=1",
                false,
            ),
            ("version = 5\nanything = 1", true),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = State::read(&path).unwrap_err();
            assert_eq!(
                matches!(error, StateError::Newer { .. }),
                newer,
                "{content}"
            );
        }
    }

    #[test]
    fn a_line_cut_short_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("issued.jsonl");
        let record = |serial: &str| IssuedRecord {
            serial: serial.to_owned(),
            issuer_key: "00".to_owned(),
            profile: "peer".to_owned(),
            names: vec!["dns:a".to_owned()],
            not_before: 0,
            not_after: 1,
            thumbprint: "00".to_owned(),
            certificate: PathBuf::from("a.pem"),
        };
        assert!(read_issued(&path).unwrap().is_empty());
        let line = |serial: &str| serde_json::to_string(&record(serial)).unwrap();
        let content = format!(
            "{}\n{{\"serial\":\"02\",\"iss\n{}\n",
            line("01"),
            line("03")
        );
        std::fs::write(&path, content).unwrap();
        assert_eq!(read_issued(&path).unwrap(), [record("01"), record("03")]);
    }
}
