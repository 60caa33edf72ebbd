//! An upstream that answers every request with given octets, well-formed or not.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a [`Scripted`] upstream does once it has sent its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Closes the connection.
    Close,
    /// Keeps it open and silent.
    Hang,
    /// Waits for the next request.
    Again,
}

/// An upstream that reads a request's head, sends its octets, and then closes,
/// hangs or starts again.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// Starts it.
    ///
    /// # Panics
    /// When there is no port to listen on.
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

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has received.
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

/// Reads a request's head, and nothing of what follows it.
///
/// # Errors
/// When the connection ends or breaks before the head does.
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
                // Until the other side gives up.
                let mut rest = [0_u8; 4096];
                while stream.read(&mut rest).await? > 0 {}
                return Ok(());
            }
        }
    }
}
