//! [`Shelf`]: an https server that gives the same response to all requests. A test can replace
//! the response.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::Credentials;
use crate::scripted::read_head;

/// The response of a [`Shelf`] to every request.
#[derive(Debug, Clone)]
pub enum Item {
    /// A response with status 200 and these bytes as content.
    Document(Vec<u8>),
    /// A response with status 200 and this many meaningless bytes, without `Content-Length`.
    Endless(usize),
    /// A response with this status and without content.
    Status(u16),
    /// No response. The server closes the connection after this time.
    Silence(Duration),
}

/// A running https server. Dropping this value stops the server.
#[derive(Debug)]
pub struct Shelf {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    item: Item,
    asked: usize,
}

impl Shelf {
    /// Starts a server that presents `credentials`, which must be for `localhost`.
    ///
    /// # Panics
    /// If no port is available.
    pub async fn start(credentials: &Credentials, item: Item) -> Self {
        let config = rustls::ServerConfig::builder_with_provider(crate::protocol::provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(credentials.chain.clone(), credentials.key())
            .expect("a certificate");
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { item, asked: 0 }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, state) = (tls.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let _ = answer(tls, stream, state).await;
                });
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    /// Returns the URL at which a client gets the response.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}/list.crl", self.address.port())
    }

    /// Replaces the response to all later requests.
    ///
    /// # Panics
    /// If a thread panicked while it held the lock of the response.
    pub fn put(&self, item: Item) {
        self.state.lock().expect("a lock").item = item;
    }

    /// Returns how many requests the server has received.
    ///
    /// # Panics
    /// If a thread panicked while it held the lock of the response.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.state.lock().expect("a lock").asked
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    tls: TlsAcceptor,
    stream: TcpStream,
    state: Arc<Mutex<State>>,
) -> std::io::Result<()> {
    let mut stream = tls.accept(stream).await?;
    read_head(&mut stream).await?;
    let item = {
        let mut state = state.lock().expect("a lock");
        state.asked += 1;
        state.item.clone()
    };
    let head = |status: u16, length: usize| {
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    match item {
        Item::Document(octets) => {
            stream.write_all(head(200, octets.len()).as_bytes()).await?;
            stream.write_all(&octets).await?;
        }
        Item::Endless(length) => {
            stream
                .write_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")
                .await?;
            let block = vec![0x30; 64 * 1024];
            for _ in 0..length / block.len() {
                stream.write_all(&block).await?;
            }
        }
        Item::Status(status) => stream.write_all(head(status, 0).as_bytes()).await?,
        Item::Silence(time) => tokio::time::sleep(time).await,
    }
    stream.shutdown().await
}
