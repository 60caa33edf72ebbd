//! What operators see: logs, metrics, the audit log.
//!
//! - `record`: the audit line of a request
//! - `operator`: the audit line of an operator's action
//! - `audit`: writes the audit log
//! - `chains`: keeps the chains of callers, so that a decision can be replayed
//! - `eviction_log`: how many connections yielded to newer ones
//! - `handshake_sources`: whether most handshakes come from one address
//! - `log`: the human-readable log on standard error
//!
//! Below:
//!
//! - `metrics`: what the gateway counts

pub mod audit;
pub mod chains;
pub mod eviction_log;
pub mod handshake_sources;
pub mod log;
pub mod metrics;
pub mod operator;
pub mod record;
