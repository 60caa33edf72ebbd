//! What operators see: logs, metrics, the audit log.

pub mod audit;
pub mod chains;
pub mod cuts;
pub mod eviction_log;
pub mod handshake_sources;
mod histogram;
pub mod log;
pub mod metrics;
pub mod operator;
pub mod record;
