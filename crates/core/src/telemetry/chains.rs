//! Keeps the certificate chains that callers presented, so that a decision can be repeated later.
//! Each new chain is written once, to one of a limited number of files.
//!
//! A file contains a chain in PEM, which the command-line option `--cert` accepts. Lines before the
//! first PEM block contain the server name and the verdict. Admitted and refused chains have
//! separate limits, so that a flood of refused chains evicts only refused chains. One thread writes
//! the files, so that no handshake waits for a disk. If chains arrive faster than they can be
//! written, some are not kept.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;

use crate::clock;
use crate::crypto;
use crate::identity::text::{hex, printable};
use crate::pem;
use crate::secret::{Existing, write_private};

/// Maximum number of kept chains for each verdict.
const MAX_CHAINS: [(Verdict, usize); 2] = [(Verdict::Admitted, 10_000), (Verdict::Refused, 1_000)];
/// Maximum number of chains in the queue to the writer thread.
const WAITING: usize = 256;
/// If a chain is presented again, the time in its file is updated at most once in this number of
/// seconds.
const NOTED_EVERY: u64 = 3600;

/// The result of the handshake in which a chain was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The handshake succeeded.
    Admitted,
    /// The handshake was refused.
    Refused,
}

impl Verdict {
    const fn directory(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Refused => "refused",
        }
    }
}

/// The identifier of a chain in audit lines and file names.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ChainId(Arc<str>);

impl ChainId {
    /// Computes the identifier of a chain from its certificates.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>]) -> Self {
        let mut text = Vec::with_capacity(4096);
        for der in chain {
            text.extend_from_slice(&(der.len() as u64).to_be_bytes());
            text.extend_from_slice(der);
        }
        let hash = crypto::sha256(&text);
        Self(hex(hash.first_chunk::<16>().unwrap_or(&[0; 16])).into())
    }

    /// Returns the identifier as text, as audit lines and file names contain it.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.0
    }

    /// Parses an identifier from an audit line.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        well_formed.then(|| Self(text.to_ascii_lowercase().into()))
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

struct Note {
    id: ChainId,
    verdict: Verdict,
    sni: Option<Arc<str>>,
    chain: Vec<CertificateDer<'static>>,
}

/// Keeps presented chains in files.
pub struct ChainKeeper {
    queue: SyncSender<Note>,
    /// When each chain was last sent to the writer thread, in seconds since the Unix epoch.
    noted: Cache<(ChainId, Verdict), u64>,
}

/// A chain that was kept.
#[derive(Debug)]
pub struct KeptChain {
    /// The identifier of the chain.
    pub id: ChainId,
    /// The TLS server name of the handshake.
    pub sni: Option<String>,
    /// The certificates as they were presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the chain was last presented. Accurate to about an hour.
    pub seen: SystemTime,
}

impl ChainKeeper {
    /// Starts a thread that writes chains to files below a directory. Creates the directory if
    /// necessary. The thread ends when the keeper is dropped.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created.
    pub fn start(directory: &Path) -> io::Result<Self> {
        let mut rooms = Vec::new();
        for (verdict, max) in MAX_CHAINS {
            let path = directory.join(verdict.directory());
            fs::create_dir_all(&path)?;
            rooms.push(Room {
                verdict,
                files: oldest_first(&path)?,
                path,
                max,
            });
        }
        let (queue, notes) = sync_channel(WAITING);
        thread::Builder::new()
            .name("chains".to_owned())
            .spawn(move || write(&notes, &mut rooms))?;
        Ok(Self {
            queue,
            noted: Cache::new(MAX_CHAINS.iter().map(|(_, max)| max).sum()),
        })
    }

    /// Keeps a new chain, or records that a known chain was presented again. Returns the identifier
    /// of the chain.
    pub fn note(
        &self,
        chain: &[CertificateDer<'_>],
        sni: Option<&Arc<str>>,
        verdict: Verdict,
    ) -> ChainId {
        let id = ChainId::of(chain);
        let key = (id.clone(), verdict);
        let now = clock::unix_now();
        let known = self.noted.get(&key);
        if known.is_some_and(|noted| now.saturating_sub(noted) < NOTED_EVERY) {
            return id;
        }
        let note = Note {
            id: id.clone(),
            verdict,
            sni: sni.cloned(),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        };
        match self.queue.try_send(note) {
            Ok(()) => self.noted.insert(key, now),
            // The queue is full, so the chain is not kept now. The next handshake with this chain
            // tries again.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
        id
    }
}

impl fmt::Debug for ChainKeeper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ChainKeeper")
    }
}

/// The files with chains of one verdict.
struct Room {
    verdict: Verdict,
    path: PathBuf,
    files: VecDeque<PathBuf>,
    max: usize,
}

fn oldest_first(directory: &Path) -> io::Result<VecDeque<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            let modified = path.metadata().and_then(|metadata| metadata.modified());
            files.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

fn write(notes: &Receiver<Note>, rooms: &mut [Room]) {
    let mut failed = false;
    for note in notes {
        let Some(room) = rooms.iter_mut().find(|room| room.verdict == note.verdict) else {
            continue;
        };
        let kept = room.keep(&note);
        if let Err(error) = &kept
            && !failed
        {
            tracing::error!(directory = %room.path.display(), %error, "chains cannot be kept");
        }
        failed = kept.is_err();
    }
}

impl Room {
    fn keep(&mut self, note: &Note) -> io::Result<()> {
        let path = self.path.join(format!("{}.pem", note.id.text()));
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            return file.set_modified(clock::now());
        }
        let mut text = String::new();
        let name = note.sni.as_deref().map_or("-".to_owned(), printable);
        let _ = writeln!(
            text,
            "server name: {name}\ndecision: {}",
            self.verdict.directory()
        );
        for der in &note.chain {
            text.push_str(&pem::encode_certificate(der));
        }
        write_private(&path, text.as_bytes(), Existing::Replace)?;
        self.files.push_back(path);
        while self.files.len() > self.max {
            if let Some(oldest) = self.files.pop_front() {
                let _ = fs::remove_file(oldest);
            }
        }
        Ok(())
    }
}

/// Reads a kept chain of an admitted or refused caller.
///
/// # Errors
/// Returns [`io::ErrorKind::NotFound`] if the chain was not kept, or was removed later.
pub fn read(directory: &Path, id: &ChainId) -> io::Result<KeptChain> {
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for (verdict, _) in MAX_CHAINS {
        let path = directory.join(verdict.directory());
        outcome = read_file(&path.join(format!("{}.pem", id.text())), id.clone());
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Returns at most `max` chains of admitted callers that were presented during the last
/// `longest_ago`. The latest chain comes first.
///
/// # Errors
/// Returns an error if the directory cannot be read.
pub fn admitted_since(
    directory: &Path,
    longest_ago: Duration,
    max: usize,
) -> io::Result<Vec<KeptChain>> {
    let files = oldest_first(&directory.join(Verdict::Admitted.directory()))?;
    let since = clock::now().checked_sub(longest_ago);
    let kept = files.iter().rev().filter_map(|path| {
        let id = ChainId::parse(path.file_stem()?.to_str()?)?;
        read_file(path, id).ok()
    });
    Ok(kept
        .take_while(|kept| since.is_none_or(|since| kept.seen >= since))
        .take(max)
        .collect())
}

fn read_file(path: &Path, id: ChainId) -> io::Result<KeptChain> {
    let text = fs::read_to_string(path)?;
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    // The server name comes from the caller. The name is cut off before the rest is parsed, so that
    // a name that looks like PEM is not parsed as PEM.
    let (name, rest) = text
        .strip_prefix("server name: ")
        .and_then(|rest| rest.split_once('\n'))
        .ok_or_else(malformed)?;
    let (_decision, blocks) = rest.split_once('\n').ok_or_else(malformed)?;
    let chain = pem::certificates(blocks.as_bytes()).map_err(io::Error::other)?;
    let sni = (name != "-").then(|| name.to_owned());
    let seen = path.metadata()?.modified()?;
    Ok(KeptChain {
        id,
        sni,
        chain,
        seen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(byte: u8) -> Vec<CertificateDer<'static>> {
        vec![vec![byte; 100].into(), vec![7; 65].into()]
    }

    /// Waits until the writer thread has written the chain.
    fn wait_for(directory: &Path, id: &ChainId) -> KeptChain {
        for _ in 0..500 {
            if let Ok(kept) = read(directory, id) {
                return kept;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{id:?} was not kept");
    }

    #[test]
    fn chains_are_kept_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = ChainKeeper::start(folder.path()).unwrap();
        // The server name looks like a part of a PEM file, but must not be parsed as PEM.
        let name: Arc<str> = "a.-----begin.example.org".into();
        let id = keeper.note(&chain(1), Some(&name), Verdict::Admitted);
        let again = keeper.note(&chain(1), Some(&name), Verdict::Admitted);
        let other = keeper.note(&chain(2), None, Verdict::Refused);
        assert_eq!(id, again);
        assert_ne!(id, other);
        let kept = wait_for(folder.path(), &id);
        assert_eq!(kept.chain, chain(1));
        assert_eq!(kept.sni.as_deref(), Some(&*name));
        assert_eq!(wait_for(folder.path(), &other).sni, None);
        let admitted = admitted_since(folder.path(), Duration::from_secs(60), 10).unwrap();
        assert_eq!(admitted.len(), 1, "refused chains are not among them");
        assert_eq!(admitted[0].id, id);
        assert!(ChainId::parse("../../etc/passwd").is_none());
    }

    #[test]
    fn each_verdict_has_room_of_its_own_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut room = Room {
            verdict: Verdict::Refused,
            path: folder.path().to_owned(),
            files: VecDeque::new(),
            max: 3,
        };
        let ids: Vec<ChainId> = (0..5)
            .map(|byte| {
                let note = Note {
                    id: ChainId::of(&chain(byte)),
                    verdict: Verdict::Refused,
                    sni: None,
                    chain: chain(byte),
                };
                room.keep(&note).unwrap();
                note.id
            })
            .collect();
        let there = |id: &ChainId| folder.path().join(format!("{}.pem", id.text())).exists();
        let left: Vec<bool> = ids.iter().map(there).collect();
        assert_eq!(left, [false, false, true, true, true]);
    }
}
