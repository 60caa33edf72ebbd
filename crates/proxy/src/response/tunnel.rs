//! A tunnel: forwards bytes between a caller and a service that has switched protocols.
//!
//! A tunnel over HTTP/1.1 runs in the task of the caller's connection, and therefore ends with the
//! connection. A tunnel over HTTP/2 runs in a task of its own. A tunnel over HTTP/2 ends with its
//! stream, or as soon as the caller's connection is cut or ends.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{Extensions, HeaderValue, Response, StatusCode, Version};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::body::GatewayBody;
use crate::connection::Connection;
use crate::connection::in_flight::{InFlightRequest, unless_expired};
use crate::connection::lifetime::{Ending, Lifetime};
use crate::connection::request_body::RequestBody;
use crate::forward::upgrade::UpgradeRequest;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::telemetry::record::AuditRecord;
use crate::upstream::UpstreamBody;
use crate::upstream::pool::Lease;
use crate::wire::headers;
use crate::wire::socket::CallerSocket;
use crate::wire::tls_close::CLOSE_TIMEOUT;

/// Size in bytes of the buffer for each direction.
const BUFFER: usize = 8 * 1024;

/// The raw connection to a service that has switched protocols, and the state that its tunnel uses.
pub(crate) struct Switched {
    pub(crate) upgrade: UpgradeRequest,
    pub(crate) response: Response<UpstreamBody>,
    pub(crate) service: Upgraded,
    pub(crate) in_flight: InFlightRequest,
    pub(crate) lease: Lease<RequestBody>,
}

impl Switched {
    /// Makes the response that confirms the switch to the caller. Over HTTP/2, also starts the
    /// tunnel. Over HTTP/1.1, stores the tunnel in the response's extensions, because it begins
    /// only after the 101 response was sent.
    pub(crate) fn into_response(
        self,
        connection: &Arc<Connection>,
        mut record: AuditRecord,
    ) -> Response<GatewayBody> {
        let chosen = self.response.headers().get(UPGRADE).cloned();
        let (mut parts, _) = self.response.into_parts();
        headers::strip_response(&mut parts.headers);
        parts.extensions.clear();
        parts.version = Version::default();
        // The caller would read a Content-Length in the response to an extended CONNECT as the
        // length of the tunnel's data.
        parts.headers.remove(CONTENT_LENGTH);
        if self.upgrade.stream.is_some() {
            parts.status = StatusCode::OK;
            parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
        } else {
            parts.status = StatusCode::SWITCHING_PROTOCOLS;
            let fields = &mut parts.headers;
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(UPGRADE, chosen.unwrap_or(self.upgrade.protocols));
            if let Some(accept) = self.upgrade.accept {
                fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
            }
        }
        record.answered(parts.status.as_u16());
        let mut tunnel = Tunnel {
            service: Some(TokioIo::new(self.service)),
            record,
            idle_timeout: self.upgrade.idle_timeout,
            in_flight: self.in_flight,
            lease: Some(self.lease),
        };
        match self.upgrade.stream {
            None => PendingTunnel::insert(&mut parts.extensions, tunnel),
            Some(stream) => {
                let connection = Arc::clone(connection);
                tokio::spawn(async move {
                    let passing = async {
                        if let Ok(stream) = stream.await {
                            tunnel.run(TokioIo::new(stream)).await;
                        }
                    };
                    tokio::select! {
                        // `ended` is polled first. After a cut, the tunnel therefore forwards no
                        // more bytes, not even bytes that h2 has already read.
                        biased;
                        () = connection.ended() => {}
                        () = passing => {}
                    }
                    if let Some(denial) = connection.cut_reason() {
                        tunnel.refused(denial);
                    }
                });
            }
        }
        Response::from_parts(parts, GatewayBody::Full(None))
    }
}

/// A tunnel in the extensions of its 101 response. The values of extensions must implement `Clone`.
/// `Tunnel` does not, so it is wrapped in an `Arc`.
#[derive(Clone)]
struct PendingTunnel(Arc<Mutex<Option<Box<Tunnel>>>>);

impl PendingTunnel {
    fn insert(extensions: &mut Extensions, tunnel: Tunnel) {
        let tunnel = Mutex::new(Some(Box::new(tunnel)));
        extensions.insert(Self(Arc::new(tunnel)));
    }
}

/// Takes the tunnel out of `response`. The tunnel begins after `response` was sent.
pub(crate) fn take<B>(response: &mut Response<B>) -> Option<Box<Tunnel>> {
    let PendingTunnel(tunnel) = response.extensions_mut().remove()?;
    tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A tunnel between a caller and a service. When it is dropped, the tunnel ends and the request's
/// audit line is written.
pub(crate) struct Tunnel {
    service: Option<TokioIo<Upgraded>>,
    record: AuditRecord,
    idle_timeout: Duration,
    in_flight: InFlightRequest,
    /// As long as the lease exists, the tunnel counts as a connection to its endpoint, and as a
    /// request in progress at this endpoint.
    lease: Option<Lease<RequestBody>>,
}

impl Tunnel {
    /// Forwards bytes until both sides have ended. Stops earlier if the credentials expire or if
    /// neither side sends bytes for `idle_timeout`.
    pub(crate) async fn run(&mut self, caller: impl AsyncRead + AsyncWrite + Unpin) {
        let Some(service) = self.service.take() else {
            return;
        };
        let passing = pass_on(caller, service, self.idle_timeout);
        let passed = match self.in_flight.credentials_expiry() {
            None => Ok(passing.await),
            Some(expiry) => unless_expired(expiry, passing).await,
        };
        let passed = match passed {
            Ok(passed) => passed,
            Err(denial) => return self.refused(&denial),
        };
        match passed {
            Ok(()) => {
                self.record.complete();
                if let Some(lease) = self.lease.take() {
                    lease.close_gracefully(CLOSE_TIMEOUT);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.record
                    .refused(ReasonCode::Timeout, "nothing was said for too long");
            }
            // One side has closed its connection without a regular end. Most tunnels end like this,
            // so the gateway records no error.
            Err(_) => {}
        }
    }

    /// Records why the tunnel ended.
    pub(crate) fn refused(&mut self, denial: &Denial) {
        self.record.refused(denial.reason, &denial.recorded());
    }
}

/// Runs a tunnel in the connection's own task after the 101 response. `early` is true if the caller
/// sent bytes before the 101.
pub(crate) async fn serve(
    connection: &Connection,
    mut tunnel: Box<Tunnel>,
    mut stream: TlsStream<CallerSocket>,
    early: bool,
    mut lifetime: Lifetime,
) {
    // The gateway has read the early bytes as HTTP. If it forwarded them, a caller could smuggle
    // requests to the service.
    if early {
        tunnel.refused(&Denial::new(
            ReasonCode::MalformedRequest,
            "the caller sent data before the protocol was switched",
        ));
        return;
    }
    let cut = {
        let mut running = pin!(tunnel.run(&mut stream));
        loop {
            tokio::select! {
                () = running.as_mut() => break None,
                ending = lifetime.ending(connection) => match ending {
                    // While the gateway stops, the tunnel may continue until `drain_timeout` has
                    // passed.
                    Ending::Drain => {}
                    Ending::Cut(denial) => break Some(denial),
                },
            }
        }
    };
    match cut {
        Some(denial) => {
            tunnel.refused(&denial);
            connection.cut(denial);
        }
        None => {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
        }
    }
}

async fn pass_on(
    caller: impl AsyncRead + AsyncWrite + Unpin,
    mut service: TokioIo<Upgraded>,
    idle_timeout: Duration,
) -> io::Result<()> {
    let operations = AtomicU64::new(0);
    let mut caller = CountingIo {
        inner: caller,
        operations: &operations,
    };
    let copying =
        tokio::io::copy_bidirectional_with_sizes(&mut caller, &mut service, BUFFER, BUFFER);
    let mut copying = pin!(copying);
    let mut before = 0;
    loop {
        tokio::select! {
            ended = copying.as_mut() => return ended.map(|_| ()),
            () = tokio::time::sleep(idle_timeout) => {
                let now = operations.load(Ordering::Relaxed);
                if now == before {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                before = now;
            }
        }
    }
}

/// Counts the reads and writes of a stream in `operations`. Both directions of a tunnel share the
/// counter, so that one idle timer covers both.
struct CountingIo<'a, S> {
    inner: S,
    operations: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for CountingIo<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.operations.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountingIo<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        if polled.is_ready() {
            self.operations.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
