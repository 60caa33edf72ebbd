//! The claims about the caller: certificate, authentication and token.
//!
//! An assertion has a maximum size. If the claims about the caller do not fit, names in `sans` are
//! left out, and then `issuer`. Everything else is never left out, because a service could take a
//! missing claim for a missing restriction.
//!
//! What is left out depends only on the caller's credentials. If it depended on the request too, a
//! caller could make a claim disappear with a long path.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_verify::claims::MAX_SANS_PER_TYPE;

use crate::identity::text::push_json;
use crate::identity::{PeerIdentity, Principal};

/// How much an assertion says about the caller's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AssertionDetail {
    /// The object `client_cert`: names, issuer, validity and so on.
    #[default]
    Full,
    /// Only the certificate's thumbprint and trust domain, in `authn`.
    Compact,
}

impl AssertionDetail {
    /// Returns the word for this value in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Compact => "compact",
        }
    }
}

/// Which claims are left out.
#[derive(Debug, Clone, Copy)]
struct Trim {
    /// Maximum size of all names in `sans`, as JSON.
    sans: usize,
    issuer: bool,
}

impl Trim {
    const NOTHING: Self = Self {
        sans: usize::MAX,
        issuer: false,
    };
}

/// Details of the caller's certificate are left out until a path of this number of bytes fits.
/// `check` and `pki issue` warn if it does not fit even then.
pub const WANTED_PATH: usize = 1024;

/// The size of `,"sans_truncated":true`.
const SANS_TRUNCATED: &str = ",\"sans_truncated\":true";

/// The largest size of all claims after trimming, without the texts whose size depends on the
/// configuration, the caller and the request.
const OTHER_CLAIMS: [(AssertionDetail, usize); 2] = [
    (AssertionDetail::Full, 800),
    (AssertionDetail::Compact, 560),
];

/// Returns how many bytes of a path fit into every assertion whose claims may have `max_claims`
/// bytes, at most [`WANTED_PATH`].
/// `texts` is the size of all other variable texts: issuer, audience, authority, trust domain and
/// the caller's name.
pub(super) fn path_room(max_claims: usize, texts: usize, detail: AssertionDetail) -> usize {
    let others = OTHER_CLAIMS.iter().find(|(other, _)| *other == detail);
    let others = others.map_or(0, |(_, size)| *size);
    max_claims.saturating_sub(others + texts).min(WANTED_PATH)
}

/// Appends the claims about the caller to `claims`, and closes the JSON object. If the object would
/// be longer than `room` bytes, details of the certificate are left out. Even without them, the
/// object can be longer than `room`.
pub(super) fn finish(
    claims: &mut String,
    principal: &Principal,
    detail: AssertionDetail,
    room: usize,
) {
    let start = claims.len();
    let max = start.saturating_add(room);
    write(claims, principal, detail, Trim::NOTHING);
    let excess = claims.len().saturating_sub(max);
    let has_details = excess > 0 && detail == AssertionDetail::Full;
    let Some(peer) = principal.peer().filter(|_| has_details) else {
        return;
    };
    let steps = [
        Trim {
            sans: sans_size(peer).saturating_sub(excess + SANS_TRUNCATED.len()),
            issuer: false,
        },
        Trim {
            sans: 0,
            issuer: true,
        },
    ];
    for trim in steps {
        claims.truncate(start);
        write(claims, principal, detail, trim);
        if claims.len() <= max {
            return;
        }
    }
}

fn write(claims: &mut String, principal: &Principal, detail: AssertionDetail, trim: Trim) {
    match (principal.peer(), detail) {
        (Some(peer), AssertionDetail::Full) if trim.sans == usize::MAX && !trim.issuer => {
            claims.push_str(peer.memo(full_text));
        }
        (Some(peer), AssertionDetail::Full) => push_full(claims, peer, trim),
        (Some(peer), AssertionDetail::Compact) => push_compact(claims, peer),
        (None, _) => {
            // Without a certificate, the claims contain fewer details about the authentication.
            push_subject(claims, &principal.caller().to_string());
            claims.push_str(",\"authn\":{");
        }
    }
    claims.push_str("\"methods\":[");
    for (index, method) in principal.methods().iter().enumerate() {
        if index > 0 {
            claims.push(',');
        }
        let _ = write!(claims, "\"{}\"", method.as_str());
    }
    let _ = write!(
        claims,
        "],\"at\":{},\"resumed\":{}}}",
        principal.authenticated_at(),
        principal.resumed()
    );
    if let Some(token) = principal.token() {
        claims.push_str(",\"token\":");
        claims.push_str(token.json());
    }
    claims.push('}');
}

/// Returns the size of the text that all assertions with full details about `principal` contain.
pub(super) fn expected_size(principal: &Principal, detail: AssertionDetail) -> usize {
    let caller = match (principal.peer(), detail) {
        (Some(peer), AssertionDetail::Full) => peer.memo(full_text).len(),
        _ => 0,
    };
    caller + principal.token().map_or(0, |token| token.json().len())
}

/// Returns the claims that depend only on the certificate and its verification, with all details.
/// The text ends inside `authn`, before `methods`.
fn full_text(peer: &PeerIdentity) -> String {
    let mut json = String::with_capacity(640);
    push_full(&mut json, peer, Trim::NOTHING);
    json
}

fn push_full(json: &mut String, peer: &PeerIdentity, trim: Trim) {
    let leaf = peer.leaf();
    push_subject(json, &peer.caller().to_string());
    json.push_str(",\"client_cert\":{\"x5t#S256\":\"");
    push_base64(json, &leaf.thumbprint);
    let _ = write!(json, "\",\"serial\":\"{}\",\"issuer\":", leaf.serial_hex());
    push_json(json, if trim.issuer { "" } else { &leaf.issuer });
    let _ = write!(
        json,
        ",\"not_before\":{},\"not_after\":{},\"sans\":{{",
        leaf.not_before.max(0),
        leaf.not_after.max(0)
    );
    let addresses: Vec<String> = leaf.sans.ip.iter().map(ToString::to_string).collect();
    let mut names = NameList {
        room: trim.sans,
        is_truncated: false,
    };
    names.push(json, "\"uri\":[", &leaf.sans.uri);
    names.push(json, ",\"dns\":[", &leaf.sans.dns);
    names.push(json, ",\"email\":[", &leaf.sans.email);
    names.push(json, ",\"ip\":[", &addresses);
    json.push_str("},\"anchor\":\"");
    push_base64(json, peer.anchor());
    json.push('"');
    if names.is_truncated {
        json.push_str(SANS_TRUNCATED);
    }
    if trim.issuer {
        json.push_str(",\"issuer_truncated\":true");
    }
    json.push_str("},\"authn\":{");
    push_authentication(json, peer);
}

fn push_compact(json: &mut String, peer: &PeerIdentity) {
    push_subject(json, &peer.caller().to_string());
    json.push_str(",\"authn\":{\"x5t#S256\":\"");
    push_base64(json, &peer.leaf().thumbprint);
    json.push_str("\",");
    push_authentication(json, peer);
}

fn push_subject(json: &mut String, caller: &str) {
    json.push_str(",\"sub\":");
    push_json(json, caller);
}

/// Appends those members of `authn` that callers with a certificate have, and a comma.
fn push_authentication(json: &mut String, peer: &PeerIdentity) {
    json.push_str("\"trust_domain\":");
    push_json(json, peer.trust_domain().as_str());
    let _ = write!(json, ",\"revocation\":\"{}\"", peer.revocation().as_str());
    if let Some(moment) = peer.crl_this_update() {
        let _ = write!(json, ",\"crl_this_update\":{}", moment.max(0));
    }
    json.push(',');
}

/// Writes the lists of names in `sans`.
struct NameList {
    /// How many bytes of names still fit.
    room: usize,
    is_truncated: bool,
}

impl NameList {
    fn push(&mut self, json: &mut String, open: &str, names: &[String]) {
        json.push_str(open);
        self.is_truncated |= names.len() > MAX_SANS_PER_TYPE;
        for (index, name) in names.iter().take(MAX_SANS_PER_TYPE).enumerate() {
            let start = json.len();
            if index > 0 {
                json.push(',');
            }
            push_json(json, name);
            let size = json.len().saturating_sub(start);
            if size > self.room {
                // A shorter name after this one is left out too, so that `sans` is always the
                // beginning of the certificate's list.
                json.truncate(start);
                self.room = 0;
                self.is_truncated = true;
                break;
            }
            self.room -= size;
        }
        json.push(']');
    }
}

/// Returns the size of all names in `sans`, as JSON.
fn sans_size(peer: &PeerIdentity) -> usize {
    let sans = &peer.leaf().sans;
    let addresses: Vec<String> = sans.ip.iter().map(ToString::to_string).collect();
    let mut json = String::new();
    let mut names = NameList {
        room: usize::MAX,
        is_truncated: false,
    };
    for list in [&sans.uri, &sans.dns, &sans.email, &addresses] {
        names.push(&mut json, "", list);
    }
    json.len()
}

/// Appends bytes in base64. The bytes are not secret, so the encoder need not run in constant time.
pub(super) fn push_base64(text: &mut String, bytes: &[u8]) {
    URL_SAFE_NO_PAD.encode_string(bytes, text);
}
