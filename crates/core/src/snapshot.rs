//! `Snapshot`: the immutable state that decides about requests, and the settings of the
//! process around it.
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
use crate::tls::{Credentials, ServerEntry, ServerNames, TicketSource};
use crate::trust::{DenyList, PathCache, TrustBundle};
use crate::upstream::Upstream;

/// The state that decides about requests, built from one configuration and its material.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the snapshots put into service: configurations and changed material.
    pub generation: u64,
    /// TLS configurations by server name.
    pub server_names: ServerNames,
    /// All trust bundles.
    pub bundles: Vec<Arc<TrustBundle>>,
    /// How long the files of a trust domain may stay unreadable before its `hard`
    /// posture refuses; trust domains without such a bound are left out.
    pub max_unread: BTreeMap<TrustDomain, Duration>,
    /// The routes.
    pub routes: RouteTable,
    /// All upstreams.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Signs assertions.
    pub signer: AssertionSigner,
    /// The issuers whose tokens are accepted.
    pub token_issuers: Vec<Arc<TokenIssuer>>,
    /// Counts requests for rate limits. The counts are kept over reloads.
    pub limiter: Limiter,
    /// The API keys of callers without a certificate.
    pub api_keys: Arc<ApiKeys>,
    /// The limits of connections, requests and time.
    pub limits: Limits,
    /// Peers whose connections begin with a PROXY header.
    pub balancers: Vec<IpNet>,
    /// The gateway's certificate on the public listener, if the listener speaks TLS.
    pub public_credentials: Option<Credentials>,
    /// Verified chains; shared with earlier and later snapshots.
    pub path_cache: Arc<PathCache>,
    /// The keys of session tickets; continues over reloads.
    pub tickets: TicketSource,
    /// Callers and certificates that are refused immediately; continues over reloads.
    pub deny_list: Option<Arc<DenyList>>,
    /// Fetches CRLs by URL; continues over reloads.
    pub crl_fetcher: Arc<CrlFetcher>,
    /// The CRLs that are fetched by URL.
    pub crl_sources: Vec<CrlSource>,
    /// The operators that may connect over the network; absent if there are none.
    pub operators: Option<Operators>,
}

/// The identities that may operate the gateway with a certificate, and the TLS settings of
/// their connections.
#[derive(Debug)]
pub struct Operators {
    /// The gateway's certificate, and the trust domains that callers are verified by.
    pub entry: ServerEntry,
    /// The identities of operators.
    pub patterns: Vec<IdentityPattern>,
}

impl Snapshot {
    /// Returns the fields that only the gateway may send: assertion and API key.
    #[must_use]
    pub fn private_fields(&self) -> [http::HeaderName; 2] {
        let assertion = &self.signer.settings().header;
        [assertion.clone(), self.api_keys.header().clone()]
    }

    /// Returns a stamp of the state that decisions about identities depend on, except the time.
    /// A different stamp means that decisions have to be made again.
    #[must_use]
    pub fn trust_stamp(&self) -> TrustStamp {
        TrustStamp {
            generation: self.generation,
            deny_epoch: self.deny_list.as_ref().map_or(0, |list| list.epoch()),
        }
    }

    /// Returns the origin of a connection to the listener.
    #[must_use]
    pub fn origin(&self, address: IpAddr) -> Origin {
        match self.is_balancer(address) {
            true => Origin::Balancer,
            false => self.limits.address.key_of(address).into(),
        }
    }

    /// Whether connections from this address begin with a PROXY header.
    #[must_use]
    pub fn is_balancer(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.balancers.iter().any(|net| net.contains(&address))
    }

    /// Returns the key by which connections from this address are counted. None if many peers
    /// share the address, such as that of a balancer.
    #[must_use]
    pub fn counted_address(&self, address: IpAddr) -> Option<ShareKey> {
        if self.is_balancer(address) {
            return None;
        }
        self.limits.address.key_of(address)
    }

    /// Registers the counters of all routes and upstreams. To be called before the snapshot is
    /// put into service.
    pub fn meter(&self, metrics: &Metrics) {
        self.routes.meter(metrics);
        for upstream in &self.upstreams {
            upstream.meter(metrics);
        }
    }

    /// Forgets all remembered tokens, so that each is verified again.
    pub fn forget_tokens(&self) {
        for issuer in &self.token_issuers {
            issuer.cache().purge();
        }
    }

    /// Starts tasks on this runtime that fetch keys of token issuers and keep them fresh. To be
    /// called before the snapshot is put into service.
    pub fn start(&self, runtime: &tokio::runtime::Handle) {
        for issuer in &self.token_issuers {
            issuer.start(runtime);
        }
        if let Some(store) = self.limiter.shared() {
            store.run_on(runtime);
        }
    }
}

/// Identifies the state of a snapshot and its deny list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustStamp {
    generation: u64,
    deny_epoch: u64,
}

/// Limits of connections, requests and time.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections at once.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a request's head may take to arrive, and how long a connection
    /// may be idle between requests.
    pub header_timeout: Duration,
    /// How long a request's body may pause.
    pub body_timeout: Duration,
    /// Most bytes of a request's head.
    pub header_bytes: usize,
    /// Most bytes of a request's body; none for no limit.
    pub body_bytes: Option<u64>,
    /// Maximum total memory of bodies that are read whole.
    pub held_bytes: u64,
    /// Most concurrent streams of one h2 connection.
    pub streams: u32,
    /// How long connections may go on after a signal to stop.
    pub drain_timeout: Duration,
    /// Limits for one caller.
    pub caller: CallerLimits,
    /// Limits for one address.
    pub address: AddressLimits,
}

/// Limits for one caller (`[limits.caller]`).
#[derive(Debug, Clone, Copy)]
pub struct CallerLimits {
    /// Share of all connections.
    pub connections: Share,
    /// Share of the requests in progress at one upstream.
    pub requests_in_flight: Share,
    /// Most tunnels at once.
    pub tunnels: usize,
    /// Share of the memory for buffered bodies.
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

/// Limits for one address (IPv4, or IPv6 network of 64 bits) of resources that need no
/// authentication.
#[derive(Debug, Clone)]
pub struct AddressLimits {
    /// Number of connections with an incomplete handshake. An address with more of them yields
    /// before others if there is no free slot for a new connection.
    pub handshakes_in_progress: usize,
    /// Networks whose addresses are shared by many peers each: such addresses are not counted.
    pub trusted_networks: Vec<IpNet>,
}

impl AddressLimits {
    /// Whether the address is in one of the `trusted_networks`, so that many peers may share it.
    #[must_use]
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_networks
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Returns the key by which an address is counted; none if it is not counted.
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
            body_bytes: None,
            held_bytes: 64 * 1024 * 1024,
            streams: 128,
            drain_timeout: Duration::from_secs(30),
            caller: CallerLimits::default(),
            address: AddressLimits::default(),
        }
    }
}

/// Settings that cannot change without a restart.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The listener's address.
    pub address: SocketAddr,
    /// Worker threads; one per core if absent.
    pub workers: Option<usize>,
    /// The public, read-only listener.
    pub public: Option<PublicSettings>,
    /// The operators' listener.
    pub admin: Option<AdminSettings>,
    /// The destination of audit lines.
    pub audit: AuditDestination,
    /// The directory in which the chains of callers are kept, if they are.
    pub audit_chains: Option<PathBuf>,
}

/// The settings of `[public]`.
#[derive(Debug, Clone)]
pub struct PublicSettings {
    /// The listener's address.
    pub address: SocketAddr,
    /// TLS with these credentials; plain HTTP if absent.
    pub tls: Option<Credentials>,
    /// Serve JWKS and metadata.
    pub keys: bool,
    /// Serve `/healthz` and `/readyz`.
    pub health: bool,
    /// Serve `/metrics`.
    pub metrics: bool,
}

/// The settings of `[admin]`.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// The listener's address: on loopback, unless operators need a certificate.
    pub address: SocketAddr,
    /// Identities that may do more than read. If there are any, no other peer may do anything.
    pub operators: Vec<IdentityPattern>,
    /// The private socket that the command line uses.
    pub socket: Option<PathBuf>,
}

/// The destination of audit lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditDestination {
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}
