//! Attacks without requests to services: silent connections, handshakes with certificate chains
//! that are expensive to verify, and idle connections to the public listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_testkit::{Authority, AuthoritySpec, Client, Credentials, Leaf, TestCa};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::arena::Arena;

/// How long an attacker keeps silent or idle connections open.
const HOLD: Duration = Duration::from_secs(2);
/// The pause between two handshakes of one attacker.
const PAUSE: Duration = Duration::from_millis(5);
/// The number of successive handshakes before the attacker changes the kind of attack.
const HANDSHAKES: usize = 300;

/// The certificate chains that the attackers of this module present.
#[derive(Clone)]
pub(crate) struct Strangers {
    forged: Credentials,
    genuine: Credentials,
}

impl Strangers {
    /// Prepares the chains. The forged chain has seven intermediates with the name of the real
    /// intermediate, so that the gateway must try all of them. The genuine chain belongs to a valid
    /// caller.
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

    /// Performs four kinds of attacks in turn, without end. `first` selects the first kind.
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

/// Performs full handshakes, one after the other. A handshake may fail.
async fn handshakes(client: &Client) {
    for _ in 0..HANDSHAKES {
        drop(client.connect().await);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Opens `count` connections, sends `bytes` on each, and holds them for [`HOLD`].
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
