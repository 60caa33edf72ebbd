//! The services behind the gateway. This module selects endpoints and pools connections. The crate
//! `proxy` decides what is sent to the services.
//!
//! The modules are listed from top to bottom. Each module imports only from modules below it:
//!
//! - `active_health`: asks each endpoint at intervals whether it is healthy
//! - `pool`: leases connections to requests, and keeps idle connections
//! - `balance`: selects endpoints, and remembers which endpoints fail
//! - `connection`: opens one connection and speaks HTTP on it
//! - `limits`: limits on connections and requests
//! - `config`: the configuration of an upstream

pub mod active_health;
pub mod balance;
mod config;
mod connection;
mod limits;
pub mod pool;

pub use self::balance::{Affinity, Upstream};
pub use self::config::header_rules::TraceContext;
pub use self::config::response_limits::ResponseLimits;
pub use self::config::target::{Endpoint, HttpProtocol};
pub use self::config::{
    Balance, CertificateFields, ForwardedFields, HealthCheck, Sharing, UpstreamConfig, forgeable,
    header_rules,
};
pub use self::connection::body::UpstreamBody;
pub use self::connection::error::{
    ConnectError, SendError, ServiceError, find_source, h2_code_name,
};
pub use self::connection::interim::FLOOD;
pub use self::limits::descriptors::limit_connections;
pub use self::limits::preemption::PreemptionSignal;
