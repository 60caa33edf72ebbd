//! Countersign: a mutual-TLS identity gateway with embedded PKI tooling.
//!
//! This is the program: it parses arguments, runs the command and exits. `cli` and `app` are
//! modules of the program. `proxy`, `admin`, `config` and `pki` are separate crates with the same
//! names. All other modules are in `crates/core`.
//!
//! The modules are listed in their tiers, from top to bottom. A module imports only from lower
//! tiers, and not from its own tier. Cargo and `tests/architecture` check this.
//!
//! 1. Commands
//!    - [`cli`]: the command line: reads arguments, prints results, decides nothing
//! 2. The process
//!    - [`app`]: starts, connects and stops all parts; watches files and reloads
//! 3. The services of the process, and its configuration
//!    - [`proxy`]: the path of a request, from the listening socket to its response
//!    - [`admin`]: the control plane: public and operators' listeners, operators' socket
//!    - [`config`]: the configuration file, and everything that is built from it
//! 4. State
//!    - [`snapshot`]: the immutable state that decides about requests, and process settings
//! 5. Routes
//!    - [`route`]: selects a route by host, path and method
//! 6. Parts of the request path, and the authority
//!    - [`authn`]: credentials of requests, and token issuers
//!    - [`crl_fetch`]: fetches CRLs by URL
//!    - [`assertion`]: signing keys, assertions about requests
//!    - [`upstream`]: services: endpoints, balancing, pools of connections
//!    - [`pki`]: the certificate authority
//! 7. TLS and policy
//!    - [`tls`]: TLS to callers and to services, session tickets
//!    - [`policy`]: rules, permits, rate limits, shares of callers
//! 8. Trust
//!    - [`trust`]: bundles, certificate paths, revocation, deny list, path cache
//! 9. Counters, records and fetched documents
//!    - [`connection_slots`]: limits a listener's connections, and decides which one is evicted
//!    - [`telemetry`]: audit log, metrics, logs
//!    - [`http_client`]: fetches small documents, for example keys and CRLs
//! 10. Identity
//!     - [`identity`]: names of callers, patterns, verified identities
//! 11. Cryptography and locks
//!     - [`crypto`]: the only user of ring or AWS-LC
//!     - [`directory_lock`](countersign_core::directory_lock): lets one process at a time change
//!       a directory
//! 12. Secrets
//!     - [`secret`]: bytes that are wiped and never printed
//! 13. Files
//!     - [`file_access`]: keeps owner, group and mode of files that are replaced
//!     - [`file_read`](countersign_core::file_read): reads files safely
//!     - [`file_stamp`]: detects that a file has changed
//!     - [`pem`]: reads PEM
//! 14. The system, codes and small tools
//!     - [`clock`]: the only reader of the wall clock
//!     - [`der`](countersign_core::der): reads the first DER element of some bytes, and writes elements
//!     - [`descriptors`]: file descriptors, and how they are divided among their uses
//!     - [`h2_frames`](countersign_core::h2_frames): HTTP/2 frames in raw bytes
//!     - [`now_or_later`](countersign_core::now_or_later): a result, or the future that produces it
//!     - [`reason`]: reason codes
//! 15. Tests
//!     - [`kill_point`](countersign_core::kill_point): lets unit tests end a process between two
//!       file operations

#![allow(
    unreachable_pub,
    unnameable_types,
    reason = "the items of a program have no users outside it"
)]

mod app;
mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use countersign_admin as admin;
use countersign_config as config;
use countersign_core::{
    assertion, authn, clock, connection_slots, crl_fetch, crypto, descriptors, file_access,
    file_stamp, http_client, identity, pem, policy, reason, route, secret, snapshot, telemetry,
    tls, trust, upstream,
};
use countersign_pki as pki;
use countersign_proxy as proxy;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(&cli::Cli::parse()).into()
}
