//! Countersign: a mutual-TLS identity gateway with embedded PKI tooling.
//!
//! All modules in their tiers, from top to bottom. A module imports from lower tiers only, and
//! not from its own tier; `tests/architecture` checks this.
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
//!    - [`crl_fetch`]: revocation lists by URL
//!    - [`assertion`]: signing keys, assertions about requests
//!    - [`upstream`]: services: endpoints, balancing, pools of connections
//!    - [`pki`]: the certificate authority
//! 7. TLS and policy
//!    - [`tls`]: TLS to callers and to services, session tickets
//!    - [`policy`]: rules, permits, rate limits, shares of callers
//! 8. Trust
//!    - [`trust`]: bundles, certificate paths, revocation, deny list, path cache
//! 9. Counters, records and fetched documents
//!    - [`connection_slots`]: how many connections a listener has, and which yields
//!    - [`telemetry`]: audit log, metrics, logs
//!    - [`http_client`]: fetches small documents, as keys and revocation lists
//! 10. Identity
//!     - [`identity`]: names of callers, patterns, verified identities
//! 11. Cryptography and locks
//!     - [`crypto`]: the only user of ring or AWS-LC
//!     - [`directory_lock`]: lets one process at a time change a directory
//! 12. Secrets
//!     - [`secret`]: bytes that are wiped and never printed
//! 13. Files
//!     - [`file_read`]: reads files safely
//!     - [`file_stamp`]: notices that a file changed
//!     - [`pem`]: reads PEM
//! 14. The system, codes and small tools
//!     - [`clock`]: the only reader of the wall clock
//!     - [`descriptors`]: file descriptors, and how they are divided
//!     - [`h2_frames`]: HTTP/2 frames in raw bytes
//!     - [`now_or_later`]: a result, or the future that makes it
//!     - [`reason`]: reason codes
//! 15. Tests
//!     - `kill_point`: lets unit tests end a process between two file operations

pub mod admin;
pub mod app;
pub mod assertion;
pub mod authn;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection_slots;
pub mod crl_fetch;
pub mod crypto;
pub mod descriptors;
pub mod directory_lock;
pub mod file_read;
pub mod file_stamp;
pub mod h2_frames;
pub mod http_client;
pub mod identity;
mod kill_point;
pub mod now_or_later;
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
