//! Session tickets: a caller can resume a session without a full handshake, but not longer than its
//! certificate is valid.
//!
//! The key of a ticket is derived from a secret, the epoch, the server names of the entry, the
//! certificate requirement and the trust set. So a ticket cannot be opened under another
//! configuration. Time is divided into epochs by the clock. Tickets of the current, the previous
//! and the next epoch are opened. The next epoch is included because the clocks of replicas differ.
//!
//! Besides rustls' session state, a ticket contains the hash of the caller's chain, the time of the
//! last proof of possession, and the notAfter of the path. If the path cache says that the chain is
//! no longer accepted, the ticket is not opened. The caller then makes a full handshake and gets
//! the correct alert. If the chain is not in the cache, it is verified after the handshake
//! ([`ServerEntry::admit_resumed`](super::ServerEntry::admit_resumed)). A refusal is stored only
//! for that chain, so that a caller cannot disable the tickets of other callers.
//!
//! A session without a client certificate gets no ticket. So the caller is asked for a certificate
//! in every handshake.

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

/// Maximum size of the session state in a ticket, in bytes. The state contains the caller's chain,
/// and the caller sends the ticket in its ClientHello. A caller with a longer chain gets no ticket
/// and always makes full handshakes.
const MAX_STATE: usize = 8 * 1024;
/// Maximum size of a ticket that is opened, in bytes. Larger tickets are ignored.
const MAX_TICKET: usize = MAX_STATE + 256;
/// Maximum number of refused chains that each entry stores.
const MAX_REFUSED: usize = 1024;
/// Maximum clock difference between replicas, in seconds.
const SKEW: u64 = 60;
/// Length of the unencrypted part of a ticket, in bytes: TLS version (1) and epoch (8).
const HEADER: usize = 9;

/// Minimum length of a shared secret, in bytes.
pub const MIN_SECRET: usize = 32;

/// Whether tickets are issued, and the lifetimes of tickets and their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketPolicy {
    /// Whether tickets are issued.
    pub enabled: bool,
    /// How long a key makes new tickets. After this time, the key only opens tickets. After the
    /// same time once more, the key is dropped.
    pub rotation: Duration,
    /// How long a caller may resume sessions after its last proof that it holds its private key.
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

/// The secrets from which ticket keys are derived, and their lifetimes. A reload keeps the secrets
/// of this process, because clones share them.
#[derive(Clone, Default)]
pub struct TicketSource {
    policy: TicketPolicy,
    /// A secret that all replicas share. Used only for TLS 1.3: in TLS 1.2, a stolen secret would
    /// decrypt recorded connections.
    shared: Option<Arc<Secret>>,
    own: Arc<OwnSecrets>,
}

/// Random secrets of this process, one for each epoch. A secret is made when it is first needed,
/// and dropped one epoch after its own epoch.
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
    /// Returns the source for use after a reload. The policy and the shared secret are replaced,
    /// and the secrets of this process are kept.
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

/// The keys of the previous, the current and the next epoch.
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

    /// Records that the chain was refused in a resumed session. Tickets with this chain are not
    /// opened until the chain is accepted in a full handshake.
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

    /// Returns the content of a ticket. Returns `None` if the session must not be resumed.
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

/// Hashes the properties of an entry for which its tickets are valid. The hash does not depend on
/// the order of names, so replicas with the same configuration get the same hash.
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
        // After `rotation`, the key that opens the ticket may no longer exist. After `max_age`, the
        // ticket is not opened any more.
        let policy = self.source.policy;
        u32::try_from(policy.rotation.min(policy.max_age).as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, state: &[u8]) -> Option<Vec<u8>> {
        let session = handshake_notes::session()?;
        // In a full handshake, the verifier has just accepted the chain, so an earlier refusal is
        // removed. In a resumed handshake, the chain is verified only later, so the refusal stays.
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
