//! A service that returns the identifier of each request, and checks that the request's
//! assertion is about this request. The test can kill the service. Another kind of service sends
//! wrong responses.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use countersign_testkit::{Protocol, read_head};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Returns the body that belongs to the request with this identifier: the identifier, repeated
/// up to `length` bytes.
pub(crate) fn content(id: &str, length: usize) -> Vec<u8> {
    id.bytes().cycle().take(length).collect()
}

/// The behaviour of a service.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Correct responses over HTTP/1.1 or h2. The service uses TLS if there is an acceptor.
    Sound(Protocol, Option<TlsAcceptor>),
    /// Different responses over HTTP/1.1: complete ones, and wrong ones. A wrong response is cut
    /// short, malformed, or followed by a response that belongs to no request.
    Misleading,
}

pub(crate) struct Service {
    address: SocketAddr,
    manner: Manner,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Service {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = Mutex::new(Some(tokio::spawn(serve(listener, manner.clone()))));
        Self {
            address,
            manner,
            task,
        }
    }

    /// Returns the URL of the service.
    pub(crate) fn url(&self) -> String {
        let scheme = match &self.manner {
            Manner::Sound(_, Some(_)) => "https",
            Manner::Sound(_, None) | Manner::Misleading => "http",
        };
        format!("{scheme}://{}", self.address)
    }

    /// Stops the service and closes all its connections immediately.
    pub(crate) async fn kill(&self) {
        let task = self.task.lock().expect("a lock").take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }

    /// Starts the service again on the same address, after [`Service::kill`].
    pub(crate) async fn revive(&self) {
        let listener = TcpListener::bind(self.address).await.expect("its port");
        let task = tokio::spawn(serve(listener, self.manner.clone()));
        *self.task.lock().expect("a lock") = Some(task);
    }
}

/// Accepts connections. If the task that runs this function is aborted, all connections end,
/// because `connections` owns the tasks that serve them.
async fn serve(listener: TcpListener, manner: Manner) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let manner = manner.clone();
        connections.spawn(async move {
            match manner {
                Manner::Sound(protocol, None) => converse(stream, protocol).await,
                Manner::Sound(protocol, Some(acceptor)) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        converse(stream, protocol).await;
                    }
                }
                Manner::Misleading => {
                    let _ = mislead(stream).await;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn converse<S>(stream: S, protocol: Protocol)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|mut request: Request<Incoming>| async move {
        if request.headers().contains_key("upgrade") {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(stream) = upgrade.await {
                    let _ = echo(TokioIo::new(stream)).await;
                }
            });
            let answer = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "upgrade")
                .header("upgrade", "soak")
                .body(Full::default());
            return Ok::<_, Infallible>(answer.expect("an answer"));
        }
        Ok(answer(request).await)
    });
    let stream = TokioIo::new(stream);
    let _ = match protocol {
        Protocol::Http1 => {
            http1::Builder::new()
                .serve_connection(stream, service)
                .with_upgrades()
                .await
        }
        Protocol::Http2 => {
            http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await
        }
    };
}

/// Responds to the requests of one connection. The number in the identifier of a request
/// selects whether and how its response is wrong.
async fn mislead(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let head = String::from_utf8_lossy(&read_head(&mut stream).await?).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let id = path.rsplit('/').next().unwrap_or_default();
        let size = head
            .lines()
            .find_map(|line| line.strip_prefix("x-size: ")?.trim().parse().ok())
            .unwrap_or(0);
        let body = content(id, size);
        let start = format!("HTTP/1.1 200 OK\r\nx-id: {id}\r\ncontent-length: {size}\r\n\r\n");
        let number = u64::from_str_radix(id, 16).unwrap_or(0);
        match number % 4 {
            0 if size > 0 => {
                let half = [start.as_bytes(), &body[..size / 2]].concat();
                return stream.write_all(&half).await;
            }
            1 => return stream.write_all(b"nonsense\r\n\r\n").await,
            // Both responses are sent in one write, so that the second response arrives before
            // the gateway has forwarded the first one. The second response belongs to no
            // request.
            2 if size < 1000 => {
                let stolen = b"HTTP/1.1 200 OK\r\nx-id: stolen\r\ncontent-length: 6\r\n\r\nstolen";
                let both = [start.as_bytes(), &body, stolen].concat();
                stream.write_all(&both).await?;
            }
            _ => {
                stream
                    .write_all(&[start.as_bytes(), &body].concat())
                    .await?
            }
        }
    }
}

/// Sends all received bytes back in upper case.
async fn echo(mut stream: TokioIo<hyper::upgrade::Upgraded>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream
            .write_all(&buffer[..count].to_ascii_uppercase())
            .await?;
    }
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        Some(value.to_str().ok()?.to_owned())
    };
    let path = request.uri().path().to_owned();
    let id = path.rsplit('/').next().unwrap_or_default().to_owned();
    let wanted = header("x-size").and_then(|size| size.parse().ok());
    let complaint = complaint(&request, header("x-caller").as_deref());
    let sent = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes());
    let answer = Response::builder().header("x-id", &id);
    let answer = match (complaint, sent, wanted) {
        (Some(complaint), _, _) => answer
            .header("x-complaint", complaint)
            .body(Full::default()),
        (None, Ok(_), Some(size)) => answer.body(Full::from(content(&id, size))),
        (None, Ok(sent), None) => answer.body(Full::from(sent)),
        (None, Err(_), _) => answer.status(StatusCode::BAD_REQUEST).body(Full::default()),
    };
    answer.expect("an answer")
}

/// Returns a description of the error, if the request has no assertion or a wrong one.
fn complaint<B>(request: &Request<B>, caller: Option<&str>) -> Option<String> {
    let mut assertions = request.headers().get_all("countersign-assertion").iter();
    let (Some(assertion), None) = (assertions.next(), assertions.next()) else {
        return Some("not one assertion".to_owned());
    };
    let claims = assertion.to_str().ok()?.split('.').nth(1)?;
    let claims = Base64UrlUnpadded::decode_vec(claims).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    let htu = claims["htu"].as_str().unwrap_or_default();
    if !htu.ends_with(request.uri().path()) {
        return Some(format!("the assertion is about {htu}"));
    }
    if claims["htm"] != request.method().as_str() {
        return Some(format!("the assertion is about {}", claims["htm"]));
    }
    if claims["sub"].as_str() != caller {
        return Some(format!("the assertion says {}", claims["sub"]));
    }
    None
}
