//! `Addresses`: the addresses of an endpoint that is configured as a host name.
//!
//! When a request uses the endpoint, a new look-up starts if the last one is older than
//! `dns_refresh`. If a look-up fails, the last good result stays in use. If an address is no longer
//! in the result, connections to the address get no further requests.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::identity::text::printable;
use crate::upstream::config::target::Endpoint;

/// Maximum number of addresses that are used for one host name.
const MAX_ADDRESSES: usize = 16;
/// Maximum time for one DNS look-up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses of one endpoint.
#[derive(Debug)]
pub(in crate::upstream) struct Addresses {
    endpoint: Endpoint,
    location: Location,
}

#[derive(Debug)]
enum Location {
    Fixed(SocketAddr),
    Named(Named),
}

#[derive(Debug)]
struct Named {
    refresh: Duration,
    known: Mutex<Known>,
    looking: AtomicBool,
    next: AtomicUsize,
}

/// The addresses that the last successful look-up found, and the time of the last look-up.
#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    asked: Option<Instant>,
}

impl Known {
    fn is_stale(&self, refresh: Duration) -> bool {
        self.asked.is_none_or(|asked| asked.elapsed() >= refresh)
    }

    /// Replaces the addresses by the result of a look-up. If the result is empty, keeps the
    /// addresses and returns false.
    fn take(&mut self, found: Vec<SocketAddr>) -> bool {
        self.asked = Some(Instant::now());
        if found.is_empty() {
            return false;
        }
        self.addresses = found;
        self.addresses.truncate(MAX_ADDRESSES);
        true
    }
}

impl Addresses {
    pub(in crate::upstream) fn new(endpoint: &Endpoint, refresh: Duration) -> Self {
        let location = match endpoint.host.parse::<IpAddr>() {
            Ok(address) => Location::Fixed(SocketAddr::new(address, endpoint.port)),
            Err(_) => Location::Named(Named {
                refresh,
                known: Mutex::default(),
                looking: AtomicBool::new(false),
                next: AtomicUsize::new(0),
            }),
        };
        Self {
            endpoint: endpoint.clone(),
            location,
        }
    }

    pub(in crate::upstream) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns all addresses of the endpoint. Each call starts with another address, so that
    /// connections are spread over the addresses. Waits for a DNS look-up only if no address is
    /// known yet.
    pub(in crate::upstream) async fn all(self: &Arc<Self>) -> io::Result<Vec<SocketAddr>> {
        let named = match &self.location {
            Location::Fixed(address) => return Ok(vec![*address]),
            Location::Named(named) => named,
        };
        if named.known().addresses.is_empty() {
            self.look_up(named).await?;
        } else {
            self.refresh_in_background();
        }
        let mut addresses = named.known().addresses.clone();
        let turn = named.next.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(first);
        Ok(addresses)
    }

    /// Whether `address` was in the result of the last successful look-up. Always true if the
    /// endpoint is configured as an IP address.
    pub(in crate::upstream) fn still_has(self: &Arc<Self>, address: SocketAddr) -> bool {
        let Location::Named(named) = &self.location else {
            return true;
        };
        self.refresh_in_background();
        named.known().addresses.contains(&address)
    }

    fn refresh_in_background(self: &Arc<Self>) {
        if let Location::Named(named) = &self.location
            && named.known().is_stale(named.refresh)
            && !named.looking.swap(true, Ordering::AcqRel)
        {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                if let Location::Named(named) = &this.location {
                    let looked = this.look_up(named).await;
                    if let Err(error) = looked {
                        tracing::warn!(host = %printable(&this.endpoint.host), %error,
                            "the host was not found again; its last addresses stay in use");
                    }
                    named.looking.store(false, Ordering::Release);
                }
            });
        }
    }

    async fn look_up(&self, named: &Named) -> io::Result<()> {
        let looking = tokio::net::lookup_host((&*self.endpoint.host, self.endpoint.port));
        let found = match tokio::time::timeout(LOOKUP_TIMEOUT, looking).await {
            Ok(found) => found.map(Iterator::collect::<Vec<_>>),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let (found, error) = match found {
            Ok(found) => (found, io::Error::other("the name has no address")),
            Err(error) => (Vec::new(), error),
        };
        if named.known().take(found) {
            Ok(())
        } else {
            Err(error)
        }
    }
}

impl Named {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str) -> Endpoint {
        Endpoint {
            host: host.into(),
            port: 80,
        }
    }

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 80))
    }

    #[test]
    fn a_failed_look_up_keeps_the_last_good_answer() {
        let mut known = Known::default();
        assert!(known.is_stale(Duration::MAX));
        assert!(known.take(vec![address(1), address(2)]));
        assert!(!known.is_stale(Duration::from_secs(3600)) && known.is_stale(Duration::ZERO));
        assert!(!known.take(Vec::new()));
        assert_eq!(known.addresses, [address(1), address(2)]);
        assert!(!known.is_stale(Duration::from_secs(3600)));
        assert!(known.take((0..100).map(address).collect()));
        assert_eq!(known.addresses.len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn addresses_come_in_turn_and_gone_ones_are_not_used() {
        let addresses = Arc::new(Addresses::new(&endpoint("service"), Duration::MAX));
        let Location::Named(named) = &addresses.location else {
            panic!("a name was taken for an address");
        };
        named.known().take(vec![address(1), address(2)]);
        assert_eq!(addresses.all().await.unwrap(), [address(1), address(2)]);
        assert_eq!(addresses.all().await.unwrap(), [address(2), address(1)]);
        assert!(addresses.still_has(address(1)));
        named.known().take(vec![address(2)]);
        assert!(!addresses.still_has(address(1)));

        let fixed = Arc::new(Addresses::new(&endpoint("::1"), Duration::ZERO));
        assert_eq!(fixed.all().await.unwrap(), ["[::1]:80".parse().unwrap()]);
        assert!(fixed.still_has(address(9)));
    }
}
