//! `Switching`: a service behind protocols that begin with an upgrade, in HTTP/1.1 and
//! h2.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::credentials::Credentials;
use crate::protocol::Protocol;
use crate::scripted::read_head;
use crate::service::acceptor;

/// A service that switches to whatever protocol it is asked for and then sends
/// back what it receives, in capitals.
///
/// In h2 it is asked by extended CONNECT, and the path says how it answers:
///
/// | Path | Answer |
/// |---|---|
/// | `…/refuse` | 403 with a body |
/// | `…/feign` | 204, which switches nothing |
/// | `…/deaf` | 200, and nothing is read from then on |
/// | `…/held` | what others get, once [`Switching::release`] says so |
/// | others | 200, and the echo |
#[derive(Debug)]
pub struct Switching {
    address: SocketAddr,
    seen: Arc<Seen>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// What it has received, and may answer.
#[derive(Debug)]
struct Seen {
    heads: Mutex<Vec<String>>,
    released: Semaphore,
}

impl Seen {
    fn note(&self, head: String) {
        self.heads.lock().expect("a lock").push(head);
    }
}

/// What a [`Switching`] service speaks.
#[derive(Clone)]
enum Speaks {
    Http1,
    /// Both, as the caller likes; in h2 tunnels are announced or not.
    Either {
        announces: bool,
        tls: Option<TlsAcceptor>,
    },
}

impl Switching {
    /// Starts one that speaks HTTP/1.1.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn start() -> Self {
        Self::speaking(Speaks::Http1).await
    }

    /// Starts one that speaks h2, where it announces extended CONNECT or does not, and
    /// HTTP/1.1 on the same port; with TLS under this certificate, where there is one.
    ///
    /// # Panics
    /// When there is no port to listen on or the certificate is unusable.
    pub async fn http2(announces: bool, server: Option<&Credentials>) -> Self {
        let tls = server.map(|server| {
            let protocols = [Protocol::Http2, Protocol::Http1];
            acceptor(&(server.clone(), None), &protocols)
        });
        Self::speaking(Speaks::Either { announces, tls }).await
    }

    async fn speaking(speaks: Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Seen {
            heads: Mutex::default(),
            released: Semaphore::new(0),
        });
        let open = Arc::new(AtomicUsize::new(0));
        let (noted, counter) = (Arc::clone(&seen), Arc::clone(&open));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, counter, speaks) = (noted.clone(), counter.clone(), speaks.clone());
                tokio::spawn(async move {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let _ = speak(stream, speaks, seen).await;
                    counter.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self {
            address,
            seen,
            open,
            task,
        }
    }

    /// Lets it answer one request that is held.
    pub fn release(&self) {
        self.seen.released.add_permits(1);
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads it has received. One in h2 is written like one in HTTP/1.1, its
    /// protocol in place of the version.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().expect("a lock").clone()
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits until none is.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn all_closed(&self) {
        crate::until("the service's connections to end", async || {
            self.open() == 0
        })
        .await;
    }
}

impl Drop for Switching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn speak(stream: TcpStream, speaks: Speaks, seen: Arc<Seen>) -> std::io::Result<()> {
    match speaks {
        Speaks::Http1 => switch(stream, &seen).await,
        Speaks::Either {
            announces,
            tls: None,
        } => {
            let mut first = [0_u8; 4];
            loop {
                match stream.peek(&mut first).await? {
                    0 => return Ok(()),
                    count if count == first.len() => break,
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
            match &first {
                b"PRI " => carry(stream, announces, seen).await,
                _ => switch(stream, &seen).await,
            }
        }
        Speaks::Either {
            announces,
            tls: Some(acceptor),
        } => {
            let stream = acceptor.accept(stream).await?;
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => carry(stream, announces, seen).await,
                _ => switch(stream, &seen).await,
            }
        }
    }
}

async fn switch<S>(mut stream: S, seen: &Seen) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = read_head(&mut stream).await?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let protocol = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("upgrade:")
            .map(|v| v.trim().to_owned())
    });
    seen.note(head);
    let Some(protocol) = protocol else {
        stream
            .write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
            .await?;
        return Ok(());
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Accept: x\r\nCountersign-Reason: forged\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    capitals(stream).await
}

async fn capitals(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut buffer = [0_u8; 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream
            .write_all(&buffer[..count].to_ascii_uppercase())
            .await?;
    }
}

/// Tunnels in h2.
async fn carry<S>(stream: S, announces: bool, seen: Arc<Seen>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let path = request.uri().path().to_owned();
            let protocol = request.extensions().get::<hyper::ext::Protocol>();
            let mut head = format!(
                "{} {} {}\r\n",
                request.method(),
                request.uri(),
                protocol.map_or("HTTP/2", hyper::ext::Protocol::as_str)
            );
            for (name, value) in request.headers() {
                head += &format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
            }
            let is_asked = protocol.is_some();
            seen.note(head);
            if path.ends_with("/held")
                && let Ok(permit) = seen.released.acquire().await
            {
                permit.forget();
            }
            let answer = |status: u16, body: &'static str| {
                let body = http_body_util::Full::new(Bytes::from_static(body.as_bytes()));
                Response::builder()
                    .status(status)
                    .body(body)
                    .expect("an answer")
            };
            let answer = match path.rsplit('/').next() {
                Some("refuse") => answer(403, "not for you"),
                Some("feign") => answer(204, ""),
                _ if !is_asked => answer(426, "only tunnels"),
                last => {
                    let deaf = last == Some("deaf");
                    tokio::spawn(async move {
                        let stream = TokioIo::new(hyper::upgrade::on(&mut request).await?);
                        match deaf {
                            // It is held and neither read nor written.
                            true => std::future::pending::<()>().await,
                            false => drop(capitals(stream).await),
                        }
                        Ok::<_, hyper::Error>(())
                    });
                    answer(200, "")
                }
            };
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    if announces {
        builder.enable_connect_protocol();
    }
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    serving.await.map_err(std::io::Error::other)
}
