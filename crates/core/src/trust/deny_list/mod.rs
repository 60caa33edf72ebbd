//! `DenyList`: callers and certificates that the gateway refuses immediately, even if the issuer
//! has not revoked them.
//!
//! A deny list entry is in force as soon as it is in memory, so the deny list is faster than a
//! revocation list. The deny list is checked after a path was accepted. If the list has changed
//! (see [`DenyList::epoch`]), cached paths are checked again. The admin interface decides which
//! operators may change the list.
//!
//! - `file`: reads and writes the file
//! - `entry`: one entry, and the errors of the list
//! - `target`: the certificates or callers that an entry refuses

mod entry;
mod file;
mod target;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::certificate::member::PathMember;
use crate::crypto;
use crate::file_stamp::FileStamp;
use crate::identity::text::hex;
use crate::identity::{CallerName, PeerIdentity};

pub use entry::{DenyEntry, DenyListError};
pub use target::DenyTarget;

use entry::MAX_ENTRIES;
use target::MAX_TEXT;

/// The deny list entries in memory, also indexed by the certificate or caller that they refuse.
#[derive(Debug, Default)]
struct Index {
    entries: Vec<Arc<DenyEntry>>,
    by_target: HashMap<DenyTarget, Arc<DenyEntry>>,
}

impl Index {
    /// Indexes `entries` by their targets. If several entries have the same target, the entry that
    /// ends last is used.
    fn of(entries: Vec<Arc<DenyEntry>>) -> Self {
        let mut by_target: HashMap<DenyTarget, Arc<DenyEntry>> =
            HashMap::with_capacity(entries.len());
        for entry in &entries {
            let kept = by_target
                .entry(entry.target.clone())
                .or_insert_with(|| Arc::clone(entry));
            if kept.end() < entry.end() {
                *kept = Arc::clone(entry);
            }
        }
        Self { entries, by_target }
    }

    fn find(&self, target: &DenyTarget, now: i64) -> Option<&DenyEntry> {
        self.by_target
            .get(target)
            .map(Arc::as_ref)
            .filter(|entry| entry.counts_at(now))
    }
}

/// The deny list, in memory and in a file.
///
/// Functions that read or write the file can block if the file system is slow. Functions that look
/// up entries never block.
pub struct DenyList {
    path: PathBuf,
    index: ArcSwap<Index>,
    /// The stamp of the file when its content was last read or written ([`FileStamp`]). A thread
    /// holds the lock of this field while it reads or writes the file, so only one thread accesses
    /// the file at a time.
    seen: Mutex<Option<FileStamp>>,
    /// Whether the file existed when it was last read or written.
    has_file: AtomicBool,
    /// Whether the file is missing or damaged, so that the entries in force are only in memory.
    is_damaged: AtomicBool,
    /// Entries that are in force but not yet in the file. A thread holds the lock of this field
    /// while it replaces `index`, but not while it reads or writes the file.
    unsaved: Mutex<Vec<Arc<DenyEntry>>>,
    epoch: AtomicU64,
    changes: watch::Sender<u64>,
}

/// Returns a number that this process has not used before. Each state of each deny list has such a
/// number, so the cached result of one state is never used for another state.
fn next_epoch() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl DenyList {
    /// Reads the deny list from the file `path`. If the file does not exist, the list is empty.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a deny list.
    pub fn open(path: PathBuf) -> Result<Self, DenyListError> {
        let seen = FileStamp::at(&path);
        let entries = read(&path)?.unwrap_or_default();
        let epoch = next_epoch();
        Ok(Self {
            path,
            index: ArcSwap::from_pointee(Index::of(entries)),
            has_file: AtomicBool::new(seen.is_some()),
            is_damaged: AtomicBool::new(false),
            seen: Mutex::new(seen),
            unsaved: Mutex::default(),
            epoch: AtomicU64::new(epoch),
            changes: watch::Sender::new(epoch),
        })
    }

    /// Creates the file if it did not exist when the list was opened. [`Self::refresh`] can then
    /// detect that the file was deleted. Returns whether the file was created.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create_if_missing(&self) -> Result<bool, DenyListError> {
        let mut seen = self.seen();
        if seen.is_some() {
            return Ok(false);
        }
        file::write(&self.path, &self.index.load().entries)?;
        self.set_seen(&mut seen, FileStamp::at(&self.path));
        Ok(true)
    }

    fn set_seen(&self, seen: &mut Option<FileStamp>, stamp: Option<FileStamp>) {
        self.has_file.store(stamp.is_some(), Ordering::Release);
        *seen = stamp;
    }

    /// Puts entries into force that other processes have written to the file. If some entries could
    /// not be written before, writes them. Returns whether the entries in force may have changed.
    ///
    /// # Errors
    /// - If the file is missing or damaged. Later calls do not report this again until the file has
    ///   changed.
    /// - If the file cannot be read or written. Every call reports this.
    ///
    /// After an error, the entries in force stay the same.
    pub fn refresh(&self) -> Result<bool, DenyListError> {
        if self.unsaved().is_empty() {
            return self.take_over(&mut self.seen(), read);
        }
        // Some entries are not in the file yet. `change` reads the file and writes all entries.
        self.change(|_| Ok(true)).map(|_| true)
    }

    fn take_over(
        &self,
        seen: &mut Option<FileStamp>,
        read: ReadEntries,
    ) -> Result<bool, DenyListError> {
        let now = FileStamp::at(&self.path);
        if now == *seen {
            return Ok(false);
        }
        match read(&self.path) {
            Ok(Some(entries)) => {
                self.is_damaged.store(false, Ordering::Release);
                self.set_seen(seen, now);
                self.replace(&self.unsaved(), entries);
                Ok(true)
            }
            Ok(None) => {
                self.is_damaged.store(true, Ordering::Release);
                self.set_seen(seen, None);
                Err(DenyListError::File {
                    path: self.path.clone(),
                    error: io::ErrorKind::NotFound.into(),
                })
            }
            Err(error) => {
                // The stamp of a damaged file is stored, so its error is reported only once. After
                // an error of the operating system, no stamp is stored, and the next call reads the
                // file again.
                if matches!(error, DenyListError::Malformed { .. }) {
                    self.is_damaged.store(true, Ordering::Release);
                    self.set_seen(seen, now);
                }
                Err(error)
            }
        }
    }

    /// Whether the file existed when it was last read or written.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.has_file.load(Ordering::Acquire)
    }

    /// Whether the file is missing or damaged, so that the entries in force are only in memory.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Acquire)
    }

    /// Returns the number of entries that are in force but not yet in the file.
    #[must_use]
    pub fn unsaved_count(&self) -> usize {
        self.unsaved().len()
    }

    fn unsaved(&self) -> MutexGuard<'_, Vec<Arc<DenyEntry>>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Option<FileStamp>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the path of the list's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an entry. Replaces an entry with the same target. When this function returns `Ok`, the
    /// entry is in force and on disk.
    ///
    /// # Errors
    /// Returns the same errors as [`DenyList::put_in_force`] and [`DenyList::save`].
    pub fn add(
        &self,
        target: DenyTarget,
        reason: &str,
        expires_at: Option<i64>,
        now: i64,
    ) -> Result<Arc<DenyEntry>, DenyListError> {
        let entry = self.put_in_force(target, reason, expires_at, now)?;
        self.save(&entry, now)?;
        Ok(entry)
    }

    /// Adds an entry in memory only, so a slow disk never delays a denial. Replaces an entry with
    /// the same target. When this function returns, the entry is in force. Call [`DenyList::save`]
    /// afterwards.
    ///
    /// # Errors
    /// If the entry is not valid or the list is full. The list is not changed then.
    pub fn put_in_force(
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
        {
            let mut unsaved = self.unsaved();
            let index = self.index.load_full();
            if self.count(now) >= MAX_ENTRIES {
                return Err(DenyListError::Full);
            }
            unsaved.retain(|other| other.target != entry.target);
            unsaved.push(Arc::clone(&entry));
            self.replace(&unsaved, index.entries.clone());
        }
        Ok(entry)
    }

    /// Writes all entries to the file, including `entry`, which [`DenyList::put_in_force`]
    /// returned.
    ///
    /// # Errors
    /// [`DenyListError::NotSaved`] if the file cannot be read or written. The entry stays in force,
    /// and [`DenyList::refresh`] tries to write it again.
    pub fn save(&self, entry: &DenyEntry, now: i64) -> Result<(), DenyListError> {
        let written = self.change(|entries| {
            // Entries that have ended are removed when the file is written.
            entries.retain(|other| other.counts_at(now));
            Ok(true)
        });
        written
            .map(|_| ())
            .map_err(|error| DenyListError::NotSaved {
                id: entry.id.clone(),
                error: Box::new(error),
            })
    }

    /// Adds the entries of `other` that are in force but not yet in the file of `other`.
    pub fn take_unsaved_of(&self, other: &Self) {
        let theirs = other.unsaved().clone();
        if theirs.is_empty() {
            return;
        }
        let mut unsaved = self.unsaved();
        for entry in theirs {
            unsaved.retain(|own| own.target != entry.target);
            unsaved.push(entry);
        }
        self.replace(&unsaved, self.index.load().entries.clone());
    }

    /// Removes the entry with the identifier `id`. Returns whether there was such an entry.
    ///
    /// # Errors
    /// If the file cannot be read or written. The entry then stays in force.
    pub fn remove(&self, id: &str) -> Result<bool, DenyListError> {
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|entry| entry.id != id);
            Ok(entries.len() < before)
        })
    }

    /// Returns the entries that are in force at `now`, the oldest first.
    #[must_use]
    pub fn list(&self, now: i64) -> Vec<Arc<DenyEntry>> {
        let index = self.index.load();
        let counting = index.entries.iter().filter(|entry| entry.counts_at(now));
        counting.cloned().collect()
    }

    /// Whether the list has no entries, not even expired ones.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.load().entries.is_empty()
    }

    /// Returns the number of entries that are in force at `now`.
    #[must_use]
    pub fn count(&self, now: i64) -> usize {
        let index = self.index.load();
        let counting = index.entries.iter().filter(|entry| entry.counts_at(now));
        counting.count()
    }

    /// Returns a receiver of the list's epoch. The receiver is notified of every change of the
    /// list. To detect a change during a verification, subscribe before it and compare the value
    /// after it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns the number of the list's current state. Every change gives a new number, and two
    /// lists never have the same number.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Returns the operator's reason if the caller of this name is refused.
    #[must_use]
    pub fn denies_name(&self, name: &CallerName, now: i64) -> Option<String> {
        let index = self.index.load();
        if index.entries.is_empty() {
            return None;
        }
        let named = DenyTarget::Identity {
            identity: name.to_string(),
        };
        index.find(&named, now).map(|entry| entry.reason.clone())
    }

    /// Returns the operator's reason if this caller is refused.
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
        // Only the hash of the root is known here. So an entry can refuse a root only by its
        // thumbprint.
        let root = DenyTarget::Thumbprint {
            thumbprint: hex(identity.anchor()),
        };
        if let Some(entry) = index.find(&named, now).or_else(|| index.find(&root, now)) {
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
        self.change_after(read, edit)
    }

    fn change_after(
        &self,
        read: ReadEntries,
        edit: impl FnOnce(&mut Vec<Arc<DenyEntry>>) -> Result<bool, DenyListError>,
    ) -> Result<bool, DenyListError> {
        let mut seen = self.seen();
        if let Err(error) = self.take_over(&mut seen, read) {
            // If the file exists but cannot be read, it must not be replaced. Otherwise entries
            // that other processes wrote to it would be lost.
            if error.is_unreadable() {
                return Err(error);
            }
            // A missing or damaged file is replaced. The new entry must not wait until an operator
            // repairs the file.
            tracing::error!(%error, "the deny list is written anew from memory");
        }
        let mut entries = self.index.load().entries.clone();
        let known: HashSet<String> = match self.unsaved().is_empty() {
            true => HashSet::new(),
            false => entries.iter().map(|entry| entry.id.clone()).collect(),
        };
        if !edit(&mut entries)? {
            return Ok(false);
        }
        file::write(&self.path, &entries)?;
        self.is_damaged.store(false, Ordering::Release);
        self.set_seen(&mut seen, FileStamp::at(&self.path));
        let mut unsaved = self.unsaved();
        // An entry that another thread added while the file was written is not in the file. It
        // stays in `unsaved`.
        unsaved.retain(|entry| !known.contains(&entry.id));
        self.replace(&unsaved, entries);
        Ok(true)
    }

    /// Puts `entries` and `unsaved` into force. If both contain an entry for the same target, uses
    /// the entry in `unsaved`. The caller of this function must hold the lock of `self.unsaved`.
    fn replace(&self, unsaved: &[Arc<DenyEntry>], mut entries: Vec<Arc<DenyEntry>>) {
        for entry in unsaved {
            entries.retain(|other| other.target != entry.target);
            entries.push(Arc::clone(entry));
        }
        let epoch = next_epoch();
        self.index.store(Arc::new(Index::of(entries)));
        self.epoch.store(epoch, Ordering::Release);
        // The notification comes after the new entries, so a notified task always sees them.
        self.changes.send_replace(epoch);
    }
}

/// A function that reads the entries from the file. Tests pass a function that simulates an error.
type ReadEntries = fn(&Path) -> Result<Option<Vec<Arc<DenyEntry>>>, DenyListError>;

/// Reads the entries from the file `path` and normalizes their targets. Returns `None` if the file
/// does not exist.
fn read(path: &Path) -> Result<Option<Vec<Arc<DenyEntry>>>, DenyListError> {
    let Some(entries) = file::read(path)? else {
        return Ok(None);
    };
    let mut kept = Vec::with_capacity(entries.len());
    for mut entry in entries {
        entry.target = entry
            .target
            .normal()
            .map_err(|why| DenyListError::Malformed {
                path: path.to_owned(),
                why: format!("entry {}: {why}", entry.id),
            })?;
        kept.push(Arc::new(entry));
    }
    Ok(Some(kept))
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

#[cfg(test)]
mod tests;
