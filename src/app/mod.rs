//! Starts, connects and stops all parts; watches files and reloads.
//!
//! - `start`: starts and stops the gateway; only this file connects the parts
//! - `control_plane`: starts the servers of the control plane
//! - `crl_refresh`: fetches CRLs by URL and requests that they are loaded
//! - `denials`: rechecks connections when the deny list changes
//! - `freshness`: logs when CRLs and certificates should be renewed, and updates their metrics
//! - `health`: runs the active health checks
//! - `listeners`: the bound sockets of a gateway that does not serve requests yet
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
pub use self::reload::{comparison, impact};
pub use self::start::{serve, worker_count};
