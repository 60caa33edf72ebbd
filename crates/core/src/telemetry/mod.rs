//! Output for operators: logs, metrics, the audit log.
//!
//! - `record`: the audit line of a request
//! - `operator`: the audit line of an operator's action
//! - `audit`: writes the audit log
//! - `audit_file`: opens the file of the audit log
//! - `audit_health`: whether audit lines can be written, and how many were lost
//! - `chains`: keeps the certificate chains of callers, so that their verification can be repeated
//!   later
//! - `eviction_log`: counts evicted connections
//! - `handshake_sources`: detects whether most handshakes come from one address
//! - `log`: the human-readable log on standard error
//!
//! The folder below these files:
//!
//! - `metrics`: the gateway's counters

pub mod audit;
pub mod audit_file;
pub mod audit_health;
pub mod chains;
pub mod eviction_log;
pub mod handshake_sources;
pub mod log;
pub mod metrics;
pub mod operator;
pub mod record;
