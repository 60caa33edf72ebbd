//! An upstream that responds to every request with the bytes that a test gives. The bytes need
//! not be valid HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a [`Scripted`] upstream does with a connection after it has sent the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Closes the connection.
    Close,
    /// Keeps the connection open and sends nothing more.
    Hang,
    /// Waits for the next request on the connection, and sends the same bytes again.
    Again,
}

/// An upstream that reads the head of a request, and then sends the bytes that were given to
/// [`Scripted::start`]. [`Afterwards`] says what the upstream does with the connection after that.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// Starts the upstream. It responds to every request with `octets`.
    ///
    /// # Panics
    /// If no port is available.
    pub async fn start(octets: impl Into<Vec<u8>>, afterwards: Afterwards) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let octets: Arc<[u8]> = octets.into().into();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let octets = Arc::clone(&octets);
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let _ = answer(stream, &octets, afterwards, &counter).await;
                });
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// Returns the address on which the upstream listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many requests the upstream has received.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads the head of a request up to its empty line, and no byte of the body.
///
/// # Errors
/// If the connection ends or fails before the end of the head.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

async fn answer(
    mut stream: TcpStream,
    octets: &[u8],
    afterwards: Afterwards,
    requests: &AtomicUsize,
) -> io::Result<()> {
    loop {
        read_head(&mut stream).await?;
        requests.fetch_add(1, Ordering::Relaxed);
        stream.write_all(octets).await?;
        match afterwards {
            Afterwards::Again => {}
            Afterwards::Close => return stream.shutdown().await,
            Afterwards::Hang => {
                // Waits until the gateway closes the connection.
                let mut rest = [0_u8; 4096];
                while stream.read(&mut rest).await? > 0 {}
                return Ok(());
            }
        }
    }
}
