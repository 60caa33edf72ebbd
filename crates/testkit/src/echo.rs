//! An upstream that responds with a description of the request. The path can select another
//! behaviour.
//!
//! The response is a JSON object with these members:
//!
//! - `method`, `body`, `body_len`, `trailers`
//! - `path`: the raw target
//! - `headers`: a list of names and values, in the order of the request
//! - `connection`: the number of the connection on which the request arrived
//!
//! | Path | What the upstream does |
//! |---|---|
//! | `…/status/NNN` | responds with that status |
//! | `…/hang` | never responds |
//! | `…/hang-mid-body` | sends half of a body and then nothing |
//! | `…/die-mid-body` | sends half of a body and closes the connection |
//! | `…/slow` | sends a body of five chunks, 100 ms apart |
//! | `…/megabyte` | sends a body of 1 MiB |
//! | `…/forged` | sends response header fields that a gateway must remove |
//! | `…/close` | closes the connection after the response |

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// A running echo upstream. The operating system selects its port.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: AtomicUsize,
    seen: Mutex<Vec<Value>>,
    arrived: Notify,
}

impl Echo {
    /// Starts the upstream.
    ///
    /// # Panics
    /// If no port is available.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let state = Arc::clone(&state);
                let number = state.connections.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let state = Arc::clone(&state);
                        async move { respond(request, number, &state).await }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// Returns the address on which the upstream listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many connections the upstream has accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Returns how many request heads the upstream has received.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.seen().len()
    }

    /// Returns a JSON object for every request that the upstream has received, as in the
    /// response to that request. The members about the body and the trailers are missing if the
    /// upstream has not read the whole body.
    #[must_use]
    pub fn seen(&self) -> Vec<Value> {
        self.shared.seen.lock().expect("a lock").clone()
    }

    /// Waits until the head of a request has arrived whose target ends with `suffix`.
    ///
    /// # Panics
    /// If no such request arrives before the deadline.
    pub async fn arrived(&self, suffix: &str) {
        crate::in_time("a request to arrive", async {
            loop {
                let notified = self.shared.arrived.notified();
                if self
                    .seen()
                    .iter()
                    .any(|seen| seen["path"].as_str().is_some_and(|p| p.ends_with(suffix)))
                {
                    return;
                }
                notified.await;
            }
        })
        .await;
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn fields(headers: &HeaderMap) -> Value {
    headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect()
}

async fn respond(
    request: Request<Incoming>,
    connection: usize,
    shared: &Shared,
) -> Result<Response<EchoBody>, hyper::Error> {
    let (head, body) = request.into_parts();
    let target = head
        .uri
        .path_and_query()
        .map_or_else(|| head.uri.to_string(), ToString::to_string);
    let mut seen = json!({
        "method": head.method.as_str(),
        "path": target,
        "headers": fields(&head.headers),
        "connection": connection,
    });
    let index = {
        let mut all = shared.seen.lock().expect("a lock");
        all.push(seen.clone());
        all.len() - 1
    };
    shared.arrived.notify_waiters();
    let mode = head.uri.path().to_owned();
    // `…/hang` never responds. Therefore the body of such a request is not read.
    if mode.ends_with("/hang") {
        return std::future::pending().await;
    }
    let collected = body.collect().await?;
    seen["trailers"] = collected.trailers().map_or(Value::Null, fields);
    let octets = collected.to_bytes();
    seen["body_len"] = octets.len().into();
    seen["body"] = String::from_utf8_lossy(&octets[..octets.len().min(64 * 1024)]).into();
    shared.seen.lock().expect("a lock")[index] = seen.clone();
    Ok(answer(&mode, &seen))
}

fn answer(mode: &str, seen: &Value) -> Response<EchoBody> {
    let text = Bytes::from(seen.to_string());
    let response = Response::builder().header("content-type", "application/json");
    let response = match mode.rsplit_once("/status/") {
        Some((_, status)) => response.status(status.parse::<u16>().unwrap_or(500)),
        None => response,
    };
    let (response, body) = match mode.rsplit('/').next().unwrap_or_default() {
        "hang-mid-body" => (response, EchoBody::then_silence("half")),
        "die-mid-body" => (response, EchoBody::then_error("half")),
        "slow" => (response, EchoBody::slow(5, Duration::from_millis(100))),
        "megabyte" => (response, EchoBody::whole(vec![b'x'; 1 << 20])),
        "close" => (
            response.header("connection", "close"),
            EchoBody::whole(text),
        ),
        "forged" => (
            response
                .header("countersign-reason", "token-missing")
                .header("countersign_assertion", "forged")
                .header("x-request-id", "forged")
                .header("connection", "x-hop")
                .header("x-hop", "only for the next hop")
                .header("keep-alive", "timeout=5")
                .header("x-service", "kept"),
            EchoBody::whole(text),
        ),
        _ => (response, EchoBody::whole(text)),
    };
    let mut response = response.body(body).expect("an answer");
    if seen["method"] == "HEAD" {
        *response.body_mut() = EchoBody::whole(Bytes::new());
        response
            .headers_mut()
            .insert("x-head", HeaderValue::from_static("yes"));
    }
    response
}

/// A response body of one or more chunks. It ends normally, breaks off with an error, or never
/// ends.
struct EchoBody {
    whole: Option<Bytes>,
    chunks: Option<mpsc::Receiver<Result<Bytes, BrokenOff>>>,
}

/// The error with which a body breaks off.
#[derive(Debug)]
struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("broken off")
    }
}

impl std::error::Error for BrokenOff {}

impl EchoBody {
    fn whole(content: impl Into<Bytes>) -> Self {
        Self {
            whole: Some(content.into()),
            chunks: None,
        }
    }

    fn then_silence(first: &'static str) -> Self {
        let (sender, receiver) = mpsc::channel(2);
        let _ = sender.try_send(Ok(Bytes::from_static(first.as_bytes())));
        tokio::spawn(async move { sender.closed().await });
        Self {
            whole: None,
            chunks: Some(receiver),
        }
    }

    fn then_error(first: &'static str) -> Self {
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            let _ = sender.send(Ok(Bytes::from_static(first.as_bytes()))).await;
            // The pause ensures that the first chunk is sent before the error closes the
            // connection.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = sender.send(Err(BrokenOff)).await;
        });
        Self {
            whole: None,
            chunks: Some(receiver),
        }
    }

    fn slow(count: usize, pause: Duration) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for number in 0..count {
                let chunk = Bytes::from(format!("chunk {number}\n"));
                if sender.send(Ok(chunk)).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        });
        Self {
            whole: None,
            chunks: Some(receiver),
        }
    }
}

impl Body for EchoBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(chunks) = &mut self.chunks {
            return chunks
                .poll_recv(context)
                .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)));
        }
        let whole = self.whole.take().filter(|content| !content.is_empty());
        Poll::Ready(whole.map(|content| Ok(Frame::data(content))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_none() && self.whole.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match (&self.chunks, &self.whole) {
            (None, Some(content)) => {
                http_body::SizeHint::with_exact(u64::try_from(content.len()).unwrap_or(0))
            }
            (None, None) => http_body::SizeHint::with_exact(0),
            (Some(_), _) => http_body::SizeHint::default(),
        }
    }
}
