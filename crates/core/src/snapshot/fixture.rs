//! Builds a snapshot for unit tests. The snapshot has new signing keys, and no route that a caller
//! could use.
#![allow(
    clippy::unwrap_used,
    reason = "only tests use this, but a crate above is no test of this one"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Limits, Snapshot};
use crate::assertion::{
    AssertionSettings, AssertionSigner, DEFAULT_MAX_SIZE, SigningAlgorithm, SigningKeyRing,
    key_directory,
};
use crate::authn::api_key::{ApiKeys, DEFAULT_HEADER};
use crate::policy::throttle::Limiter;
use crate::route::RouteTable;
use crate::tls::{ServerNames, TicketSource};

/// The issuer in assertions of this snapshot.
pub const ISSUER: &str = "https://gateway.example.org:9080";

/// Creates a snapshot with generation 7, and with new signing keys in the directory `keys`.
pub fn snapshot(keys: &Path) -> Snapshot {
    let now = crate::clock::unix_now();
    key_directory::generate(keys, SigningAlgorithm::Es256, now).unwrap();
    let ring = SigningKeyRing::load(keys, SigningAlgorithm::Es256).unwrap();
    let settings = AssertionSettings {
        issuer: ISSUER.to_owned(),
        header: http::HeaderName::from_static("countersign-assertion"),
        lifetime: Duration::from_secs(30),
        max_size: DEFAULT_MAX_SIZE,
    };
    Snapshot {
        generation: 7,
        server_names: ServerNames::new(Vec::new(), &TicketSource::default()).unwrap(),
        bundles: Vec::new(),
        max_unread: std::collections::BTreeMap::new(),
        routes: RouteTable::build(Vec::new()).unwrap(),
        upstreams: Vec::new(),
        signer: AssertionSigner::new(settings, Arc::new(ring)),
        token_issuers: Vec::new(),
        limiter: Limiter::default(),
        api_keys: Arc::new(ApiKeys::none(DEFAULT_HEADER)),
        path_cache: Arc::default(),
        tickets: TicketSource::default(),
        deny_list: None,
        crl_fetcher: Arc::default(),
        crl_sources: Vec::new(),
        public_credentials: None,
        operators: None,
        own_certificates: Vec::new(),
        balancers: Vec::new(),
        limits: Limits::default(),
    }
}
