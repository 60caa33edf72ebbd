//! Watches files by taking their stamps at intervals, on separate threads.
//!
//! A network mount that hangs blocks the thread that asks for a stamp, maybe for ever. Each
//! round over all files therefore runs on a thread that no task joins. If one file hangs, that
//! thread is left behind, the file is not watched until the thread returns, and another thread
//! goes on with all other files.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::config::UnitKey;
use crate::file_stamp::FileStamp;
use crate::trust::{DenyList, DenyListError};

/// How long an item may take before it counts as stalled.
const STALLED: Duration = Duration::from_millis(60);

/// The purpose of a watched file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Watched {
    /// The configuration file.
    Configuration,
    /// The files of a unit of material.
    Unit(UnitKey),
    /// The deny list's file.
    DenyList,
}

/// A file that a round checks.
pub(super) enum Item {
    /// Takes the stamp of a file and compares it.
    Stamp(Watched, PathBuf, Option<FileStamp>),
    /// Lets the deny list read its file.
    DenyList(Arc<DenyList>),
}

/// The file of an item, and its purpose.
type Subject = (Watched, PathBuf);

/// The findings of a round.
#[derive(Debug)]
pub(super) enum Found {
    /// Files have changed.
    Changed(Watched),
    /// The outcome of reading this deny list.
    DenyList(Arc<DenyList>, Result<bool, DenyListError>),
}

/// Passes on the findings of a round. Called on the round's thread.
pub(super) type Tell = Arc<dyn Fn(Found) + Send + Sync>;

/// Runs rounds one after the other.
pub(super) struct FileWatch {
    tell: Tell,
    round: Option<Round>,
    /// Items whose thread has not returned.
    stalled: HashMap<Subject, Stalled>,
    /// Whether the system refuses a thread.
    without_thread: bool,
}

/// A thread that works through items.
struct Round {
    items: mpsc::Sender<VecDeque<Item>>,
    state: Arc<RoundState>,
}

#[derive(Default)]
struct RoundState {
    current: Mutex<Option<Current>>,
    /// Whether items are left, or one is being worked on.
    busy: AtomicBool,
    abandoned: AtomicBool,
    /// The items of the round that are still to be done.
    left: Mutex<VecDeque<Item>>,
}

#[derive(Clone)]
struct Current {
    subject: Subject,
    since: Instant,
}

/// An item whose thread has not returned.
pub(super) struct Stalled {
    /// When the item was started.
    pub(super) since: Instant,
    /// Shows whether the item's thread has returned.
    state: Arc<RoundState>,
}

impl Item {
    fn subject(&self) -> Subject {
        match self {
            Self::Stamp(watched, path, _) => (watched.clone(), path.clone()),
            Self::DenyList(list) => (Watched::DenyList, list.path().to_owned()),
        }
    }
}

impl FileWatch {
    pub(super) fn new(tell: Tell) -> Self {
        Self {
            tell,
            round: None,
            stalled: HashMap::new(),
            without_thread: false,
        }
    }

    /// Returns the items whose threads have not returned, by file and purpose.
    pub(super) const fn stalled(&self) -> &HashMap<Subject, Stalled> {
        &self.stalled
    }

    /// Watches stalled files again, because the names may stand for other files now. Threads
    /// that have not returned are left behind.
    pub(super) fn forget_stalled(&mut self) {
        self.stalled.clear();
    }

    /// Whether files are not watched because the system refuses a thread.
    pub(super) const fn is_without_thread(&self) -> bool {
        self.without_thread
    }

    /// Whether a round is in progress.
    pub(super) fn is_busy(&self) -> bool {
        self.round
            .as_ref()
            .is_some_and(|round| round.state.busy.load(Ordering::Acquire))
    }

    /// Begins a round over these items, without stalled ones. If a round is in progress, it
    /// continues instead.
    pub(super) fn begin(&mut self, items: impl IntoIterator<Item = Item>) {
        self.look_after();
        if self.is_busy() {
            return;
        }
        let items: VecDeque<Item> = items
            .into_iter()
            .filter(|item| !self.stalled.contains_key(&item.subject()))
            .collect();
        self.hand_over(items);
    }

    /// Leaves an item that hangs to its thread, and notices items whose threads have returned.
    /// To be called at intervals.
    pub(super) fn look_after(&mut self) {
        self.stalled
            .retain(|_, stalled| stalled.state.busy.load(Ordering::Acquire));
        let Some(round) = &self.round else { return };
        let current = lock(&round.state.current).clone();
        let Some(current) = current.filter(|current| current.since.elapsed() >= STALLED) else {
            return;
        };
        let Some(round) = self.round.take() else {
            return;
        };
        // The items are taken first, so that the thread finds none when it returns.
        let left = std::mem::take(&mut *lock(&round.state.left));
        round.state.abandoned.store(true, Ordering::Release);
        let stalled = Stalled {
            since: current.since,
            state: round.state,
        };
        // Other files of the same folder most likely hang too: all others come first.
        let folder = current.subject.1.parent();
        let is_near = |item: &Item| item.subject().1.parent() == folder;
        let (near, far): (Vec<Item>, Vec<Item>) = left.into_iter().partition(is_near);
        let others: VecDeque<Item> = far.into_iter().chain(near).collect();
        self.stalled.insert(current.subject, stalled);
        self.hand_over(others);
    }

    fn hand_over(&mut self, items: VecDeque<Item>) {
        if items.is_empty() {
            return;
        }
        if self.round.is_none() {
            self.round = Round::start(Arc::clone(&self.tell)).ok();
        }
        self.without_thread = self.round.is_none();
        let Some(round) = &self.round else { return };
        round.state.busy.store(true, Ordering::Release);
        if round.items.send(items).is_err() {
            // The thread is gone, which only a panic can cause.
            self.round = None;
        }
    }
}

impl Round {
    fn start(tell: Tell) -> std::io::Result<Self> {
        let state = Arc::new(RoundState::default());
        let (items, rounds) = mpsc::channel();
        let own = Arc::clone(&state);
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                while let Ok(items) = rounds.recv() {
                    *lock(&own.left) = items;
                    {
                        let _over = RoundOver(&own.busy);
                        own.work(&tell);
                    }
                    if own.abandoned.load(Ordering::Acquire) {
                        return;
                    }
                }
            })?;
        Ok(Self { items, state })
    }
}

/// Ends a round when dropped, also if there is a panic.
struct RoundOver<'a>(&'a AtomicBool);

impl Drop for RoundOver<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl RoundState {
    fn work(&self, tell: &Tell) {
        loop {
            // One lock after the other, because `look_after` takes both in turn.
            let Some(item) = lock(&self.left).pop_front() else {
                return;
            };
            self.begin(item.subject());
            match item {
                Item::Stamp(watched, path, before) => {
                    if FileStamp::at(&path) != before {
                        tell(Found::Changed(watched));
                    }
                }
                Item::DenyList(list) => {
                    let outcome = list.refresh();
                    tell(Found::DenyList(list, outcome));
                }
            }
            *lock(&self.current) = None;
        }
    }

    fn begin(&self, subject: Subject) {
        *lock(&self.current) = Some(Current {
            subject,
            since: Instant::now(),
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change is complete before the lock is released.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
