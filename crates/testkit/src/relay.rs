//! For programs that cannot present a client certificate: plain octets in, TLS
//! with the certificate out.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::Client;

/// A relay on a port of the system's choice. It ends with its value.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Passes each connection on over one that `client` makes.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn start(client: &Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = client.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let _ = near.set_nodelay(true);
                let client = client.clone();
                tokio::spawn(async move {
                    // Whoever is refused sees the connection end.
                    if let Ok(mut far) = client.connect().await {
                        let _ = tokio::io::copy_bidirectional(&mut near, far.stream_mut()).await;
                    }
                });
            }
        });
        Self { address, task }
    }

    /// Where it listens.
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
