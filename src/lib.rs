//! Countersign: a mutual-TLS identity gateway with embedded PKI tooling.

pub mod admin;
pub mod app;
pub mod assertion;
pub mod authn;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod descriptors;
pub mod directory_lock;
pub mod file_read;
pub mod file_stamp;
pub mod h2_frames;
pub mod identity;
mod kill_point;
pub mod pem;
pub mod pki;
pub mod policy;
pub mod proxy;
pub mod reason;
pub mod route;
pub mod secret;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod trust;
pub mod upstream;
