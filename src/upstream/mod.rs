//! The services behind the gateway: endpoints and pooled connections.

pub mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host name or IP address, without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

/// What an upstream is built from.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Its name in the configuration.
    pub name: String,
    /// Its addresses; at least one.
    pub endpoints: Vec<Endpoint>,
    /// The `Host` sent to it; the caller's where none is set.
    pub host: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the head of the response may take to arrive.
    pub first_byte_timeout: Duration,
    /// How long an idle pooled connection is kept.
    pub idle_timeout: Duration,
}

/// A named destination.
#[derive(Debug)]
pub struct Upstream {
    config: UpstreamConfig,
    next: AtomicUsize,
}

impl Upstream {
    /// An upstream with its endpoints.
    #[must_use]
    pub const fn new(config: UpstreamConfig) -> Self {
        Self {
            config,
            next: AtomicUsize::new(0),
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Names, addresses and timeouts.
    #[must_use]
    pub const fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// The next endpoint, in turn.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.config
            .endpoints
            .get(turn.checked_rem(self.config.endpoints.len())?)
    }
}
