//! What can be done to a gateway without an identity: connections that say nothing,
//! handshakes that are expensive, and idle connections to the public listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_testkit::{Authority, AuthoritySpec, Client, Credentials, Leaf, TestCa};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::arena::Arena;

/// How long connections are held.
const HOLD: Duration = Duration::from_secs(2);
/// Between two handshakes of one stranger.
const PAUSE: Duration = Duration::from_millis(5);
/// Handshakes in one round.
const HANDSHAKES: usize = 300;

/// Presents this chain again and again.
#[derive(Clone)]
pub(crate) struct Strangers {
    forged: Credentials,
    genuine: Credentials,
}

impl Strangers {
    /// Prepares the chains: seven intermediates with the true one's name, and a caller's
    /// genuine one.
    pub(crate) fn new(ca: &Arc<TestCa>) -> Self {
        let named = |name: &str| Authority::root(&AuthoritySpec::new(name));
        let root = named(&format!("{} root", ca.domain()));
        let intermediate = format!("{} intermediate", ca.domain());
        let forged: Vec<_> = (0..7).map(|_| named(&intermediate)).collect();
        let leaf = Leaf::with_uri(&ca.spiffe("/ns/siege/sa/stranger"));
        let mut hostile = forged[0].issue(leaf).without_intermediates();
        let namesakes = forged.iter().map(|one| root.cross_sign(one));
        hostile.chain.extend(namesakes);
        Self {
            forged: hostile,
            genuine: ca.client("/ns/siege/sa/newcomer"),
        }
    }

    /// Does one thing after the other, without end. `first` tells which one comes first.
    pub(crate) async fn attack(&self, arena: &Arena, first: usize) {
        let client = arena.stranger();
        for round in first.. {
            match round % 4 {
                0 => handshakes(&client.clone().with(&self.forged)).await,
                1 => hold(arena.gateway.listener(), 100, b"").await,
                2 => handshakes(&client.clone().with(&self.genuine)).await,
                _ => {
                    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
                    hold(arena.gateway.public(), 150, request).await;
                }
            }
        }
    }
}

/// Full handshakes, one after the other. That they fail is no failure.
async fn handshakes(client: &Client) {
    for _ in 0..HANDSHAKES {
        drop(client.connect().await);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Opens connections that send this much, and holds them for a while.
async fn hold(address: SocketAddr, count: usize, bytes: &[u8]) {
    let mut held = Vec::new();
    for _ in 0..count {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(bytes).await;
            held.push(stream);
        }
    }
    tokio::time::sleep(HOLD).await;
}
