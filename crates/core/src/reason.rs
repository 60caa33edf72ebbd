//! `ReasonCode`: the codes for the reasons why a request or handshake is refused.
//!
//! The same code is used in audit lines, metric labels, problem details, gRPC error details,
//! `countersign explain` and `countersign reasons`. For each code, this module contains the text,
//! the HTTP and gRPC status, the TLS alert, and the party that can fix the cause. The module must
//! not depend on the code that refuses requests.

use std::fmt;

/// The party that can fix the cause of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FixedBy {
    /// The calling workload or its developer.
    Caller,
    /// The operator of the gateway or of its certificate authority.
    Operator,
    /// The operator of the service behind the gateway.
    Service,
    /// No party: the cause disappears after some time, so the caller only has to wait.
    Time,
}

impl FixedBy {
    /// Returns the word that is used in documents and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Operator => "operator",
            Self::Service => "service",
            Self::Time => "time",
        }
    }
}

/// The subject of a reason code. Each category is a section of `docs/reasons.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// The reason concerns the caller's certificate chain.
    Certificate,
    /// The reason concerns a token that is sent in addition to the certificate.
    Token,
    /// The reason concerns the request itself.
    Request,
    /// The reason concerns the service behind the gateway.
    Upstream,
    /// The reason concerns the state of the gateway itself.
    Gateway,
}

impl Category {
    /// Returns the word that is used in documents and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
            Self::Request => "request",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

/// The TLS alerts that the gateway sends if a handshake fails (RFC 8446 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsAlert {
    /// 44 `certificate_revoked`: sent if a certificate of the chain is revoked
    CertificateRevoked,
    /// 45 `certificate_expired`: sent if a certificate of the chain has expired or is not valid yet
    CertificateExpired,
    /// 46 `certificate_unknown`: sent for all other reasons that concern the certificate
    CertificateUnknown,
    /// 48 `unknown_ca`: sent if no trusted authority has issued the chain, or if a usable CRL is
    /// missing
    UnknownCa,
    /// 116 `certificate_required` (in TLS 1.2: 40 `handshake_failure`): sent if the caller presents
    /// no certificate
    CertificateRequired,
}

impl TlsAlert {
    /// Returns the number that the alert has in TLS 1.3.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::CertificateRevoked => 44,
            Self::CertificateExpired => 45,
            Self::CertificateUnknown => 46,
            Self::UnknownCa => 48,
            Self::CertificateRequired => 116,
        }
    }

    /// Returns the name that the alert has in RFC 8446.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateUnknown => "certificate_unknown",
            Self::UnknownCa => "unknown_ca",
            Self::CertificateRequired => "certificate_required",
        }
    }
}

/// The gRPC status codes in responses to gRPC callers.
pub mod grpc {
    /// `INVALID_ARGUMENT`: the request is malformed.
    pub const INVALID_ARGUMENT: u8 = 3;
    /// `DEADLINE_EXCEEDED`: the caller or the service took too long.
    pub const DEADLINE_EXCEEDED: u8 = 4;
    /// `PERMISSION_DENIED`: the caller's certificate, token or identity is not sufficient.
    pub const PERMISSION_DENIED: u8 = 7;
    /// `RESOURCE_EXHAUSTED`: the request exceeds a limit.
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    /// `UNIMPLEMENTED`: no route matches, or the route does not allow the method.
    pub const UNIMPLEMENTED: u8 = 12;
    /// `INTERNAL`: an error inside the gateway.
    pub const INTERNAL: u8 = 13;
    /// `UNAVAILABLE`: the service, the gateway or the token issuer cannot serve the request now.
    pub const UNAVAILABLE: u8 = 14;
    /// `UNAUTHENTICATED`: the token is missing or not accepted.
    pub const UNAUTHENTICATED: u8 = 16;
}

macro_rules! reasons {
    ($( $variant:ident = $code:literal, $category:ident, $status:literal, $grpc:ident, $alert:expr, $mender:ident, $title:literal, $hint:literal; )+) => {
        /// The reason of a refusal. The texts of the codes never change. They are in kebab case.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode {
            $( #[doc = concat!("`", $code, "`: ", $title)] $variant, )+
        }

        impl ReasonCode {
            /// All codes, in the order in which `docs/reasons.md` lists them.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// Returns the text of the code, for example `certificate-revoked`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $code, )+ }
            }

            /// Returns the category of the reason.
            #[must_use]
            pub const fn category(self) -> Category {
                match self { $( Self::$variant => Category::$category, )+ }
            }

            /// Returns the HTTP status of a response with this reason.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $( Self::$variant => $status, )+ }
            }

            /// Returns the gRPC status code of a response to a gRPC caller.
            #[must_use]
            pub const fn grpc_status(self) -> u8 {
                match self { $( Self::$variant => grpc::$grpc, )+ }
            }

            /// Returns the TLS alert for a handshake that fails for this reason. Returns `None` if
            /// the reason does not concern the certificate.
            #[must_use]
            pub const fn alert(self) -> Option<TlsAlert> {
                match self { $( Self::$variant => $alert, )+ }
            }

            /// Returns the party that can fix the cause of the refusal.
            #[must_use]
            pub const fn fixed_by(self) -> FixedBy {
                match self { $( Self::$variant => FixedBy::$mender, )+ }
            }

            /// Returns a short sentence about the reason, which callers may see.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $( Self::$variant => $title, )+ }
            }

            /// Returns a sentence that says how to fix the cause of the refusal.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $( Self::$variant => $hint, )+ }
            }
        }
    };
}

const REVOKED: Option<TlsAlert> = Some(TlsAlert::CertificateRevoked);
const EXPIRED: Option<TlsAlert> = Some(TlsAlert::CertificateExpired);
const UNKNOWN_CA: Option<TlsAlert> = Some(TlsAlert::UnknownCa);
const UNKNOWN: Option<TlsAlert> = Some(TlsAlert::CertificateUnknown);
const REQUIRED: Option<TlsAlert> = Some(TlsAlert::CertificateRequired);

reasons! {
    NoCertificate = "no-certificate", Certificate, 403, PERMISSION_DENIED, REQUIRED, Caller,
        "A client certificate is required and none was presented.",
        "Send a client certificate in the TLS handshake (curl: --cert and --key). Many clients send none if its issuer is not among the authorities that the gateway names, or if its key is of a kind that the gateway does not support.";
    CertificateExpired = "certificate-expired", Certificate, 403, PERMISSION_DENIED, EXPIRED, Caller,
        "A certificate of the presented chain has expired.",
        "Renew the certificate. If it is an intermediate or a root, the operator has to renew that one.";
    CertificateNotYetValid = "certificate-not-yet-valid", Certificate, 403, PERMISSION_DENIED, EXPIRED, Caller,
        "A certificate of the presented chain is not valid yet.",
        "Compare the clocks of the issuing machine and the gateway, or wait until notBefore.";
    UnknownIssuer = "unknown-issuer", Certificate, 403, PERMISSION_DENIED, UNKNOWN_CA, Caller,
        "The presented chain does not lead to an authority this gateway trusts.",
        "Send the leaf followed by its intermediates, issued by an authority the operator has configured.";
    CertificateRevoked = "certificate-revoked", Certificate, 403, PERMISSION_DENIED, REVOKED, Caller,
        "A certificate of the presented chain is revoked.",
        "Ask for a new certificate with a new key.";
    RevocationUnknown = "revocation-unknown", Certificate, 403, PERMISSION_DENIED, UNKNOWN_CA, Operator,
        "No usable revocation list covers a certificate of the presented chain.",
        "Configure a CRL of every issuer in the path (one with a distribution point covers only certificates that name it), or choose another revocation posture for the trust domain.";
    RevocationStale = "revocation-stale", Certificate, 403, PERMISSION_DENIED, UNKNOWN_CA, Operator,
        "The revocation list that covers the presented chain is out of date.",
        "Publish a fresh CRL (countersign pki crl), or grant a grace period for the trust domain.";
    WrongUsage = "wrong-usage", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "The certificate is not meant for authenticating a client.",
        "Use a leaf with extended key usage clientAuth and key usage digitalSignature, and without CA, keyCertSign and cRLSign.";
    NameConstraint = "name-constraint", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Operator,
        "A name in the certificate lies outside what its authority may certify.",
        "Issue from an authority without that constraint; URI and e-mail constraints are always refused.";
    NoIdentity = "no-identity", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "The certificate carries no name of a type that this trust domain reads.",
        "Issue the certificate with a subject alternative name of a type in identity_from.";
    AmbiguousIdentity = "ambiguous-identity", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "More than one name of the deciding type could name the caller.",
        "Issue the certificate with exactly one name of the deciding type.";
    MalformedIdentity = "malformed-identity", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "A name in the certificate is malformed or could pass for another type.",
        "Issue the certificate with a well-formed SPIFFE ID, URI, DNS name, address or IP address.";
    TrustDomainMismatch = "trust-domain-mismatch", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "The authority that issued the certificate may not vouch for this identity.",
        "Use a certificate issued by the authority of the identity's own trust domain.";
    WeakKey = "weak-key", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "A key or signature algorithm in the presented chain is too weak.",
        "Use P-256, P-384, Ed25519 or RSA with at least 2048 bits, signed with SHA-256 or better.";
    UnsupportedKey = "unsupported-key", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "A key or signature algorithm in the presented chain is not supported.",
        "Use P-256, P-384, Ed25519 or RSA (rsaEncryption) with 2048 to 8192 bits, signed with SHA-256 or SHA-384, or by RSA with SHA-512; builds with aws-lc-rs support more.";
    BadSignature = "bad-signature", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "A signature in the presented chain or handshake does not verify.",
        "Check that certificate and key belong together and that the file is undamaged.";
    ChainTooLong = "chain-too-long", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Caller,
        "The presented chain has too many or too large certificates.",
        "Send the leaf and its intermediates only: at most 8 certificates and 32 KiB.";
    IdentityDenied = "identity-denied", Certificate, 403, PERMISSION_DENIED, UNKNOWN, Operator,
        "This identity or certificate is on the gateway's deny list.",
        "Ask the operator; the entry carries its reason and expiry.";

    TokenMissing = "token-missing", Token, 401, UNAUTHENTICATED, None, Caller,
        "This route demands a token and none was presented.",
        "Send Authorization: Bearer with an access token.";
    TokenMalformed = "token-malformed", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token is not a well-formed one.",
        "Send one compact JWT, unaltered, in one Authorization field.";
    TokenSignature = "token-signature", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token's signature does not verify.",
        "Get a new token from the configured issuer.";
    TokenAlgorithm = "token-algorithm", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token's algorithm is not accepted from this issuer.",
        "Have the issuer sign with an algorithm the operator allows.";
    TokenType = "token-type", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token is not of the expected type.",
        "Send an access token, not an identity token.";
    TokenExpired = "token-expired", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token has expired.",
        "Refresh the token and repeat the request.";
    TokenNotYetValid = "token-not-yet-valid", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token is not valid yet.",
        "Compare the clocks of the issuer and the gateway.";
    TokenIssuer = "token-issuer", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token comes from an issuer this route does not accept.",
        "Get the token from the issuer named in the challenge.";
    TokenAudience = "token-audience", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token is meant for another audience.",
        "Request a token for the audience of this resource.";
    TokenUnbound = "token-unbound", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token is not bound to a certificate although this route demands it.",
        "Request a certificate-bound token (RFC 8705).";
    TokenBindingMismatch = "token-binding-mismatch", Token, 401, UNAUTHENTICATED, None, Caller,
        "The token is bound to another certificate.",
        "Use the certificate the token was issued to, or get a new token with the current one.";
    TokenInactive = "token-inactive", Token, 401, UNAUTHENTICATED, None, Caller,
        "The issuer says that the token is not active.",
        "Get a new token.";
    TokenScope = "token-scope", Token, 403, PERMISSION_DENIED, None, Caller,
        "The token lacks a scope or claim that this route demands.",
        "Request a token with the scope named in the challenge.";
    KeysUnavailable = "keys-unavailable", Token, 503, UNAVAILABLE, None, Operator,
        "The issuer's keys cannot be had at the moment.",
        "Try again later; the operator should check the issuer.";

    HostMismatch = "host-mismatch", Request, 421, PERMISSION_DENIED, None, Caller,
        "The request's host does not belong to the name this connection was opened for.",
        "Open a new connection whose TLS server name is the host you ask for.";
    MalformedRequest = "malformed-request", Request, 400, INVALID_ARGUMENT, None, Caller,
        "The request is not well-formed.",
        "Send a request that follows RFC 9110 and RFC 9112, with a plain path.";
    NoRoute = "no-route", Request, 404, UNIMPLEMENTED, None, Caller,
        "No route matches this host and path.",
        "Check host and path; the operator configures routes.";
    CallerNotAllowed = "caller-not-allowed", Request, 403, PERMISSION_DENIED, None, Operator,
        "This caller is not allowed on this route.",
        "Ask the operator to add the identity to the route's callers.";
    UpgradeNotAllowed = "upgrade-not-allowed", Request, 403, PERMISSION_DENIED, None, Operator,
        "This route does not allow the connection to change to this protocol.",
        "Ask the operator to name the protocol in the route's upgrade.";
    MethodNotAllowed = "method-not-allowed", Request, 405, UNIMPLEMENTED, None, Caller,
        "The route does not allow this method.",
        "Use a method named in the Allow field.";
    RateLimited = "rate-limited", Request, 429, RESOURCE_EXHAUSTED, None, Time,
        "Too many requests.",
        "Wait as Retry-After says.";
    CallerLimit = "caller-limit", Request, 429, RESOURCE_EXHAUSTED, None, Time,
        "This caller holds as much of the gateway as it may.",
        "Close connections, or wait for requests to end; the operator can raise the limit that the answer names.";
    TooLarge = "too-large", Request, 413, RESOURCE_EXHAUSTED, None, Caller,
        "The request is larger than the gateway accepts.",
        "Send a shorter path, smaller headers or a smaller body; the detail names the limit, which the operator may be able to raise.";
    HeadTooLarge = "head-too-large", Request, 431, RESOURCE_EXHAUSTED, None, Caller,
        "The service behind this route takes no head of this size.",
        "Send fewer or shorter fields, or a shorter path and query.";
    Timeout = "timeout", Request, 408, DEADLINE_EXCEEDED, None, Caller,
        "The request took too long to arrive.",
        "Send the whole request without long pauses.";
    BodyTooSlow = "body-too-slow", Request, 408, DEADLINE_EXCEEDED, None, Caller,
        "The request's body arrived too slowly.",
        "Send the body faster: at least 10 KiB in any 10 seconds.";

    UpstreamUnavailable = "upstream-unavailable", Upstream, 503, UNAVAILABLE, None, Service,
        "The service behind this route cannot be reached.",
        "Try again later; the operator should check the service.";
    UpstreamTimeout = "upstream-timeout", Upstream, 504, DEADLINE_EXCEEDED, None, Service,
        "The service behind this route did not answer in time.",
        "Try again later; the operator should check the service.";
    UpstreamProtocol = "upstream-protocol", Upstream, 502, UNAVAILABLE, None, Service,
        "The service behind this route gave an answer that is not well-formed.",
        "The operator should check the service's answers.";
    UpstreamUntrusted = "upstream-untrusted", Upstream, 502, UNAVAILABLE, None, Operator,
        "The service behind this route did not prove the expected identity.",
        "Check the upstream's certificate, roots and expected name.";

    Overloaded = "overloaded", Gateway, 503, UNAVAILABLE, None, Time,
        "The gateway is at its limit.",
        "Wait as Retry-After says.";
    ShuttingDown = "shutting-down", Gateway, 503, UNAVAILABLE, None, Time,
        "The gateway is shutting down.",
        "Open a new connection.";
}

impl ReasonCode {
    /// Returns the reason whose code is `word`. Returns `None` if there is no such code.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == word)
    }

    /// Returns the reasons that a TLS alert with this number may have.
    #[must_use]
    pub fn behind_alert(number: u8) -> Vec<Self> {
        let has_alert = |code: &Self| code.alert().is_some_and(|alert| alert.number() == number);
        let mut reasons: Vec<Self> = Self::ALL.iter().copied().filter(has_alert).collect();
        match number {
            // unexpected_message: the first message was not a ClientHello.
            10 => reasons.push(Self::MalformedRequest),
            // handshake_failure: TLS 1.2 uses this alert if a required certificate is missing.
            40 => reasons.push(Self::NoCertificate),
            // unrecognized_name: the server name that the client sent is unknown.
            112 => reasons.push(Self::HostMismatch),
            _ => {}
        }
        reasons
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl serde::Serialize for ReasonCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_word_and_is_kebab_case() {
        for code in ReasonCode::ALL {
            assert_eq!(ReasonCode::parse(code.as_str()), Some(*code));
            assert!(
                code.as_str()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
        }
    }

    #[test]
    fn every_alert_leads_to_its_reasons() {
        for code in ReasonCode::ALL {
            if let Some(alert) = code.alert() {
                assert!(ReasonCode::behind_alert(alert.number()).contains(code));
            }
        }
        assert_eq!(
            ReasonCode::behind_alert(44),
            [ReasonCode::CertificateRevoked]
        );
        assert_eq!(ReasonCode::behind_alert(40), [ReasonCode::NoCertificate]);
        assert_eq!(ReasonCode::behind_alert(70), []);
    }

    #[test]
    fn certificate_refusals_are_403_and_carry_an_alert() {
        for code in ReasonCode::ALL {
            let is_certificate = code.category() == Category::Certificate;
            assert_eq!(code.alert().is_some(), is_certificate, "{code}");
            if is_certificate {
                assert_eq!(code.status(), 403, "{code}");
            }
        }
    }
}
