//! A relay for programs that cannot present a client certificate. It accepts connections without
//! TLS, and forwards their bytes over TLS connections with the client certificate of a
//! [`Client`].

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::Client;

/// A running relay. The operating system selects its port. Dropping the relay stops it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay. For each connection that the relay accepts, `client` opens a TLS
    /// connection to the gateway.
    ///
    /// # Panics
    /// If no port is available.
    pub async fn start(client: &Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = client.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let _ = near.set_nodelay(true);
                let client = client.clone();
                tokio::spawn(async move {
                    // If the gateway refuses the connection, the program sees its connection close.
                    if let Ok(mut far) = client.connect().await {
                        let _ = tokio::io::copy_bidirectional(&mut near, far.stream_mut()).await;
                    }
                });
            }
        });
        Self { address, task }
    }

    /// Returns the address on which the relay listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
