//! Starts, connects and stops all parts; watches files and reloads.
//!
//! - `start`: starts and stops the gateway; the only place that connects the parts
//! - `control_plane`: starts the servers of the control plane
//! - `crl_refresh`: fetches CRLs by URL and requests their loading
//! - `denials`: rechecks connections when the deny list changes
//! - `freshness`: updates the metrics of certificates and CRLs
//! - `health`: runs the active health checks
//! - `listeners`: the bound sockets of a gateway that is not serving yet
//! - `error`: the reasons why the gateway could not start or continue
//!
//! Below:
//!
//! - `reload`: puts changes on disk into service

mod control_plane;
mod crl_refresh;
mod denials;
mod error;
mod freshness;
mod health;
mod listeners;
mod reload;
mod start;

pub use self::error::AppError;
pub use self::listeners::{Addresses, Listeners, write_ready_file};
pub use self::reload::impact;
pub use self::start::{serve, worker_count};
