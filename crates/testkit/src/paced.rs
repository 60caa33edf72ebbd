//! A service for bystanders and attackers. One path returns an endless response. With other paths,
//! the service reads late, or sends small or empty frames. This makes forwarding difficult for the
//! gateway.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::protocol::Protocol;

/// The pause between two pieces of the response to `/stream`.
const TICK: Duration = Duration::from_millis(20);
/// How long the service waits before it reads the body of a request for `/slow`.
const LATE: Duration = Duration::from_millis(1500);
/// The number of pieces of the response to `/burst`.
const BURST: usize = 6_000;

/// How long a request for `/busy` blocks the only thread of the service.
const BUSY: Duration = Duration::from_millis(30);

/// The running service. It uses hyper. It has its own thread, because a service and its callers are
/// usually different processes. The operating system selects its port.
///
/// | Path | What the service does |
/// |---|---|
/// | `/stream` | sends a piece every 20 ms, without end |
/// | `/slow` | reads the body after 1.5 s |
/// | `/busy` | blocks its thread for 30 ms, so that all connections wait |
/// | `/burst` | sends 6,000 pieces of 10 to 40 bytes without pauses |
/// | `/empty` | sends an empty piece before its content |
/// | others | read the body and respond with `ok` |
#[derive(Debug)]
pub struct Paced {
    address: SocketAddr,
    /// Dropping this sender ends the thread.
    _running: oneshot::Sender<()>,
}

impl Paced {
    /// Starts the service. If `protocol` is h2, clients must use h2 with prior knowledge.
    ///
    /// # Panics
    /// If no port is available.
    #[must_use]
    pub fn start(protocol: Protocol) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (running, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(&listener, protocol) => {}
                    _ = ended => {}
                }
            });
        });
        Self {
            address,
            _running: running,
        }
    }

    /// Returns the address on which the service listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: &TcpListener, protocol: Protocol) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, protocol));
            }
            // `accept` fails if the process has too many open files, and may succeed after a
            // pause.
            Err(_) => tokio::time::sleep(TICK).await,
        }
    }
}

async fn serve(stream: TcpStream, protocol: Protocol) {
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(stream);
    let service = service_fn(respond);
    let _ = match protocol {
        Protocol::Http1 => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .await
        }
        Protocol::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await
        }
    };
}

type PacedBody = BoxBody<Bytes, Infallible>;

async fn respond(request: Request<Incoming>) -> Result<Response<PacedBody>, hyper::Error> {
    let path = request.uri().path().to_owned();
    match &*path {
        "/slow" => tokio::time::sleep(LATE).await,
        "/busy" => std::thread::sleep(BUSY),
        _ => {}
    }
    request.into_body().collect().await?;
    let body = match &*path {
        "/stream" => ticks(),
        "/burst" => pieces((0..BURST).map(|n| Bytes::from(vec![b'x'; 10 + n % 31]))),
        "/empty" => pieces([Bytes::new(), Bytes::from_static(b"ok")].into_iter()),
        _ => http_body_util::Full::new(Bytes::from_static(b"ok")).boxed(),
    };
    Ok(Response::new(body))
}

fn ticks() -> PacedBody {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while sender.send(Bytes::from_static(b"tick\n")).await.is_ok() {
            tokio::time::sleep(TICK).await;
        }
    });
    Pieces::Channel(receiver).boxed()
}

fn pieces(pieces: impl Iterator<Item = Bytes> + Send + Sync + 'static) -> PacedBody {
    Pieces::Ready(Box::new(pieces)).boxed()
}

/// A response body. Each piece is one frame.
enum Pieces {
    Channel(mpsc::Receiver<Bytes>),
    Ready(Box<dyn Iterator<Item = Bytes> + Send + Sync>),
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Channel(receiver) => std::task::ready!(receiver.poll_recv(context)),
            Self::Ready(pieces) => pieces.next(),
        };
        Poll::Ready(next.map(|data| Ok(Frame::data(data))))
    }
}
