//! `DenyList`: identities and certificates that are refused at once, even if their issuer has not
//! revoked them.
//!
//! The fast path beside revocation lists: an entry applies as soon as it is in memory. The list is
//! checked after a path is accepted, and again for cached paths whenever its epoch has changed. The
//! admin interface decides which operators may change it.
//!
//! - `file`: the list's file
//! - `entry`: one entry, and why one cannot be read or changed
//! - `target`: the certificates or callers that an entry refuses, in one spelling

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
use crate::identity::PeerIdentity;
use crate::identity::text::hex;

pub use entry::{DenyEntry, DenyListError};
pub use target::DenyTarget;

use entry::MAX_ENTRIES;
use target::MAX_TEXT;

/// The entries with their look-ups.
#[derive(Debug, Default)]
struct Index {
    entries: Vec<Arc<DenyEntry>>,
    by_target: HashMap<DenyTarget, Arc<DenyEntry>>,
}

impl Index {
    /// Builds the index. If a file has more than one entry for a target, the one that ends last is
    /// used.
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

/// The deny list, in a file and in memory.
///
/// Functions that access the file may block as long as the file system does. Functions that look up
/// entries never block.
pub struct DenyList {
    path: PathBuf,
    index: ArcSwap<Index>,
    /// The file's stamp when its content was last known. Locked while the file is read or written,
    /// so that changes are made one at a time.
    seen: Mutex<Option<FileStamp>>,
    /// Whether the file existed at the last check.
    has_file: AtomicBool,
    /// Whether the file no longer contains the entries in force, because it is missing or damaged.
    is_damaged: AtomicBool,
    /// Entries that are in force and not in the file yet. Held while the index is
    /// replaced, and never while the file is read or written.
    unsaved: Mutex<Vec<Arc<DenyEntry>>>,
    epoch: AtomicU64,
    changes: watch::Sender<u64>,
}

/// Returns a number that is unique for each state of each list in this process, so that a result
/// from one list is never used for another one.
fn next_epoch() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl DenyList {
    /// Reads the list; it is empty if there is no file yet.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
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

    /// Creates the file if there is none, so that its later absence shows. Returns
    /// whether it did.
    ///
    /// # Errors
    /// When it cannot be written.
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

    /// Takes over entries that other processes have written into the file, and writes entries that
    /// could not be written before. Returns whether the entries changed.
    ///
    /// # Errors
    /// When the file is gone or holds something else, once for each such state; when
    /// it cannot be read or written, each time: the entries stay as they are.
    pub fn refresh(&self) -> Result<bool, DenyListError> {
        if self.unsaved().is_empty() {
            return self.take_over(&mut self.seen(), read);
        }
        // Entries that are not in the file are written with all others.
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
                // A file that could not be read does not count as seen, so that it is read again.
                if matches!(error, DenyListError::Malformed { .. }) {
                    self.is_damaged.store(true, Ordering::Release);
                    self.set_seen(seen, now);
                }
                Err(error)
            }
        }
    }

    /// Whether the file existed at the last check.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.has_file.load(Ordering::Acquire)
    }

    /// Whether the file no longer contains the entries in force, because it is missing or damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Acquire)
    }

    /// Returns the number of entries that are in force but not on disk.
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

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an entry, in place of one with the same target. When this returns, it counts
    /// and is on disk.
    ///
    /// # Errors
    /// As [`DenyList::put_in_force`] and [`DenyList::save`].
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

    /// Adds an entry in memory alone, in place of one with the same target. It counts when
    /// this returns: no disk delays a denial. [`DenyList::save`] has to follow.
    ///
    /// # Errors
    /// When the target means nothing or the list is full: then nothing has changed.
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
            if index.entries.iter().filter(|e| e.counts_at(now)).count() >= MAX_ENTRIES {
                return Err(DenyListError::Full);
            }
            unsaved.retain(|other| other.target != entry.target);
            unsaved.push(Arc::clone(&entry));
            self.replace(&unsaved, index.entries.clone());
        }
        Ok(entry)
    }

    /// Writes the list with an entry that is in force.
    ///
    /// # Errors
    /// [`DenyListError::NotSaved`] when the file cannot be read or written: the entry
    /// counts all the same, and [`DenyList::refresh`] writes it later.
    pub fn save(&self, entry: &DenyEntry, now: i64) -> Result<(), DenyListError> {
        let written = self.change(|entries| {
            // Expired entries are removed whenever the file is written.
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

    /// Takes entries over that another list has in force and not on disk.
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

    /// Removes an entry by its id; says whether there was one.
    ///
    /// # Errors
    /// When the file cannot be read or written: then nothing has changed.
    pub fn remove(&self, id: &str) -> Result<bool, DenyListError> {
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|entry| entry.id != id);
            Ok(entries.len() < before)
        })
    }

    /// Returns the entries in force at `now`, oldest first.
    #[must_use]
    pub fn list(&self, now: i64) -> Vec<Arc<DenyEntry>> {
        let index = self.index.load();
        let counting = index.entries.iter().filter(|entry| entry.counts_at(now));
        counting.cloned().collect()
    }

    /// Moves with every change. Subscribe before verifying, compare afterwards.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Differs whenever the list does, from every other list's too.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
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
        // A root is no member of the path below it; it is denied by its hash alone.
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
            // Entries that other processes have written to the file must not be overwritten while
            // the file cannot be read.
            if error.is_unreadable() {
                return Err(error);
            }
            // An entry must not wait until the file is repaired.
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
        // Entries that were added meanwhile are not in the file, and stay in this list.
        unsaved.retain(|entry| !known.contains(&entry.id));
        self.replace(&unsaved, entries);
        Ok(true)
    }

    /// Puts `entries` and the unsaved entries into force. If both contain an entry for a target,
    /// the unsaved one is used. `unsaved` must be locked during the call.
    fn replace(&self, unsaved: &[Arc<DenyEntry>], mut entries: Vec<Arc<DenyEntry>>) {
        for entry in unsaved {
            entries.retain(|other| other.target != entry.target);
            entries.push(Arc::clone(entry));
        }
        let epoch = next_epoch();
        self.index.store(Arc::new(Index::of(entries)));
        self.epoch.store(epoch, Ordering::Release);
        // Last, so that tasks that are woken find the new entries.
        self.changes.send_replace(epoch);
    }
}

/// Reads the entries. Replaced in tests of read errors.
type ReadEntries = fn(&Path) -> Result<Option<Vec<Arc<DenyEntry>>>, DenyListError>;

/// Reads the entries of a file; `None` if there is none.
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
