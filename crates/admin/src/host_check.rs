//! Checks `Host` and `Origin`, to refuse requests that foreign web pages cause.
//!
//! A web page can make a browser connect to any address under the page's own name (DNS rebinding).
//! But the page cannot make the browser send another `Host`, or omit `Origin`.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};

use crate::policy::Denial;
use crate::reason::ReasonCode;

/// Returns whether the request is for the loopback interface and `port`. The only `Host` field must
/// name both. If the request target has an authority, this authority must name both too.
pub(super) fn is_loopback_request(headers: &HeaderMap, uri: &Uri, port: u16) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host_is_loopback = host
        .to_str()
        .is_ok_and(|host| is_loopback_authority(host, port));
    // If the request target has an authority, it overrides `Host` (RFC 9112 section 3.2.2).
    let target_is_loopback = uri
        .authority()
        .is_none_or(|authority| is_loopback_authority(authority.as_str(), port));
    host_is_loopback && target_is_loopback
}

/// Whether an authority names the loopback interface and `port`. Of all names, only `localhost` is
/// accepted, because it always resolves to loopback (RFC 6761 section 6.3). Any other name could
/// resolve to another address.
fn is_loopback_authority(authority: &str, port: u16) -> bool {
    // The forms are `host`, `host:port`, `[v6]` and `[v6]:port`. A port follows the last colon that
    // is not inside brackets.
    let (host, given_port) = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.contains(']') => (host, Some(digits)),
        _ => (authority, None),
    };
    let port_fits = match given_port {
        Some(digits) => {
            digits.bytes().all(|digit| digit.is_ascii_digit()) && digits.parse() == Ok(port)
        }
        None => port == 80,
    };
    let address = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => inner.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    };
    port_fits
        && (host.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| address.is_loopback()))
}

/// Refuses requests that a web page makes in an operator's browser. `server_name` is the name in
/// the TLS handshake. Browsers send `Origin` with all requests of web pages that can change
/// something. If a page makes its own name resolve to this listener, `Host` contains the page's
/// name. An operator's own request contains an address or `server_name`.
pub(super) fn check_origin(request: &Request, server_name: Option<&str>) -> Result<(), Denial> {
    // Browsers send `Sec-Fetch-Site` with every request, even without `Origin` (Fetch Metadata).
    // The value "none" means that the user has typed the address.
    let by_page = request.headers().get_all("sec-fetch-site");
    if request.headers().contains_key(ORIGIN) || by_page.iter().any(|site| site != "none") {
        return Err(Denial::new(
            ReasonCode::CallerNotAllowed,
            "requests that web pages make are not answered here",
        ));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let is_ours = |authority: &Authority| is_own_name(authority.host(), server_name);
    // If the request target has an authority, it overrides `Host` (RFC 9112 section 3.2.2).
    if host.as_ref().is_some_and(is_ours) && request.uri().authority().is_none_or(is_ours) {
        return Ok(());
    }
    Err(Denial::new(
        ReasonCode::HostMismatch,
        "the Host field must be the name that TLS was asked for, or an address",
    ))
}

/// Whether `host` is an IP address or `server_name`. A web page can make any other name resolve to
/// this listener (DNS rebinding).
fn is_own_name(host: &str, server_name: Option<&str>) -> bool {
    let plain = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    plain.unwrap_or(host).parse::<IpAddr>().is_ok()
        || server_name.is_some_and(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(host: &[&str], origin: Option<&str>, target: &str) -> Request {
        let mut request = http::Request::builder().uri(target);
        for host in host {
            request = request.header(HOST, *host);
        }
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn web_pages_and_foreign_names_are_refused() {
        let name = Some("gw.example.org");
        for (host, target) in [
            ("gw.example.org:9901", "/status"),
            ("GW.example.org", "/status"),
            ("127.0.0.1:9901", "/status"),
            ("[::1]:9901", "/status"),
            ("127.0.0.1:9901", "https://gw.example.org/status"),
        ] {
            assert!(check_origin(&request(&[host], None, target), name).is_ok());
            let page = request(&[host], Some("https://gw.example.org"), target);
            assert!(check_origin(&page, name).is_err());
        }
        for (hosts, target) in [
            (&["evil.example"][..], "/status"),
            (&["localhost"], "/status"),
            (&[], "/status"),
            (&["gw.example.org", "gw.example.org"], "/status"),
            (&["gw.example.org"], "https://evil.example/status"),
        ] {
            assert!(check_origin(&request(hosts, None, target), name).is_err());
        }
        assert!(check_origin(&request(&["gw.example.org"], None, "/"), None).is_err());
    }
}
