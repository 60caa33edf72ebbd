//! A service for protocols that begin with an upgrade of HTTP/1.1, or with extended CONNECT over
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

/// A service that accepts an upgrade to any protocol. After the upgrade, it sends all received
/// text back in capitals.
///
/// Over h2, a tunnel begins with extended CONNECT, and the path of the request selects the
/// response. If the request is not extended CONNECT, the response is 426 for all paths except
/// `…/refuse` and `…/feign`:
///
/// | Path | Response |
/// |---|---|
/// | `…/refuse` | 403 with a body |
/// | `…/feign` | 204, which opens no tunnel |
/// | `…/deaf` | 200, and the service never reads from the tunnel |
/// | `…/held` | as for other paths, but only after [`Switching::release`] |
/// | others | 200, and the tunnel with the echo |
#[derive(Debug)]
pub struct Switching {
    address: SocketAddr,
    seen: Arc<Seen>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// The heads of the received requests, and one permit for each request for `…/held` that the
/// service may answer (see [`Switching::release`]).
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

/// The protocols that a [`Switching`] service accepts.
#[derive(Clone)]
enum Speaks {
    Http1,
    /// HTTP/1.1 or h2, as the client selects. If `announces` is true, the service announces
    /// extended CONNECT in its h2 settings.
    Either {
        announces: bool,
        tls: Option<TlsAcceptor>,
    },
}

impl Switching {
    /// Starts a service that accepts only HTTP/1.1.
    ///
    /// # Panics
    /// If no port is available.
    pub async fn start() -> Self {
        Self::speaking(Speaks::Http1).await
    }

    /// Starts a service that accepts h2 and HTTP/1.1 on the same port. If `announces` is true,
    /// the service announces extended CONNECT. If `server` is given, the service uses TLS with
    /// that certificate.
    ///
    /// # Panics
    /// If no port is available or the certificate is not usable.
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

    /// Lets the service respond to one request for the path `…/held`.
    pub fn release(&self) {
        self.seen.released.add_permits(1);
    }

    /// Returns the address on which the service listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the request heads that the service has received. A head of h2 is written like a
    /// head of HTTP/1.1, with the value of `:protocol` in place of the HTTP version.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().expect("a lock").clone()
    }

    /// Returns how many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits until no connection is open.
    ///
    /// # Panics
    /// If a connection is still open at the deadline.
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

/// Serves an h2 connection: responds to its requests, and serves the tunnels that they open.
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
                            // The service keeps the tunnel open, but does not read from it or write
                            // to it.
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
