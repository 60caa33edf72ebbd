//! Requests that switch protocols: to WebSocket, or to another protocol that the caller and the
//! service agree on.
//!
//! A request that asks for a switch passes all stages of an ordinary request. After the service has
//! switched, the gateway forwards bytes without reading them (`response::tunnel`). A caller
//! requests the switch with `Upgrade` in HTTP/1.1 and with extended CONNECT in HTTP/2 (RFC 8441).
//! The gateway requests the switch from the service in the same two ways. The protocol of the
//! upstream decides which way is used. Over HTTP/2 only WebSocket is supported, and only if the
//! service announces extended CONNECT.

use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, request};
use http_body::Body;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::context::ForwardContext;
use crate::connection::request_body::RequestBody;
use crate::crypto;
use crate::policy::Denial;
use crate::policy::share::{CallerLimit, Place};
use crate::reason::{Category, ReasonCode};
use crate::route::{Route, carries_requests};
use crate::telemetry::record::AuditRecord;
use crate::upstream::pool::Lease;
use crate::upstream::{ConnectError, HttpProtocol, Upstream};
use crate::wire::head::is_token;
use crate::wire::headers;
use crate::wire::refusal::Refusal;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// The GUID from RFC 6455 section 1.3, from which `Sec-WebSocket-Accept` is computed.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A caller's request to switch protocols.
#[derive(Debug)]
pub(crate) struct UpgradeRequest {
    /// The value of the `Upgrade` field. At first this is the caller's value. `restrict` and
    /// `apply` replace it by the protocols that the gateway offers to the service.
    pub(crate) protocols: HeaderValue,
    /// The caller's HTTP/2 stream, if the caller used extended CONNECT.
    pub(crate) stream: Option<OnUpgrade>,
    /// Whether the gateway requests the switch from the service with extended CONNECT.
    by_connect: bool,
    /// The `Sec-WebSocket-Accept` for a caller in HTTP/1.1. The gateway computes the value if the
    /// service uses HTTP/2, because the service then sends none.
    pub(crate) accept: Option<HeaderValue>,
    /// The timeout after which a tunnel ends if neither side sends bytes.
    pub(crate) idle_timeout: Duration,
}

impl UpgradeRequest {
    fn new(protocols: HeaderValue, stream: Option<OnUpgrade>) -> Self {
        Self {
            protocols,
            stream,
            by_connect: false,
            accept: None,
            idle_timeout: Duration::MAX,
        }
    }

    /// Returns the `Upgrade` field of the forwarded request. Returns `None` if the gateway uses
    /// extended CONNECT, which has no such field.
    pub(crate) fn upgrade(&self) -> Option<&HeaderValue> {
        (!self.by_connect).then_some(&self.protocols)
    }

    /// Returns whether a response with this status means that the service has switched protocols.
    pub(crate) fn is_switch(&self, status: StatusCode) -> bool {
        status
            == match self.by_connect {
                true => StatusCode::OK,
                false => StatusCode::SWITCHING_PROTOCOLS,
            }
    }

    /// Returns whether the caller would read this status as a switch of protocols, although the
    /// service has not switched. With extended CONNECT, every 2xx status means a switch.
    pub(crate) fn is_false_upgrade(&self, status: StatusCode) -> bool {
        let by_success = self.by_connect || self.stream.is_some();
        by_success && status.is_success() && !self.is_switch(status)
    }

    /// Removes the protocols that the route does not allow.
    ///
    /// # Errors
    /// Returns a refusal if no protocol remains. A caller that does not need the upgrade can repeat
    /// the request without `Upgrade`.
    pub(crate) fn restrict(&mut self, route: &Route) -> Result<(), Refusal> {
        let allowed: Vec<&str> = route.allowed_upgrades(&self.protocols).collect();
        if let Ok(allowed) = HeaderValue::try_from(allowed.join(", "))
            && !allowed.is_empty()
        {
            self.protocols = allowed;
            return Ok(());
        }
        Err(Refusal::new(
            ReasonCode::UpgradeNotAllowed,
            "the route's upgrade does not name this protocol",
        ))
    }

    /// Returns whether the gateway can request this upgrade with extended CONNECT.
    fn is_websocket(&self, method: &Method) -> bool {
        let named = || {
            let protocols = self.protocols.to_str().unwrap_or_default().split(',');
            protocols
                .map(str::trim)
                .any(|name| name.eq_ignore_ascii_case("websocket"))
        };
        self.stream.is_some() || (*method == Method::GET && named())
    }
}

/// The HTTP version of the request to the service, and the dedicated connection if there is one.
pub(crate) struct Transport {
    pub(crate) protocol: HttpProtocol,
    /// A connection that was opened only for this request.
    pub(crate) dedicated: Option<Box<Lease<RequestBody>>>,
}

/// Chooses how to request the switch from the service. For an HTTP/2 upstream, tries extended
/// CONNECT if the caller wants WebSocket. If extended CONNECT is not possible, tries HTTP/1.1 if
/// the upstream allows it (`http1_upgrades`).
///
/// If neither is possible and the caller sent `Upgrade`, the gateway forwards the request without
/// the upgrade. RFC 9110 section 7.8 allows a server to ignore `Upgrade`. A caller that used
/// extended CONNECT gets a refusal.
pub(crate) async fn choose_transport(
    context: &ForwardContext<'_>,
    upgrade: &mut Option<UpgradeRequest>,
    method: &Method,
    record: &mut AuditRecord,
) -> Result<Transport, Refusal> {
    let protocol = context.route.upstream.config().protocol;
    if upgrade.is_none() || protocol != HttpProtocol::Http2 {
        return Ok(Transport {
            protocol,
            dedicated: None,
        });
    }
    record.allowed(None);
    // Boxed, so that ordinary requests need no space for this future.
    Box::pin(connect(context, upgrade, method)).await
}

async fn connect(
    context: &ForwardContext<'_>,
    upgrade: &mut Option<UpgradeRequest>,
    method: &Method,
) -> Result<Transport, Refusal> {
    let upstream = &context.route.upstream;
    if let Some(wanted) = upgrade {
        let pool = context.connection.worker().pool();
        let affinity = context.affinity();
        let mut protocols = [HttpProtocol::Http2, HttpProtocol::Http1]
            .into_iter()
            .filter(|protocol| match protocol {
                HttpProtocol::Http2 => wanted.is_websocket(method),
                HttpProtocol::Http1 => upstream.config().http1_upgrades,
            });
        for protocol in &mut protocols {
            match pool.lease_dedicated(upstream, affinity, protocol).await {
                Ok(lease) => {
                    let dedicated = Some(Box::new(lease));
                    return Ok(Transport {
                        protocol,
                        dedicated,
                    });
                }
                Err(ConnectError::NoTunnels) => {}
                Err(error) => {
                    let refusal = Refusal::not_connected(upstream, &error);
                    if refusal.denial.reason.category() == Category::Upstream {
                        upstream.record_no_response(refusal.denial.reason);
                    }
                    return Err(refusal);
                }
            }
        }
        if wanted.stream.is_some() {
            return Err(Refusal {
                status: Some(StatusCode::NOT_IMPLEMENTED),
                ..Refusal::new(
                    ReasonCode::UpstreamProtocol,
                    format!(
                        "{} speaks h2 and does not announce that it carries WebSocket (RFC 8441)",
                        upstream.name()
                    ),
                )
            });
        }
        *upgrade = None;
    }
    Ok(Transport {
        protocol: upstream.config().protocol,
        dedicated: None,
    })
}

/// Removes the upgrade from a request and returns it. Must be called before `Upgrade` and
/// `Connection` are stripped. An extended CONNECT becomes the equivalent GET.
pub(crate) fn take<B: Body>(request: &mut Request<B>) -> Result<Option<UpgradeRequest>, Refusal> {
    if request.method() == Method::CONNECT {
        return take_connect(request).map(Some);
    }
    // RFC 9110 section 7.8: HTTP/1.0 and HTTP/2 have no `Upgrade` field.
    let fields = request.headers();
    if request.version() != Version::HTTP_11 || !fields.contains_key(UPGRADE) {
        return Ok(None);
    }
    if !fields.get_all(UPGRADE).iter().all(is_protocol_list) {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the Upgrade field is not a list of protocols",
        ));
    }
    // If the request has a body, `Upgrade` is ignored, because the gateway would have to read the
    // whole body before the protocol changes. `Upgrade` is also ignored if `Connection` does not
    // name it (RFC 9110 section 7.8).
    if !headers::lists(fields, &CONNECTION, "upgrade") || !request.body().is_end_stream() {
        return Ok(None);
    }
    let mut values = fields.get_all(UPGRADE).iter();
    let upgrade = match (values.next(), values.next()) {
        (Some(value), None) if may_pass(value) => Some(UpgradeRequest::new(value.clone(), None)),
        // The upgrade is ignored if the request has several `Upgrade` fields, or if `may_pass`
        // rejects the protocols.
        _ => None,
    };
    Ok(upgrade)
}

fn take_connect<B>(request: &mut Request<B>) -> Result<UpgradeRequest, Refusal> {
    let protocol = request.extensions().get::<Protocol>();
    match protocol.map(Protocol::as_str) {
        Some("websocket") => {}
        Some(_) => {
            return Err(Refusal {
                // RFC 9220 section 3: 501 is the status for an unknown `:protocol`.
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
    Ok(UpgradeRequest::new(WEBSOCKET, Some(stream)))
}

/// Returns whether `value` is a list of `token` or `token/token` (RFC 9110 section 7.8). Members of
/// the list may be empty. Any other text is rejected, because a service could read it as a
/// different protocol than the gateway.
fn is_protocol_list(value: &HeaderValue) -> bool {
    let is_token = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| is_token(*byte));
    value.as_bytes().split(|byte| *byte == b',').all(|item| {
        let item = item.trim_ascii();
        item.is_empty()
            || match item.iter().position(|byte| *byte == b'/') {
                None => is_token(item),
                Some(slash) => {
                    let (name, version) = item.split_at(slash);
                    is_token(name) && version.get(1..).is_some_and(is_token)
                }
            }
    })
}

/// Returns whether the gateway may offer these protocols to a service. A protocol that carries
/// further HTTP requests is not allowed, because the gateway could not check those requests.
fn may_pass(value: &HeaderValue) -> bool {
    let Ok(value) = value.to_str() else {
        return false;
    };
    value.split(',').all(|item| {
        let name = item.split('/').next().unwrap_or_default().trim();
        !name.is_empty() && !carries_requests(name)
    })
}

/// Returns whether the service switched to a protocol that the gateway offered.
pub(crate) fn is_offered(response: &HeaderMap, offered: &HeaderValue) -> bool {
    let mut chosen = response.get_all(UPGRADE).iter();
    let (Some(chosen), None) = (chosen.next(), chosen.next()) else {
        return false;
    };
    let (Ok(chosen), Ok(offered)) = (chosen.to_str(), offered.to_str()) else {
        return false;
    };
    offered
        .split(',')
        .any(|item| item.trim().eq_ignore_ascii_case(chosen.trim()))
}

/// Counts the request as a tunnel of its caller until the returned `Place` is dropped.
pub(crate) fn admit(context: &ForwardContext<'_>) -> Result<Place, Refusal> {
    let tunnels = &context.connection.worker().shared().tunnels;
    let most = context.snapshot.limits.caller.tunnels;
    let place = tunnels.enter_below(context.share_key, most);
    place.map_err(|_| {
        Refusal::from(Denial::caller_limit(
            CallerLimit::Tunnels,
            format!("this caller has {most} tunnels already"),
        ))
    })
}

/// Writes the upgrade into the forwarded request: `Upgrade` for HTTP/1.1, extended CONNECT for
/// HTTP/2.
pub(crate) fn apply(
    upgrade: &mut Option<UpgradeRequest>,
    parts: &mut request::Parts,
    upstream: &Upstream,
    protocol: HttpProtocol,
) -> Result<(), Refusal> {
    let Some(wanted) = upgrade else {
        return Ok(());
    };
    wanted.idle_timeout = upstream.config().tunnel_idle_timeout;
    let fields = &mut parts.headers;
    if protocol == HttpProtocol::Http2 {
        // RFC 8441 section 5: over HTTP/2 there is no `Sec-WebSocket-Key` or
        // `Sec-WebSocket-Accept`.
        let key = fields.remove(SEC_WEBSOCKET_KEY);
        if wanted.stream.is_none() {
            wanted.accept = Some(accept(key.as_ref())?);
            wanted.protocols = WEBSOCKET;
        }
        wanted.by_connect = true;
        parts.method = Method::CONNECT;
        let websocket = Protocol::from_static("websocket");
        parts.extensions.insert(websocket);
        return Ok(());
    }
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, wanted.protocols.clone());
    if wanted.stream.is_some() {
        let key = crypto::random::<16>()
            .ok()
            .and_then(|bytes| HeaderValue::from_str(&Base64::encode_string(&bytes)).ok())
            .ok_or_else(|| Refusal::new(ReasonCode::Overloaded, "no randomness"))?;
        fields.insert(SEC_WEBSOCKET_KEY, key);
    }
    Ok(())
}

/// Computes the `Sec-WebSocket-Accept` value for a key (RFC 6455 section 4.2.2).
fn accept(key: Option<&HeaderValue>) -> Result<HeaderValue, Refusal> {
    let bytes = key.map(HeaderValue::as_bytes).unwrap_or_default();
    let mut decoded = [0_u8; 16];
    let is_key = Base64::decode(bytes, &mut decoded).is_ok_and(|key| key.len() == 16);
    is_key
        .then(|| Base64::encode_string(&crypto::sha1(&[bytes, WEBSOCKET_GUID].concat())))
        .and_then(|accept| HeaderValue::from_str(&accept).ok())
        .ok_or_else(|| {
            Refusal::new(
                ReasonCode::MalformedRequest,
                "Sec-WebSocket-Key is not 16 octets in base64 (RFC 6455 section 4.1)",
            )
        })
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
    fn an_upgrade_is_a_list_of_protocols() {
        let names =
            |value: &'static [u8]| is_protocol_list(&HeaderValue::from_bytes(value).unwrap());
        for value in [
            &b"websocket"[..],
            b"foo/2, bar",
            b"foo/2.0 ,\tbar",
            b"",
            b"a,, b",
            b"h2c",
        ] {
            assert!(names(value), "{value:?}");
        }
        for value in [
            &b"\"h2c\""[..],
            b"foo;h2c",
            b"foo\th2c",
            b"foo h2c",
            b"foo/",
            b"/2",
            b"foo/2/3",
            b"foo / 2",
            b"a, b(c)",
            b"caf\xe9",
        ] {
            assert!(!names(value), "{value:?}");
        }
    }

    #[test]
    fn a_service_switches_to_what_it_was_asked_for() {
        let offered = HeaderValue::from_static("foo/2, websocket");
        let response = |values: &[&'static str]| {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append(UPGRADE, HeaderValue::from_static(value));
            }
            fields
        };
        assert!(is_offered(&response(&["WebSocket"]), &offered));
        assert!(is_offered(&response(&["foo/2"]), &offered));
        for other in [&["foo"][..], &["h2c"], &[], &["websocket", "foo/2"]] {
            assert!(!is_offered(&response(other), &offered), "{other:?}");
        }
    }

    #[test]
    fn keys_are_answered_as_rfc_6455_does() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(Some(&key)).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for bad in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "c2hvcnQ=",
            "%%%%",
            "dGhlIHNhbXBsZSBub25jZSBsb25n",
        ] {
            assert!(
                accept(Some(&HeaderValue::from_static(bad))).is_err(),
                "{bad}"
            );
        }
        assert!(accept(None).is_err());
    }

    #[test]
    fn a_switch_is_what_the_service_was_asked_by() {
        let mut asked = UpgradeRequest::new(WEBSOCKET, None);
        let [ok, none, switching, refused] =
            [200, 204, 101, 403].map(|status| StatusCode::from_u16(status).unwrap());
        assert!(asked.is_switch(switching) && !asked.is_switch(ok) && !asked.is_false_upgrade(ok));
        asked.by_connect = true;
        assert!(asked.is_switch(ok) && !asked.is_switch(switching) && !asked.is_false_upgrade(ok));
        assert!(asked.is_false_upgrade(none) && !asked.is_false_upgrade(refused));
    }
}
