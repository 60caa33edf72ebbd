//! `DenyList`: identities and certificates that are refused at once, whatever
//! their issuer says.
//!
//! The fast path beside revocation lists: an entry counts from the moment it is
//! on disk. Consulted after a path holds, and again for cached paths whenever the
//! list's epoch has moved. It knows nothing of who may change it: the admin
//! interface decides that.

mod file;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::path::PathMember;
use crate::crypto;
use crate::identity::PeerIdentity;
use crate::identity::caller::CallerName;
use crate::identity::leaf::significant;
use crate::identity::text::hex;

/// Most entries; beyond, a revocation list is the better place.
pub const MAX_ENTRIES: usize = 100_000;
/// Longest text of a target or a reason.
const MAX_TEXT: usize = 2048;

/// What an entry refuses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum DenyTarget {
    /// One certificate, leaf or intermediate, by serial number and issuer.
    Serial {
        /// Serial number in hexadecimal.
        serial: String,
        /// The issuer in the form of RFC 4514, as in the audit log.
        issuer: String,
    },
    /// One certificate by the SHA-256 of its encoding, in hexadecimal.
    Thumbprint {
        /// The hash.
        thumbprint: String,
    },
    /// Every certificate of one caller.
    Identity {
        /// The name as an assertion's `sub` has it.
        identity: String,
    },
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyEntry {
    /// Names the entry for its removal.
    pub id: String,
    /// What it refuses.
    pub target: DenyTarget,
    /// Why, in the operator's words.
    pub reason: String,
    /// When it was added, in seconds since the Unix epoch.
    pub added_at: i64,
    /// When it ends, in seconds since the Unix epoch; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// Why the deny list cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DenyListError {
    /// The file cannot be read or written.
    #[error("deny list {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// The file holds something else.
    #[error("deny list {}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The entry means nothing.
    #[error("{0}")]
    Entry(String),
    /// The list is full.
    #[error("the deny list has {MAX_ENTRIES} entries; revoke certificates by a revocation list")]
    Full,
}

impl DenyListError {
    /// Whether the one who asked is at fault, not the machine.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Entry(_) | Self::Full)
    }
}

/// The entries with their look-ups.
#[derive(Debug, Default)]
struct Index {
    entries: Vec<Arc<DenyEntry>>,
    by_target: HashMap<DenyTarget, Arc<DenyEntry>>,
    epoch: u64,
}

impl Index {
    fn of(entries: Vec<Arc<DenyEntry>>, epoch: u64) -> Self {
        let by_target = entries
            .iter()
            .map(|entry| (entry.target.clone(), Arc::clone(entry)))
            .collect();
        Self {
            entries,
            by_target,
            epoch,
        }
    }

    fn find(&self, target: &DenyTarget, now: i64) -> Option<&DenyEntry> {
        self.by_target
            .get(target)
            .map(Arc::as_ref)
            .filter(|entry| entry.counts_at(now))
    }
}

impl DenyEntry {
    fn counts_at(&self, now: i64) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// The deny list, in a file and in memory.
pub struct DenyList {
    path: PathBuf,
    index: ArcSwap<Index>,
    /// Held while the file is written: changes happen one after the other.
    changing: Mutex<()>,
    epoch: watch::Sender<u64>,
}

impl DenyList {
    /// Reads the list; where there is no file yet, makes an empty one.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn open(path: PathBuf) -> Result<Self, DenyListError> {
        let entries = match file::read(&path)? {
            Some(entries) => entries,
            None => {
                file::write(&path, &[])?;
                Vec::new()
            }
        };
        let mut kept = Vec::with_capacity(entries.len());
        for mut entry in entries {
            entry.target = entry
                .target
                .normal()
                .map_err(|why| DenyListError::Malformed {
                    path: path.clone(),
                    why: format!("entry {}: {why}", entry.id),
                })?;
            kept.push(Arc::new(entry));
        }
        Ok(Self {
            path,
            index: ArcSwap::from_pointee(Index::of(kept, 1)),
            changing: Mutex::new(()),
            epoch: watch::Sender::new(1),
        })
    }

    /// Adds an entry, in place of one with the same target. When this returns,
    /// the entry is on disk and counts.
    ///
    /// # Errors
    /// When the target means nothing, the list is full, or the file cannot be
    /// written: then nothing has changed.
    pub fn add(
        &self,
        target: DenyTarget,
        reason: &str,
        expires_at: Option<i64>,
        now: i64,
    ) -> Result<Arc<DenyEntry>, DenyListError> {
        let target = target.normal().map_err(DenyListError::Entry)?;
        if reason.len() > MAX_TEXT {
            return Err(DenyListError::Entry(format!(
                "a reason has at most {MAX_TEXT} bytes"
            )));
        }
        if expires_at.is_some_and(|end| end <= now) {
            return Err(DenyListError::Entry(
                "the entry would be over already".into(),
            ));
        }
        let id = crypto::random::<8>().map_err(|error| DenyListError::Entry(error.to_string()))?;
        let entry = Arc::new(DenyEntry {
            id: hex(&id),
            target,
            reason: reason.to_owned(),
            added_at: now,
            expires_at,
        });
        let added = Arc::clone(&entry);
        self.change(move |entries| {
            // Over entries go when the file is written anyway.
            entries.retain(|other| other.target != entry.target && other.counts_at(now));
            if entries.len() >= MAX_ENTRIES {
                return Err(DenyListError::Full);
            }
            entries.push(entry);
            Ok(true)
        })?;
        Ok(added)
    }

    /// Removes an entry by its id; says whether there was one.
    ///
    /// # Errors
    /// When the file cannot be written: then nothing has changed.
    pub fn remove(&self, id: &str) -> Result<bool, DenyListError> {
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|entry| entry.id != id);
            Ok(entries.len() < before)
        })
    }

    /// The entries that count at `now`, oldest first.
    #[must_use]
    pub fn list(&self, now: i64) -> Vec<Arc<DenyEntry>> {
        let index = self.index.load();
        let counting = index.entries.iter().filter(|entry| entry.counts_at(now));
        counting.cloned().collect()
    }

    /// Moves with every change. Subscribe before verifying, compare afterwards.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// The epoch of what is consulted now.
    pub(super) fn epoch(&self) -> u64 {
        self.index.load().epoch
    }

    /// The operator's reason why this caller is refused, if it is.
    pub(super) fn denies(
        &self,
        identity: &PeerIdentity,
        members: &[PathMember],
        now: i64,
    ) -> Option<String> {
        let index = self.index.load();
        if index.entries.is_empty() {
            return None;
        }
        let named = DenyTarget::Identity {
            identity: identity.caller().to_string(),
        };
        if let Some(entry) = index.find(&named, now) {
            return Some(entry.reason.clone());
        }
        members.iter().find_map(|member| {
            let thumbprint = DenyTarget::Thumbprint {
                thumbprint: hex(&member.thumbprint),
            };
            let serial = DenyTarget::Serial {
                serial: hex(&member.serial),
                issuer: member.issuer_text.to_string(),
            };
            let found = index.find(&thumbprint, now);
            let entry = found.or_else(|| index.find(&serial, now))?;
            Some(entry.reason.clone())
        })
    }

    fn change(
        &self,
        edit: impl FnOnce(&mut Vec<Arc<DenyEntry>>) -> Result<bool, DenyListError>,
    ) -> Result<bool, DenyListError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.index.load_full();
        let mut entries = current.entries.clone();
        if !edit(&mut entries)? {
            return Ok(false);
        }
        file::write(&self.path, &entries)?;
        let epoch = current.epoch + 1;
        self.index.store(Arc::new(Index::of(entries, epoch)));
        // Told last: whoever wakes finds the new entries.
        self.epoch.send_replace(epoch);
        Ok(true)
    }
}

impl fmt::Debug for DenyList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DenyList")
            .field("path", &self.path)
            .field("entries", &self.index.load().entries.len())
            .finish_non_exhaustive()
    }
}

impl DenyTarget {
    /// The one spelling that look-ups use.
    fn normal(self) -> Result<Self, String> {
        match self {
            Self::Serial { serial, issuer } => {
                if issuer.is_empty() || issuer.len() > MAX_TEXT {
                    return Err("a serial number needs its issuer (RFC 4514)".to_owned());
                }
                let octets = unhex(&serial)
                    .filter(|octets| !octets.is_empty() && octets.len() <= 64)
                    .ok_or("a serial number is hexadecimal")?;
                Ok(Self::Serial {
                    serial: hex(significant(&octets)),
                    issuer,
                })
            }
            Self::Thumbprint { thumbprint } => {
                let octets = unhex(&thumbprint)
                    .filter(|octets| octets.len() == 32)
                    .ok_or("a thumbprint is a SHA-256 hash, 64 hexadecimal digits")?;
                Ok(Self::Thumbprint {
                    thumbprint: hex(&octets),
                })
            }
            Self::Identity { identity } => Ok(Self::Identity {
                identity: caller(&identity)?.to_string(),
            }),
        }
    }
}

/// Reads a caller's printed form.
fn caller(text: &str) -> Result<CallerName, String> {
    let name = if let Some(name) = text.strip_prefix("dns:") {
        CallerName::from_dns(name)
    } else if let Some(address) = text.strip_prefix("mailto:") {
        CallerName::from_email(address)
    } else if let Some(address) = text.strip_prefix("ip:") {
        return address
            .parse()
            .map(CallerName::Ip)
            .map_err(|_| "after ip: comes an address".to_owned());
    } else {
        CallerName::from_uri(text)
    };
    name.map_err(|error| error.to_string())
}

/// Octets of hexadecimal digits, with or without colons; an odd first digit
/// stands alone.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<Vec<u8>>>()?;
    let digits = if digits.len() % 2 == 1 {
        [&[0], digits.as_slice()].concat()
    } else {
        digits
    };
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair.iter().fold(0, |octet, digit| octet << 4 | digit))
            .collect(),
    )
}

#[cfg(test)]
mod tests;
