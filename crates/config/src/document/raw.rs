//! The configuration file as it is written: all sections and keys, each value with its place.
//!
//! The `sections!` table is the only list of known keys. A key that is not in the table is refused.
//! A test compares `docs/configuration.md` with the table. `resolve` decides whether the values fit
//! together.

use std::net::SocketAddr;

use countersign_verify::jose::Algorithm;
use http::{HeaderName, Method};
use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::demands::{Authenticate, ClaimDemands, Client, Introspect};
use super::quantity::{ByteSize, TimeSpan};
use super::schema::{Family, Need, SectionKeys, check_keys, find};
use super::value::{
    At, ByteShare, CertificateHeader, ClientMeans, Field, FromToml, List, Moment, PublicTls,
    Retries, Serve, Several, TokenFormat, text, wrong_type,
};
use crate::assertion::{AssertionDetail, SigningAlgorithm};
use crate::authn::token::binding::CertificateBinding;
use crate::authn::token::token_type::TokenType;
use crate::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::identity::pattern::{HostPattern, PathPattern};
use crate::identity::{IdentityPattern, NameType, TrustDomain};
use crate::policy::share::Share;
use crate::policy::throttle::{OnStoreFailure, Per};
use crate::route::{Binding, PathEncoding, PathRewrite, RewriteError, UpgradeProtocol};
use crate::tls::ClientCertificate;
use crate::trust::{CrlNumber, RevocationDepth, RevocationPosture};
use crate::upstream::header_rules::FieldPattern;
use crate::upstream::{Balance, ForwardedFields, HealthCheck, HttpProtocol, Sharing, TraceContext};

use Need::{Optional, Required};

macro_rules! sections {
    ($document:literal $all:ident $(
        $title:literal
        $(#[$doc:meta])*
        $name:ident { $($key:ident: $type:ty = $need:ident,)+ }
    )+) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub(crate) struct $name {
                /// The place of the section in the file.
                #[allow(dead_code, reason = "some sections complain about single keys only")]
                pub(crate) place: Span,
                $(pub(crate) $key: Field<$type>,)+
            }

            impl $name {
                pub(crate) const SECTION: SectionKeys = SectionKeys {
                    title: $title,
                    keys: &[$((stringify!($key), $need)),+],
                };

                pub(crate) fn read(
                    table: &DeTable<'_>,
                    place: Span,
                    diagnostics: &mut Diagnostics,
                ) -> Self {
                    check_keys(&Self::SECTION, &$all, table, &place, diagnostics);
                    let absent = |field: &str| {
                        let need = Self::SECTION.keys.iter().find(|(key, _)| *key == field);
                        need.is_some_and(|(_, need)| *need == Required)
                    };
                    Self {
                        place,
                        $($key: match Field::read(find(table, stringify!($key)), diagnostics) {
                            // `check_keys` has already reported that a required key is missing.
                            // `Bad` prevents a second error.
                            Field::Absent if absent(stringify!($key)) => Field::Bad,
                            field => field,
                        },)+
                    }
                }
            }
        )+

        /// All sections that this kind of file can have, with their keys.
        pub(crate) const $all: Family = Family {
            sections: &[$($name::SECTION),+],
            document: $document,
        };
    };
}
pub(crate) use sections;

sections! {
    "docs/configuration.md" SECTIONS

    "[listener]"
    /// The listener to which callers connect.
    Listener {
        address: SocketAddr = Required,
        certificate: String = Optional,
        private_key: String = Optional,
        client_certificate: ClientCertificate = Optional,
        trust_domains: Several<String> = Optional,
        proxy_protocol: Several<IpNet> = Optional,
    }

    "[[server_name]]"
    /// A certificate and trust domains that apply only to connections with these TLS server names.
    ServerName {
        names: Several<HostPattern> = Required,
        certificate: String = Required,
        private_key: String = Required,
        client_certificate: ClientCertificate = Optional,
        trust_domains: Several<String> = Optional,
    }

    "[tls.tickets]"
    /// TLS session tickets. With a ticket, a caller resumes a session without a full handshake.
    Tickets {
        enabled: bool = Optional,
        secret_file: String = Optional,
        rotation: TimeSpan = Optional,
        max_age: TimeSpan = Optional,
    }

    "[[trust_domain]]"
    /// A trust domain, whose certificates the gateway accepts.
    Trust {
        name: TrustDomain = Required,
        roots: Several<String> = Required,
        intermediates: List<String> = Optional,
        crls: List<String> = Optional,
        revocation: RevocationPosture = Optional,
        revocation_depth: RevocationDepth = Optional,
        grace: TimeSpan = Optional,
        crl_number: CrlNumber = Optional,
        max_age: TimeSpan = Optional,
        max_unread: TimeSpan = Optional,
        vouches_for: Several<IdentityPattern> = Optional,
        identity_from: Several<NameType> = Optional,
    }

    "[crl_fetch]"
    /// How the gateway fetches the CRLs whose URLs are in `crls` of `[[trust_domain]]`.
    CrlFetch {
        roots: Several<String> = Required,
        interval: TimeSpan = Optional,
        timeout: TimeSpan = Optional,
        size: ByteSize = Optional,
        directory: String = Optional,
    }

    "[deny_list]"
    /// The deny list: certificates and callers that the gateway refuses immediately, without a
    /// reload.
    DenySection {
        file: String = Required,
    }

    "[assertion]"
    /// The assertions about callers that the gateway sends to services.
    Assertion {
        issuer: String = Required,
        header: HeaderName = Optional,
        algorithm: SigningAlgorithm = Optional,
        lifetime: TimeSpan = Optional,
        max_size: ByteSize = Optional,
        keys: String = Required,
    }

    "[public]"
    /// The read-only listener for services and other clients: key sets, health, metadata.
    Public {
        address: SocketAddr = Required,
        tls: PublicTls = Optional,
        serve: Several<Serve> = Optional,
    }

    "[admin]"
    /// The listener and the local socket through which operators control the gateway.
    Admin {
        address: SocketAddr = Required,
        operators: Several<IdentityPattern> = Optional,
        socket: String = Optional,
    }

    "[[token_issuer]]"
    /// An issuer whose access tokens the gateway accepts.
    TokenIssuerSection {
        name: String = Required,
        issuer: String = Required,
        audience: Several<String> = Required,
        format: TokenFormat = Optional,
        jwks_file: String = Optional,
        jwks_uri: String = Optional,
        roots: Several<String> = Optional,
        introspection: IntrospectionSection = Optional,
        algorithms: Several<Algorithm> = Optional,
        types: Several<TokenType> = Optional,
        certificate_binding: CertificateBinding = Optional,
        allow_unbound: bool = Optional,
        skew: TimeSpan = Optional,
        forward_claims: Several<String> = Optional,
        timeout: TimeSpan = Optional,
        last_good: TimeSpan = Optional,
        required_at_start: bool = Optional,
        remember_accepted: TimeSpan = Optional,
        remember_refused: TimeSpan = Optional,
        cache_size: ByteSize = Optional,
    }

    "[token_issuer.introspection]"
    /// The endpoint at which the gateway asks a token issuer whether a token is active (RFC 7662).
    IntrospectionSection {
        endpoint: String = Required,
        client_id: String = Required,
        authentication: ClientMeans = Required,
        secret_file: String = Optional,
        private_key: String = Optional,
        certificate: String = Optional,
        key_id: String = Optional,
        audience: String = Optional,
    }

    "[api_keys]"
    /// Settings that apply to all `[[api_key]]` sections.
    ApiKeysSection {
        hmac_key: String = Required,
        header: HeaderName = Optional,
    }

    "[[api_key]]"
    /// One API key, with which a caller without a certificate authenticates.
    ApiKeySection {
        name: String = Required,
        id: String = Required,
        hash: String = Required,
        expires: Moment = Optional,
        routes: Several<String> = Optional,
        networks: Several<IpNet> = Optional,
        connection_networks: Several<IpNet> = Optional,
        callers: Several<IdentityPattern> = Optional,
    }

    "[[upstream]]"
    /// A service to which the gateway forwards requests.
    UpstreamSection {
        name: String = Required,
        endpoints: Several<String> = Required,
        protocol: HttpProtocol = Optional,
        balance: Balance = Optional,
        roots: Several<String> = Optional,
        server_name: String = Optional,
        identity: IdentityPattern = Optional,
        certificate: String = Optional,
        private_key: String = Optional,
        allow_plaintext: bool = Optional,
        host: String = Optional,
        forwarded: ForwardedFields = Optional,
        trace: TraceContext = Optional,
        certificate_headers: Several<CertificateHeader> = Optional,
        pass_headers: List<FieldPattern> = Optional,
        remove_headers: Several<FieldPattern> = Optional,
        keep_headers: Several<FieldPattern> = Optional,
        connect_timeout: TimeSpan = Optional,
        first_byte_timeout: TimeSpan = Optional,
        total_timeout: TimeSpan = Optional,
        idle_timeout: TimeSpan = Optional,
        tunnel_idle_timeout: TimeSpan = Optional,
        http1_upgrades: bool = Optional,
        stall_timeout: TimeSpan = Optional,
        dns_refresh: TimeSpan = Optional,
        health_check: HealthCheck = Optional,
        max_connections: u32 = Optional,
        share: Sharing = Optional,
        max_pending: u32 = Optional,
        max_requests: u32 = Optional,
        response_header_size: ByteSize = Optional,
        response_header_fields: u32 = Optional,
        retries: Retries = Optional,
        retry_budget: u32 = Optional,
    }

    "[[route]]"
    /// A route: which callers may send which requests to which upstream.
    RouteSection {
        name: String = Required,
        hosts: Several<HostPattern> = Optional,
        paths: Several<PathPattern> = Required,
        methods: Several<Method> = Optional,
        callers: Several<IdentityPattern> = Optional,
        except: List<IdentityPattern> = Optional,
        authenticate: Authenticate = Optional,
        token: RouteTokenSection = Optional,
        forward_token: bool = Optional,
        rate_limit: RateLimits = Optional,
        upstream: String = Required,
        audience: String = Optional,
        binding: Binding = Optional,
        assertion: AssertionDetail = Optional,
        path_encoding: PathEncodingWords = Optional,
        rewrite: PathRewrite = Optional,
        bind_body: ByteSize = Optional,
        continue_transaction: bool = Optional,
        upgrade: Several<UpgradeProtocol> = Optional,
    }

    "[route.token]"
    /// What the tokens of a route's callers must contain.
    RouteTokenSection {
        issuer: String = Required,
        audience: String = Optional,
        scopes: Several<String> = Optional,
        claims: ClaimDemands = Optional,
        client: Client = Optional,
        introspect: Introspect = Optional,
        resource: String = Optional,
    }

    "[route.rate_limit]"
    /// One rate limit of a route: how many requests are allowed in a time window, and whether they
    /// are counted for each caller, token subject, API key or address.
    RouteLimitSection {
        per: Per = Required,
        requests: u32 = Required,
        window: TimeSpan = Required,
        burst: u32 = Optional,
    }

    "[rate_limits]"
    /// Settings that apply to the rate limits of all routes.
    RateLimitsSection {
        keys: u32 = Optional,
        failed_authentications: u32 = Optional,
        redis: RedisSection = Optional,
    }

    "[rate_limits.redis]"
    /// The Redis store through which several gateways share the counts of their rate limits.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "this build refuses it whole"))]
    RedisSection {
        url: String = Required,
        on_store_failure: OnStoreFailure = Required,
        username: String = Optional,
        password_file: String = Optional,
        roots: String = Optional,
        allow_plaintext: bool = Optional,
        timeout: TimeSpan = Optional,
        prefix: String = Optional,
    }

    "[limits]"
    /// Limits of the whole gateway, for example the maximum number of connections.
    LimitsSection {
        connections: u32 = Optional,
        handshake_timeout: TimeSpan = Optional,
        header_timeout: TimeSpan = Optional,
        body_timeout: TimeSpan = Optional,
        header_size: ByteSize = Optional,
        header_fields: u32 = Optional,
        body_size: ByteSize = Optional,
        held_bodies: ByteSize = Optional,
        streams: u32 = Optional,
        drain_timeout: TimeSpan = Optional,
        caller: CallerLimitsSection = Optional,
        address: AddressLimitsSection = Optional,
    }

    "[limits.caller]"
    /// Limits that apply to each caller separately.
    CallerLimitsSection {
        connections: Share = Optional,
        requests_in_flight: Share = Optional,
        tunnels: u32 = Optional,
        buffered_bodies: ByteShare = Optional,
    }

    "[limits.address]"
    /// Limits that apply to each client address separately, before the client is authenticated.
    AddressLimitsSection {
        handshakes_in_progress: u32 = Optional,
        trusted_networks: Several<IpNet> = Optional,
    }

    "[runtime]"
    /// Settings of the process that only a restart changes.
    Runtime {
        workers: u32 = Optional,
    }

    "[audit]"
    /// The files of the audit log.
    Audit {
        file: String = Optional,
        chains: String = Optional,
    }
}

/// Implements [`FromToml`] for sections that are tables inside another section.
macro_rules! within {
    ($($name:ident),+) => {$(
        impl FromToml for $name {
            fn from_toml(
                value: &Spanned<DeValue<'_>>,
                diagnostics: &mut Diagnostics,
            ) -> Option<Self> {
                match value.get_ref() {
                    DeValue::Table(table) => Some(Self::read(table, value.span(), diagnostics)),
                    _ => wrong_type(value, "a table", diagnostics),
                }
            }
        }
    )+};
}

/// Reads the key `rewrite` of a route: the path prefix that is replaced, and the new prefix.
impl FromToml for PathRewrite {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        const FORM: &str = "{ from = \"/api\", to = \"/\" }";
        let DeValue::Table(table) = value.get_ref() else {
            return wrong_type(value, FORM, diagnostics);
        };
        let (Some(from), Some(to), 2) = (find(table, "from"), find(table, "to"), table.len())
        else {
            diagnostics.error(
                Diagnostic::new(value.span(), "this does not say how paths are rewritten")
                    .help(format!("write {FORM}")),
            );
            return None;
        };
        let written = (
            text(from, "a path", diagnostics)?,
            text(to, "a path", diagnostics)?,
        );
        Self::new(written.0, written.1)
            .map_err(|error| {
                let place = match error {
                    RewriteError::From => from.span(),
                    RewriteError::To => to.span(),
                };
                diagnostics.error(
                    Diagnostic::new(place, "this cannot be the beginning of a path").help(
                        "write whole segments of letters, digits and -._~@: without a final slash, for example \"/api/v1\", or \"/\" for none",
                    ),
                );
            })
            .ok()
    }
}

within!(
    IntrospectionSection,
    RouteTokenSection,
    RouteLimitSection,
    RedisSection,
    CallerLimitsSection,
    AddressLimitsSection
);

/// The value of the key `path_encoding` of a route: one word, or a list of words.
#[derive(Debug)]
pub(crate) struct PathEncodingWords(pub(crate) Vec<At<PathEncoding>>);

impl FromToml for PathEncodingWords {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        one_or_several(value, diagnostics).map(Self)
    }
}

/// Reads a list, or one value without brackets.
fn one_or_several<T: FromToml>(
    value: &Spanned<DeValue<'_>>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<At<T>>> {
    match value.get_ref() {
        DeValue::Array(_) => Some(Several::from_toml(value, diagnostics)?.0),
        _ => Some(vec![At {
            value: T::from_toml(value, diagnostics)?,
            place: value.span(),
        }]),
    }
}

/// The value of the key `rate_limit` of a route: one limit, or a list of limits.
#[derive(Debug)]
pub(crate) struct RateLimits(pub(crate) Vec<At<RouteLimitSection>>);

impl FromToml for RateLimits {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        one_or_several(value, diagnostics).map(Self)
    }
}
