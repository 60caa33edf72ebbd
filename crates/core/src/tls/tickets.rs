//! Session tickets: they let a caller come back without a full handshake, and no
//! longer than its certificate allows.
//!
//! A ticket is sealed with a key derived from a secret, the epoch, the
//! server-name entry, its certificate requirement and its trust set: it opens
//! nowhere else. Epochs follow the clock; the current one, the one before and
//! (replicas' clocks differ) the one after count. Beside rustls' session state a
//! ticket carries which chain it stands for, when the key of that chain was
//! last proven, and until when its path holds. A chain that is known to have ended
//! is not resumed: the caller gets a full handshake with its proper alert. An
//! unknown chain is verified after the handshake
//! ([`ServerEntry::admit_resumed`](super::ServerEntry::admit_resumed)). A refusal
//! there is remembered for that chain alone, so that no caller can make the tickets
//! of others useless.
//!
//! Tickets stand for a proven certificate. A session without one gets none, so
//! that a caller is asked again once it has one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::client_certificate::ClientCertificate;
use super::handshake_notes;
use super::session::{Session, Version};
use crate::clock;
use crate::crypto::{self, SealingKey};
use crate::identity::pattern::HostPattern;
use crate::secret::Secret;
use crate::trust::{ChainKey, ClientTrust, Recall};

/// Longest session state that becomes a ticket. It holds the caller's chain, and
/// comes back in a ClientHello, so a chain that is longer is not worth it: its
/// holder makes full handshakes.
const MAX_STATE: usize = 8 * 1024;
/// Maximum size of a ticket that is opened, in bytes.
const MAX_TICKET: usize = MAX_STATE + 256;
/// Refused chains that are remembered, for each entry.
const MAX_REFUSED: usize = 1024;
/// How far the clocks of replicas may differ, in seconds.
const SKEW: u64 = 60;
/// Bytes of a ticket that can be read: version and epoch.
const HEADER: usize = 9;

/// Fewest bytes of a shared secret.
pub const MIN_SECRET: usize = 32;

/// Lifetimes of tickets and ticket keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketPolicy {
    /// Whether tickets are issued.
    pub enabled: bool,
    /// How long one key makes tickets. After that it only opens them, for the same time.
    pub rotation: Duration,
    /// How long a caller may resume sessions after it last proved its key.
    pub max_age: Duration,
}

impl Default for TicketPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            rotation: Duration::from_secs(3600),
            max_age: Duration::from_secs(12 * 3600),
        }
    }
}

/// The source of ticket keys, and their lifetimes. Kept over reloads: clones share the secrets of
/// the process.
#[derive(Clone, Default)]
pub struct TicketSource {
    policy: TicketPolicy,
    /// A secret that replicas share, for TLS 1.3. In TLS 1.2 a stolen secret would decrypt recorded
    /// connections, so that version never uses it.
    shared: Option<Arc<Secret>>,
    own: Arc<OwnSecrets>,
}

/// Random secrets of this process by epoch, made when first needed and gone with
/// their epoch.
#[derive(Default)]
struct OwnSecrets(Mutex<BTreeMap<u64, Zeroizing<[u8; 32]>>>);

impl OwnSecrets {
    fn of(&self, epoch: u64, current: u64) -> Option<Zeroizing<[u8; 32]>> {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.retain(|known, _| known.abs_diff(current) <= 1);
        if let Some(secret) = secrets.get(&epoch) {
            return Some(secret.clone());
        }
        let fresh = Zeroizing::new(crypto::random::<32>().ok()?);
        secrets.insert(epoch, fresh.clone());
        Some(fresh)
    }
}

impl TicketSource {
    /// Returns the source after a reload, with another policy and shared secret, and with the
    /// secrets of the same process.
    #[must_use]
    pub fn with(&self, policy: TicketPolicy, shared: Option<Secret>) -> Self {
        Self {
            policy,
            shared: shared.map(Arc::new),
            own: Arc::clone(&self.own),
        }
    }

    fn epoch(&self, now: u64) -> u64 {
        now / self.policy.rotation.as_secs().max(1)
    }

    fn key(
        &self,
        scope: &[u8; 32],
        version: Version,
        epoch: u64,
        current: u64,
    ) -> Option<SealingKey> {
        let mut info = Vec::with_capacity(64);
        info.extend_from_slice(b"ticket");
        info.push(version as u8);
        info.extend_from_slice(&epoch.to_be_bytes());
        info.extend_from_slice(scope);
        let key = match (&self.shared, version) {
            (Some(secret), Version::Tls13) => crypto::derive_key(secret.expose(), &info),
            _ => crypto::derive_key(&*self.own.of(epoch, current)?, &info),
        };
        key.and_then(|key| SealingKey::new(&key)).ok()
    }
}

impl fmt::Debug for TicketSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TicketSource")
            .field("policy", &self.policy)
            .field("shared", &self.shared.is_some())
            .finish_non_exhaustive()
    }
}

/// Keys of the epochs around `current`.
struct Keys {
    current: u64,
    by_epoch: Vec<(u64, Version, SealingKey)>,
}

/// Makes and opens the tickets of one server-name entry.
pub(super) struct Ticketer {
    source: TicketSource,
    scope: [u8; 32],
    trust: Arc<ClientTrust>,
    keys: ArcSwap<Keys>,
    refused: Cache<ChainKey, ()>,
}

impl Ticketer {
    pub(super) fn new(
        source: TicketSource,
        names: &[HostPattern],
        requirement: ClientCertificate,
        trust: &Arc<ClientTrust>,
    ) -> Self {
        Self {
            source,
            scope: scope(names, requirement, trust),
            trust: Arc::clone(trust),
            keys: ArcSwap::from_pointee(Keys {
                current: u64::MAX,
                by_epoch: Vec::new(),
            }),
            refused: Cache::new(MAX_REFUSED),
        }
    }

    /// Notes that the chain was refused when it was resumed. Its tickets are void from now on,
    /// until it passes a full handshake.
    pub(super) fn refuse(&self, chain: ChainKey) {
        self.refused.insert(chain, ());
    }

    fn keys(&self, now: u64) -> arc_swap::Guard<Arc<Keys>> {
        let current = self.source.epoch(now);
        let keys = self.keys.load();
        if keys.current == current {
            return keys;
        }
        drop(keys);
        let mut by_epoch = Vec::with_capacity(6);
        for epoch in current.saturating_sub(1)..=current.saturating_add(1) {
            for version in [Version::Tls13, Version::Tls12] {
                let key = self.source.key(&self.scope, version, epoch, current);
                by_epoch.extend(key.map(|key| (epoch, version, key)));
            }
        }
        self.keys.store(Arc::new(Keys { current, by_epoch }));
        self.keys.load()
    }

    fn seal(&self, session: &Session, state: &[u8], now: u64) -> Option<Vec<u8>> {
        let age = now.saturating_sub(session.proven_at);
        if state.len() > MAX_STATE || age >= self.source.policy.max_age.as_secs() {
            return None;
        }
        let keys = self.keys(now);
        let (epoch, _, key) = keys
            .by_epoch
            .iter()
            .find(|(epoch, version, _)| *epoch == keys.current && *version == session.version)?;
        let mut header = [session.version as u8; HEADER];
        if let Some((_, rest)) = header.split_first_chunk_mut::<1>() {
            rest.copy_from_slice(&epoch.to_be_bytes());
        }
        key.seal(&header, &[&session.write(), state])
    }

    /// Returns the content of a ticket, if the session can be resumed.
    fn open(&self, ticket: &[u8], now: u64) -> Option<(Session, Vec<u8>)> {
        if ticket.len() > MAX_TICKET {
            return None;
        }
        let (header, sealed) = ticket.split_first_chunk::<HEADER>()?;
        let (version, epoch) = header.split_first_chunk::<1>()?;
        let epoch = u64::from_be_bytes(*epoch.first_chunk()?);
        let keys = self.keys(now);
        let (_, version, key) = keys
            .by_epoch
            .iter()
            .find(|(known, kind, _)| *known == epoch && [*kind as u8] == *version)?;
        let opened = key.open(header, sealed)?;
        let (session, state) = Session::read(*version, &opened)?;
        self.may_resume(&session, now)
            .then(|| (session, state.to_vec()))
    }

    fn may_resume(&self, session: &Session, now: u64) -> bool {
        let seconds = clock::certificate_time(now);
        let age = now.saturating_sub(session.proven_at);
        if session.proven_at > now.saturating_add(SKEW)
            || age >= self.source.policy.max_age.as_secs()
            || clock::certificate_is_over(session.path_not_after, seconds)
            || self.refused.get(&session.chain).is_some()
        {
            return false;
        }
        self.trust.recall(&session.chain, seconds) != Recall::Ended
    }
}

/// Hashes the scope of an entry's tickets: the same on every replica with one configuration, in any
/// order of its entries.
fn scope(names: &[HostPattern], requirement: ClientCertificate, trust: &ClientTrust) -> [u8; 32] {
    let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    let requirement: &[u8] = match requirement {
        ClientCertificate::Required => b"required",
        ClientCertificate::Optional => b"optional",
    };
    let mut text = Vec::new();
    for field in names.iter().map(String::as_bytes).chain([requirement]) {
        text.extend_from_slice(&(field.len() as u64).to_be_bytes());
        text.extend_from_slice(field);
    }
    text.extend_from_slice(trust.revision().trust_set());
    crypto::sha256(&text)
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        self.source.policy.enabled
    }

    fn lifetime(&self) -> u32 {
        // If a ticket comes back later than this, its key may be gone.
        let policy = self.source.policy;
        u32::try_from(policy.rotation.min(policy.max_age).as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, state: &[u8]) -> Option<Vec<u8>> {
        let session = handshake_notes::session()?;
        // A full handshake has just admitted the chain. The chain of a resumed session is checked
        // after the handshake.
        if handshake_notes::is_full_handshake() {
            self.refused.remove(&session.chain);
        }
        self.seal(&session, state, clock::unix_now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (session, state) = self.open(ticket, clock::unix_now())?;
        handshake_notes::resuming(session);
        Some(state)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ticketer")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tickets_tests.rs"]
mod tests;
