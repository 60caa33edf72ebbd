//! Switching protocols: WebSocket and whatever else caller and service agree on.
//!
//! A request that asks for it goes every step of an ordinary one. Only when its
//! service has answered 101 does the gateway pass octets on unread. Over h2 the
//! caller asks by extended CONNECT (RFC 8441); the service sees an `Upgrade`
//! either way.
//!
//! A tunnel of an HTTP/1.1 connection runs in the connection's own task, so that
//! whatever ends the connection ends the tunnel. One over h2 ends with its
//! stream, and at once when its connection is cut off or over.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::active::{ActiveRequest, unless_expired};
use super::body::GatewayBody;
use super::connection::{CLOSE_PATIENCE, Connection};
use super::headers;
use super::lifetime::{Ending, Lifetime};
use super::respond::Refusal;
use super::socket::CallerSocket;
use crate::crypto;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::telemetry::record::AuditRecord;
use crate::upstream::{HttpProtocol, InProgress, Upstream};

/// Octets on their way through a tunnel, per direction.
const BUFFER: usize = 8 * 1024;
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// A caller's wish to switch protocols.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The `Upgrade` field for the service.
    pub(crate) protocols: HeaderValue,
    /// The caller's stream, where it asked by extended CONNECT.
    stream: Option<OnUpgrade>,
    /// How long both sides may be silent.
    idle_timeout: Duration,
}

impl Asked {
    /// A success is all that a caller over h2 is told about a switch.
    pub(crate) const fn is_extended_connect(&self) -> bool {
        self.stream.is_some()
    }
}

/// Takes a request's wish to switch protocols, before what expresses it is
/// stripped. An extended CONNECT becomes the GET that it stands for.
pub(crate) fn asked(request: &mut Request<Incoming>) -> Result<Option<Asked>, Refusal> {
    if request.method() == Method::CONNECT {
        return connect(request).map(Some);
    }
    // RFC 9110 section 7.8: HTTP/1.0 and h2 have no Upgrade. A body would have to
    // be read to its end before the protocol changes.
    let fields = request.headers();
    if request.version() != Version::HTTP_11
        || !fields.contains_key(UPGRADE)
        || !headers::lists(fields, &CONNECTION, "upgrade")
        || !request.body().is_end_stream()
    {
        return Ok(None);
    }
    let mut values = fields.get_all(UPGRADE).iter();
    let asked = match (values.next(), values.next()) {
        (Some(value), None) if may_pass(value) => Some(Asked {
            protocols: value.clone(),
            stream: None,
            idle_timeout: Duration::MAX,
        }),
        // Without an upgrade it is an ordinary request.
        _ => None,
    };
    Ok(asked)
}

fn connect(request: &mut Request<Incoming>) -> Result<Asked, Refusal> {
    let protocol = request.extensions().get::<Protocol>();
    match protocol.map(Protocol::as_str) {
        Some("websocket") => {}
        Some(_) => {
            return Err(Refusal {
                // RFC 9220 section 3.
                status: Some(StatusCode::NOT_IMPLEMENTED),
                ..Refusal::new(
                    ReasonCode::MalformedRequest,
                    "this protocol is not supported by extended CONNECT; websocket is",
                )
            });
        }
        None => {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "CONNECT is not supported",
            ));
        }
    }
    let stream = hyper::upgrade::on(&mut *request);
    *request.method_mut() = Method::GET;
    Ok(Asked {
        protocols: WEBSOCKET,
        stream: Some(stream),
        idle_timeout: Duration::MAX,
    })
}

/// Protocols that would carry further requests past every check are not
/// negotiated on a caller's behalf.
fn may_pass(value: &HeaderValue) -> bool {
    let Ok(value) = value.to_str() else {
        return false;
    };
    value.split(',').all(|item| {
        let name = item.split('/').next().unwrap_or_default().trim();
        !name.is_empty()
            && !["h2c", "h2", "http", "tls"]
                .iter()
                .any(|other| name.eq_ignore_ascii_case(other))
    })
}

/// Whether the service switched to one of the protocols it was asked for.
pub(crate) fn is_among(answer: &HeaderMap, asked: &HeaderValue) -> bool {
    let mut chosen = answer.get_all(UPGRADE).iter();
    let (Some(chosen), None) = (chosen.next(), chosen.next()) else {
        return false;
    };
    let (Ok(chosen), Ok(asked)) = (chosen.to_str(), asked.to_str()) else {
        return false;
    };
    asked
        .split(',')
        .any(|item| item.trim().eq_ignore_ascii_case(chosen.trim()))
}

/// Asks the service for what the caller asked for. Without HTTP/1.1 to the
/// service an `Upgrade` is passed over, as RFC 9110 section 7.8 allows.
pub(crate) fn pass_on(
    asked: &mut Option<Asked>,
    parts: &mut request::Parts,
    upstream: &Upstream,
) -> Result<(), Refusal> {
    let Some(wanted) = asked else {
        return Ok(());
    };
    if upstream.config().protocol == HttpProtocol::Http2 {
        if wanted.stream.is_some() {
            return Err(Refusal {
                status: Some(StatusCode::NOT_IMPLEMENTED),
                ..Refusal::new(
                    ReasonCode::MalformedRequest,
                    "this service is spoken to in h2, which carries no WebSocket here",
                )
            });
        }
        *asked = None;
        return Ok(());
    }
    wanted.idle_timeout = upstream.config().tunnel_idle_timeout;
    let fields = &mut parts.headers;
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, wanted.protocols.clone());
    if wanted.stream.is_some() {
        // RFC 8441 section 5: h2 does without the key that HTTP/1.1 needs.
        let key = crypto::random::<16>()
            .ok()
            .and_then(|octets| HeaderValue::from_str(&Base64::encode_string(&octets)).ok())
            .ok_or_else(|| Refusal::new(ReasonCode::Overloaded, "no randomness"))?;
        fields.insert(SEC_WEBSOCKET_KEY, key);
    }
    Ok(())
}

/// A service that has switched protocols, and the caller it did that for.
pub(crate) struct Switched {
    pub(crate) asked: Asked,
    pub(crate) answer: Response<Incoming>,
    pub(crate) service: Upgraded,
    pub(crate) active: ActiveRequest,
    pub(crate) in_progress: Option<InProgress>,
}

impl Switched {
    /// Tells the caller, and has octets passed on from then on.
    pub(crate) fn accept(
        self,
        connection: &Arc<Connection>,
        mut record: AuditRecord,
    ) -> Response<GatewayBody> {
        let chosen = self.answer.headers().get(UPGRADE).cloned();
        let (mut parts, _) = self.answer.into_parts();
        headers::strip_response(&mut parts.headers);
        parts.extensions.clear();
        parts.version = Version::default();
        if self.asked.stream.is_some() {
            parts.status = StatusCode::OK;
            parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
        } else {
            parts
                .headers
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts
                .headers
                .insert(UPGRADE, chosen.unwrap_or(self.asked.protocols));
        }
        record.answered(parts.status.as_u16());
        let mut tunnel = Tunnel {
            service: Some(TokioIo::new(self.service)),
            record,
            idle_timeout: self.asked.idle_timeout,
            active: self.active,
            _in_progress: self.in_progress,
        };
        match self.asked.stream {
            None => connection.switch(tunnel),
            Some(stream) => {
                let connection = Arc::clone(connection);
                tokio::spawn(async move {
                    let passing = async {
                        if let Ok(stream) = stream.await {
                            tunnel.run(TokioIo::new(stream)).await;
                        }
                    };
                    // Octets that h2 has taken in already are not passed on either.
                    tokio::select! {
                        biased;
                        () = connection.gone() => {}
                        () = passing => {}
                    }
                    if let Some(denial) = connection.cut_off() {
                        tunnel.refused(denial);
                    }
                });
            }
        }
        Response::from_parts(parts, GatewayBody::Made(None))
    }
}

/// Octets between a caller and a service. Dropping it ends it and writes the
/// request's audit line.
pub(crate) struct Tunnel {
    service: Option<TokioIo<Upgraded>>,
    record: AuditRecord,
    idle_timeout: Duration,
    active: ActiveRequest,
    /// Counts it among the requests of its endpoint.
    _in_progress: Option<InProgress>,
}

impl Tunnel {
    /// Passes octets on until both sides have ended, or neither says anything
    /// for too long.
    pub(crate) async fn run(&mut self, caller: impl AsyncRead + AsyncWrite + Unpin) {
        let Some(service) = self.service.take() else {
            return;
        };
        let passing = pump(caller, service, self.idle_timeout);
        let passed = match self.active.deadline() {
            None => Ok(passing.await),
            Some(deadline) => unless_expired(deadline, passing).await,
        };
        let passed = match passed {
            Ok(passed) => passed,
            Err(denial) => return self.refused(&denial),
        };
        match passed {
            Ok(()) => self.record.complete(),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.record
                    .refused(ReasonCode::Timeout, "nothing was said for too long");
            }
            // One of the two is gone: how tunnels usually end.
            Err(_) => {}
        }
    }

    /// Says why it ended.
    pub(crate) fn refused(&mut self, denial: &Denial) {
        self.record.refused(denial.reason, &denial.recorded());
    }
}

/// Passes octets on after a 101, in the connection's own task.
pub(crate) async fn serve(
    connection: &Connection,
    mut tunnel: Box<Tunnel>,
    mut stream: TlsStream<CallerSocket>,
    early: bool,
    mut lifetime: Lifetime,
) {
    // Octets that came before the 101 were read as HTTP; what they are depends
    // on who is asked, which is how requests are smuggled.
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
                    // It goes on for as long as drain_timeout allows.
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
            let _ = tokio::time::timeout(CLOSE_PATIENCE, stream.shutdown()).await;
        }
    }
}

async fn pump(
    caller: impl AsyncRead + AsyncWrite + Unpin,
    mut service: TokioIo<Upgraded>,
    idle_timeout: Duration,
) -> io::Result<()> {
    let moved = AtomicU64::new(0);
    let mut caller = Watched {
        inner: caller,
        moved: &moved,
    };
    let copying =
        tokio::io::copy_bidirectional_with_sizes(&mut caller, &mut service, BUFFER, BUFFER);
    let mut copying = pin!(copying);
    let mut seen = 0;
    loop {
        tokio::select! {
            ended = copying.as_mut() => return ended.map(|_| ()),
            () = tokio::time::sleep(idle_timeout) => {
                let now = moved.load(Ordering::Relaxed);
                if now == seen {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                seen = now;
            }
        }
    }
}

/// Counts what is read and written.
struct Watched<'a, S> {
    inner: S,
    moved: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        if polled.is_ready() {
            self.moved.fetch_add(1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_http_is_negotiated() {
        for value in [
            "h2c",
            "H2C",
            "websocket, h2c",
            "HTTP/2.0",
            "TLS/1.0",
            "",
            "websocket,",
        ] {
            assert!(!may_pass(&HeaderValue::from_str(value).unwrap()), "{value}");
        }
        for value in ["websocket", "WebSocket", "foo/2, bar"] {
            assert!(may_pass(&HeaderValue::from_str(value).unwrap()), "{value}");
        }
    }

    #[test]
    fn a_service_switches_to_what_it_was_asked_for() {
        let asked = HeaderValue::from_static("foo/2, websocket");
        let answer = |values: &[&'static str]| {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append(UPGRADE, HeaderValue::from_static(value));
            }
            fields
        };
        assert!(is_among(&answer(&["WebSocket"]), &asked));
        assert!(is_among(&answer(&["foo/2"]), &asked));
        for other in [&["foo"][..], &["h2c"], &[], &["websocket", "foo/2"]] {
            assert!(!is_among(&answer(other), &asked), "{other:?}");
        }
    }
}
