//! `Snapshot`: the immutable state that decides about requests. `Settings`: the settings that can
//! change only with a restart.
//!
//! - `fixture`: a snapshot for tests

#[cfg(any(test, feature = "testing"))]
pub mod fixture;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::assertion::AssertionSigner;
use crate::authn::api_key::ApiKeys;
use crate::authn::token::issuer::TokenIssuer;
use crate::connection_slots::Origin;
use crate::crl_fetch::{CrlFetcher, CrlSource};
use crate::identity::{IdentityPattern, ShareKey, TrustDomain};
use crate::policy::share::Share;
use crate::policy::throttle::Limiter;
use crate::route::RouteTable;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Credentials, OwnCertificate, ServerEntry, ServerNames, TicketSource};
use crate::trust::{DenyList, PathCache, TrustBundle};
use crate::upstream::Upstream;

/// The immutable state that decides about requests. It is built from one configuration and the
/// files that the configuration names.
#[derive(Debug)]
pub struct Snapshot {
    /// The number of the snapshot. It increases with each new configuration and with each change of
    /// material (certificates, keys, CRLs).
    pub generation: u64,
    /// The TLS configurations by server name.
    pub server_names: ServerNames,
    /// The trust bundles of all trust domains.
    pub bundles: Vec<Arc<TrustBundle>>,
    /// For each trust domain, the maximum time for which its files may be unreadable. After this
    /// time, callers of the trust domain are refused if its revocation posture is `hard`. A trust
    /// domain without such a limit has no entry.
    pub max_unread: BTreeMap<TrustDomain, Duration>,
    /// The table that selects a route for each request.
    pub routes: RouteTable,
    /// All upstreams.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Signs assertions.
    pub signer: AssertionSigner,
    /// The token issuers whose tokens are accepted.
    pub token_issuers: Vec<Arc<TokenIssuer>>,
    /// Applies the rate limits. A reload keeps the counts of requests.
    pub limiter: Limiter,
    /// The API keys of callers without a certificate.
    pub api_keys: Arc<ApiKeys>,
    /// The limits of connections and requests, and timeouts.
    pub limits: Limits,
    /// The networks of load balancers. A connection from such a network begins with a PROXY header.
    pub balancers: Vec<IpNet>,
    /// The gateway's certificate on the public listener. `None` if the listener uses plain HTTP.
    pub public_credentials: Option<Credentials>,
    /// Caches verified chains. Earlier and later snapshots share it.
    pub path_cache: Arc<PathCache>,
    /// The keys of session tickets. Earlier and later snapshots share them.
    pub tickets: TicketSource,
    /// The callers and certificates that are refused. `None` if no deny list is configured. Earlier
    /// and later snapshots share the list.
    pub deny_list: Option<Arc<DenyList>>,
    /// Fetches CRLs by URL. Earlier and later snapshots share it.
    pub crl_fetcher: Arc<CrlFetcher>,
    /// The URLs from which CRLs are fetched.
    pub crl_sources: Vec<CrlSource>,
    /// The operators that may connect over the network. `None` if no operator may.
    pub operators: Option<Operators>,
    /// The certificates that the gateway presents.
    pub own_certificates: Vec<OwnCertificate>,
}

/// The identities that may operate the gateway with a certificate, and the TLS settings for their
/// connections.
#[derive(Debug)]
pub struct Operators {
    /// The gateway's certificate on the operators' listener, and the trust domains under which
    /// operators are verified.
    pub entry: ServerEntry,
    /// The patterns that an operator's identity must match.
    pub patterns: Vec<IdentityPattern>,
}

impl Snapshot {
    /// Returns the names of two header fields. Only the gateway may set the first, which carries
    /// the assertion. Only the gateway may see the second, which carries the API key.
    #[must_use]
    pub fn private_fields(&self) -> [http::HeaderName; 2] {
        let assertion = &self.signer.settings().header;
        [assertion.clone(), self.api_keys.header().clone()]
    }

    /// Returns a stamp of the state that decides about identities. If the stamp differs from an
    /// earlier stamp, identities must be verified again. The stamp does not depend on the time.
    #[must_use]
    pub fn trust_stamp(&self) -> TrustStamp {
        TrustStamp {
            generation: self.generation,
            deny_epoch: self.deny_list.as_ref().map_or(0, |list| list.epoch()),
        }
    }

    /// Returns the [`Origin`] of a connection from `address`, which determines how the connection
    /// is counted in the limits of the listener.
    #[must_use]
    pub fn origin(&self, address: IpAddr) -> Origin {
        match self.is_balancer(address) {
            true => Origin::Balancer,
            false => self.limits.address.key_of(address).into(),
        }
    }

    /// Returns whether `address` belongs to a load balancer, whose connections begin with a PROXY
    /// header.
    #[must_use]
    pub fn is_balancer(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.balancers.iter().any(|net| net.contains(&address))
    }

    /// Returns the key under which connections from `address` are counted. Returns `None` if many
    /// peers share this address, for example because it belongs to a load balancer.
    #[must_use]
    pub fn counted_address(&self, address: IpAddr) -> Option<ShareKey> {
        if self.is_balancer(address) {
            return None;
        }
        self.limits.address.key_of(address)
    }

    /// Registers the counters of all routes and upstreams. Must be called before the snapshot is
    /// put into service.
    pub fn meter(&self, metrics: &Metrics) {
        self.routes.meter(metrics);
        for upstream in &self.upstreams {
            upstream.meter(metrics);
        }
    }

    /// Removes all tokens from the caches, so that each token is verified again.
    pub fn forget_tokens(&self) {
        for issuer in &self.token_issuers {
            issuer.cache().purge();
        }
    }

    /// Starts tasks on `runtime` that fetch the keys of token issuers and fetch them again
    /// regularly. Must be called before the snapshot is put into service.
    pub fn start(&self, runtime: &tokio::runtime::Handle) {
        for issuer in &self.token_issuers {
            issuer.start(runtime);
        }
        if let Some(store) = self.limiter.shared() {
            store.run_on(runtime);
        }
    }
}

/// Identifies a snapshot and the state of its deny list. If two stamps are equal, the gateway makes
/// the same decisions about identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustStamp {
    generation: u64,
    deny_epoch: u64,
}

/// The limits of connections and requests, and timeouts.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum number of connections at the same time.
    pub connections: usize,
    /// Maximum time of a TLS handshake.
    pub handshake_timeout: Duration,
    /// Maximum time in which a request's head must arrive. Also the maximum time that a connection
    /// may be idle between requests.
    pub header_timeout: Duration,
    /// Maximum time for which the caller may send no byte of an incomplete request body.
    pub body_timeout: Duration,
    /// Maximum size of a request's head in bytes.
    pub header_bytes: usize,
    /// Maximum number of header fields of a request.
    pub header_fields: usize,
    /// Maximum size of a request's body in bytes. `None` if there is no limit.
    pub body_bytes: Option<u64>,
    /// Maximum size of all buffered request bodies together, in bytes.
    pub held_bytes: u64,
    /// Maximum number of concurrent streams on one HTTP/2 connection.
    pub streams: u32,
    /// Maximum time that connections may continue after a signal to stop.
    pub drain_timeout: Duration,
    /// Limits for one caller.
    pub caller: CallerLimits,
    /// Limits for one address.
    pub address: AddressLimits,
}

/// Limits for one caller (`[limits.caller]`).
#[derive(Debug, Clone, Copy)]
pub struct CallerLimits {
    /// The part of all connections that the caller may hold.
    pub connections: Share,
    /// The part of one upstream's requests in progress that the caller may have.
    pub requests_in_flight: Share,
    /// Maximum number of tunnels of one caller at the same time.
    pub tunnels: usize,
    /// The part of the memory for buffered bodies that the caller may use.
    pub buffered_bodies: Share,
}

impl Default for CallerLimits {
    fn default() -> Self {
        Self {
            connections: Share::QUARTER,
            requests_in_flight: Share::QUARTER,
            tunnels: 64,
            buffered_bodies: Share::QUARTER,
        }
    }
}

/// Limits for one address, before the caller is authenticated. An IPv6 network of 64 bits counts as
/// one address.
#[derive(Debug, Clone)]
pub struct AddressLimits {
    /// Number of connections with an incomplete handshake. If there is no free slot, connections of
    /// addresses with more than this number are evicted first.
    pub handshakes_in_progress: usize,
    /// Networks in which many peers share each address. Connections from these networks are not
    /// counted by address.
    pub trusted_networks: Vec<IpNet>,
}

impl AddressLimits {
    /// Returns whether `address` is in `trusted_networks`. Many peers may share such an address.
    #[must_use]
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_networks
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Returns the key under which connections from `address` are counted. Returns `None` if
    /// connections from this address are not counted by address.
    #[must_use]
    pub fn key_of(&self, address: IpAddr) -> Option<ShareKey> {
        (!self.is_trusted(address)).then(|| ShareKey::of_address(address))
    }
}

impl Default for AddressLimits {
    fn default() -> Self {
        Self {
            handshakes_in_progress: 64,
            trusted_networks: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            header_bytes: 32 * 1024,
            header_fields: 100,
            body_bytes: None,
            held_bytes: 64 * 1024 * 1024,
            streams: 128,
            drain_timeout: Duration::from_secs(30),
            caller: CallerLimits::default(),
            address: AddressLimits::default(),
        }
    }
}

/// The settings that can change only with a restart.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address of the callers' listener.
    pub address: SocketAddr,
    /// Number of worker threads. `None` means one per CPU core.
    pub workers: Option<usize>,
    /// The public, read-only listener. `None` if it is not configured.
    pub public: Option<PublicSettings>,
    /// The operators' listener. `None` if it is not configured.
    pub admin: Option<AdminSettings>,
    /// The destination of audit lines.
    pub audit: AuditDestination,
    /// The directory in which callers' chains are stored. `None` if they are not stored.
    pub audit_chains: Option<PathBuf>,
}

/// The settings of the public listener (`[public]`).
#[derive(Debug, Clone)]
pub struct PublicSettings {
    /// The address of the public listener.
    pub address: SocketAddr,
    /// The certificate and key for TLS. `None` if the listener uses plain HTTP.
    pub tls: Option<Credentials>,
    /// Whether this listener serves the JWKS and the metadata.
    pub keys: bool,
    /// Whether this listener serves `/healthz` and `/readyz`.
    pub health: bool,
    /// Whether this listener serves `/metrics`.
    pub metrics: bool,
}

/// The settings of the operators' listener (`[admin]`).
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// The address of the operators' listener. It must be a loopback address if operators need no
    /// certificate.
    pub address: SocketAddr,
    /// Patterns of the identities that may change the state of the gateway. If the list is not
    /// empty, a peer whose identity matches no pattern is refused.
    pub operators: Vec<IdentityPattern>,
    /// The path of the operators' socket, over which `countersign` commands reach the gateway.
    pub socket: Option<PathBuf>,
}

/// The destination of audit lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditDestination {
    /// Standard output.
    Stdout,
    /// A file to which audit lines are appended.
    File(PathBuf),
}
