//! Watches files: compares their stamps at intervals, on separate threads.
//!
//! A network mount that hangs blocks the thread that reads a stamp, maybe forever. A *round*
//! compares the stamps of all files once, on a thread that no task joins. If one file hangs, the
//! round's thread is abandoned. The file is not watched until that thread returns. Another thread
//! continues with all other files.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::config::UnitKey;
use crate::file_stamp::FileStamp;
use crate::trust::{DenyList, DenyListError};

/// If a thread works on one [`Item`] for longer than this, the item counts as stalled.
const STALLED: Duration = Duration::from_millis(60);

/// What a watched file is used for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Watched {
    /// The configuration file.
    Configuration,
    /// A file of the unit of material that this key names.
    Unit(UnitKey),
    /// The deny list's file.
    DenyList,
}

/// A file that a round checks.
pub(super) enum Item {
    /// A file whose stamp is read and compared with its last known stamp.
    Stamp(Watched, PathBuf, Option<FileStamp>),
    /// The deny list, which reads its file again if the file has changed.
    DenyList(Arc<DenyList>),
}

/// Identifies an [`Item`] by its use and its path.
type Subject = (Watched, PathBuf);

/// What a round has found.
#[derive(Debug)]
pub(super) enum Found {
    /// A watched file has changed.
    Changed(Watched),
    /// The deny list's file was checked. The result is true if the entries of the list may have
    /// changed.
    DenyList(Arc<DenyList>, Result<bool, DenyListError>),
}

/// The callback for the findings of a round. It is called on the round's thread.
pub(super) type Tell = Arc<dyn Fn(Found) + Send + Sync>;

/// Runs the rounds, one after another.
pub(super) struct FileWatch {
    tell: Tell,
    round: Option<Round>,
    /// Items that hang: each occupies a thread that has not returned.
    stalled: HashMap<Subject, Stalled>,
    /// Whether the operating system refused to start a thread.
    without_thread: bool,
}

/// The thread that runs rounds, and its state.
struct Round {
    items: mpsc::Sender<VecDeque<Item>>,
    state: Arc<RoundState>,
}

#[derive(Default)]
struct RoundState {
    current: Mutex<Option<Current>>,
    /// Whether the thread is working on an item or has items left.
    busy: AtomicBool,
    abandoned: AtomicBool,
    /// The items of the round that the thread has not started.
    left: Mutex<VecDeque<Item>>,
}

#[derive(Clone)]
struct Current {
    subject: Subject,
    since: Instant,
}

/// An [`Item`] that hangs.
pub(super) struct Stalled {
    /// When the thread started to work on the item.
    pub(super) since: Instant,
    /// The state of the item's thread, which tells whether the thread has returned.
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

    /// Returns the items that hang.
    pub(super) const fn stalled(&self) -> &HashMap<Subject, Stalled> {
        &self.stalled
    }

    /// Forgets which items hang, so that the next round checks them again. Their paths may lead to
    /// other files now. Threads that have not returned are abandoned.
    pub(super) fn forget_stalled(&mut self) {
        self.stalled.clear();
    }

    /// Whether files are not watched, because the operating system refused to start a thread.
    pub(super) const fn is_without_thread(&self) -> bool {
        self.without_thread
    }

    /// Whether a round is in progress.
    pub(super) fn is_busy(&self) -> bool {
        self.round
            .as_ref()
            .is_some_and(|round| round.state.busy.load(Ordering::Acquire))
    }

    /// Starts a round over `items`, except for items that hang. Does nothing if a round is in
    /// progress.
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

    /// If the thread has worked on its current item for longer than `STALLED`, abandons the thread
    /// and continues with a new one. Also removes stalled items whose threads have returned. Must
    /// be called at intervals.
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
        // The remaining items are taken first, so that the old thread finds none when it continues.
        let left = std::mem::take(&mut *lock(&round.state.left));
        round.state.abandoned.store(true, Ordering::Release);
        let stalled = Stalled {
            since: current.since,
            state: round.state,
        };
        // Other files in the same folder probably hang too, so they come last.
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
            // The receiver is gone, because the thread has panicked.
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

/// Marks a round as ended on drop, even after a panic.
struct RoundOver<'a>(&'a AtomicBool);

impl Drop for RoundOver<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl RoundState {
    fn work(&self, tell: &Tell) {
        loop {
            // The lock on `left` is released here, before `begin` takes the lock on `current`. No
            // thread holds both locks at the same time, so there is no deadlock.
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
    // A poisoned lock is safe to use, because every change is complete before the lock is released.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
