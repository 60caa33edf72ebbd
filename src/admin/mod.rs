//! What the gateway answers about itself: the public and the operators' listener.
//!
//! Both are read-only and name no callers. `public` has the answers, `server`
//! the connections and the operators' extra check, `readiness` the state of the
//! process. Nothing here changes what the gateway does.

pub mod public;
pub mod readiness;
mod reasons;
pub mod server;

pub use public::{ControlState, Offered, router};
pub use readiness::{Readiness, Stage};
pub use server::{ListenerTls, operators_router, serve, server_only_config};
