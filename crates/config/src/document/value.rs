//! Reads single values of the parsed file, each with its place.
//!
//! If a value cannot be used, an error is reported with its place, and the value becomes
//! [`Field::Bad`]. Reading then continues with the next value. Later checks ignore a bad value,
//! because its error was already reported. `resolve` decides what the values mean together.

use std::net::{IpAddr, SocketAddr};

use countersign_verify::jose::Algorithm;
use http::{HeaderName, Method};
use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::quantity::{ByteSize, TimeSpan};
use crate::assertion::{AssertionDetail, SigningAlgorithm};
use crate::authn::token::binding::CertificateBinding;
use crate::authn::token::token_type::TokenType;
use crate::diagnostics::suggest::nearest;
use crate::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::identity::pattern::{HostPattern, PathPattern};
use crate::identity::principal::Method as CallerMethod;
use crate::identity::{IdentityPattern, NameType, TrustDomain};
use crate::pki::{KeyAlgorithm, Lifetime};
use crate::policy::share::Share;
use crate::policy::throttle::{OnStoreFailure, Per};
use crate::route::{Binding, PathEncoding, UpgradeProtocol};
use crate::tls::ClientCertificate;
use crate::trust::{CrlNumber, RevocationDepth, RevocationPosture};
use crate::upstream::header_rules::FieldPattern;
use crate::upstream::{Balance, ForwardedFields, HttpProtocol, Sharing, TraceContext};

/// A value, and where it is in the file.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Span,
}

/// The value of a key, or the reason why there is none.
#[derive(Debug)]
pub(crate) enum Field<T> {
    /// The key is not in the file.
    Absent,
    /// The value is invalid, or a required key is missing. An error was reported.
    Bad,
    /// The value is valid. It is stored with its place in the file.
    Good(At<T>),
}

impl<T> Field<T> {
    /// Reads the value of a key from its entry in the table. `None` means that the key is absent.
    pub(crate) fn read(entry: Option<&Spanned<DeValue<'_>>>, diagnostics: &mut Diagnostics) -> Self
    where
        T: FromToml,
    {
        match entry {
            None => Self::Absent,
            Some(value) => match T::from_toml(value, diagnostics) {
                Some(read) => Self::Good(At {
                    value: read,
                    place: value.span(),
                }),
                None => Self::Bad,
            },
        }
    }

    /// Returns the value if the key has a valid value.
    pub(crate) const fn value(&self) -> Option<&T> {
        match self {
            Self::Good(at) => Some(&at.value),
            _ => None,
        }
    }

    /// Returns the value with its place if the key has a valid value.
    pub(crate) const fn at(&self) -> Option<&At<T>> {
        match self {
            Self::Good(at) => Some(at),
            _ => None,
        }
    }

    /// Whether the key is not in the file. Returns false if its value is invalid.
    pub(crate) const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<T: Clone> Field<T> {
    /// Returns the value if the key has a valid value. Otherwise, returns `default`.
    pub(crate) fn or(&self, default: T) -> T {
        self.value().cloned().unwrap_or(default)
    }
}

/// The elements of a list, each with its place.
pub(crate) type List<T> = Vec<At<T>>;

/// A list that has at least one element. An empty list is refused, because its meaning is unclear:
/// it could match nothing, or everything.
#[derive(Debug, Clone)]
pub(crate) struct Several<T>(pub(crate) List<T>);

impl<T> Field<List<T>> {
    /// Returns the elements of the list. Returns an empty slice if the key is absent or invalid.
    pub(crate) fn items(&self) -> &[At<T>] {
        self.value().map_or(&[], Vec::as_slice)
    }
}

impl<T> Field<Several<T>> {
    /// Returns the elements of the list. Returns an empty slice if the key is absent or invalid.
    pub(crate) fn items(&self) -> &[At<T>] {
        self.value().map_or(&[], |several| several.0.as_slice())
    }
}

impl<T: Clone> Field<Several<T>> {
    /// Returns the elements of the list without their places.
    pub(crate) fn values(&self) -> Vec<T> {
        self.items().iter().map(|item| item.value.clone()).collect()
    }
}

/// A type whose values can be read from the file.
pub(crate) trait FromToml: Sized {
    /// Reads a value. If the value is invalid, reports an error and returns `None`.
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self>;
}

const A_LIST: &str = "a list";

/// Reports that a value has the wrong type. `expected` describes the right type. Returns `None`.
pub(crate) fn wrong_type<T>(
    value: &Spanned<DeValue<'_>>,
    expected: &str,
    diagnostics: &mut Diagnostics,
) -> Option<T> {
    let found = match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let help = match value.get_ref() {
        DeValue::String(_) if expected == A_LIST => {
            "put the value into brackets: [\"…\"]".to_owned()
        }
        DeValue::String(_) => format!("write {expected}, without quotes"),
        DeValue::Array(_) => format!("write {expected}, without brackets"),
        _ => format!("write {expected}"),
    };
    diagnostics.error(
        Diagnostic::new(
            value.span(),
            format!("this must be {expected}, not {found}"),
        )
        .label(format!("expected {expected}"))
        .help(help),
    );
    None
}

pub(crate) fn text<'a>(
    value: &'a Spanned<DeValue<'_>>,
    expected: &str,
    diagnostics: &mut Diagnostics,
) -> Option<&'a str> {
    match value.get_ref() {
        DeValue::String(text) => Some(text),
        _ => wrong_type(value, expected, diagnostics),
    }
}

impl FromToml for String {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let text = text(value, "a text in quotes", diagnostics)?;
        if text.contains("-----BEGIN ") {
            // People paste a key or a certificate in place of its file's name.
            diagnostics.error(
                Diagnostic::new(
                    value.span(),
                    "this is the content of a file, and not its name",
                )
                .label("expected a text such as the path of a file")
                .help(
                    "write it to a file of its own that only the gateway's user can read (mode \
                     0600), and name that file here; if others could read a private key here, \
                     replace the key",
                ),
            );
            return None;
        }
        if text.is_empty() || text.chars().any(char::is_control) {
            diagnostics.error(
                Diagnostic::new(value.span(), "this text is empty or has control characters")
                    .help("write a text, or leave the key out where it is optional"),
            );
            return None;
        }
        Some(text.to_owned())
    }
}

impl FromToml for bool {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            _ => wrong_type(value, "true or false", diagnostics),
        }
    }
}

/// Reads an integer from 1 to 1,000,000,000.
impl FromToml for u32 {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let DeValue::Integer(number) = value.get_ref() else {
            return wrong_type(value, "a whole number", diagnostics);
        };
        let read = Self::from_str_radix(number.as_str(), number.radix()).ok();
        let read = read.filter(|number| (1..=1_000_000_000).contains(number));
        if read.is_none() {
            diagnostics.error(
                Diagnostic::new(value.span(), "this number is out of range")
                    .label("expected 1 to 1000000000")
                    .help("write a number of at least 1"),
            );
        }
        read
    }
}

/// Reads a caller's share of a limit: a percentage of the limit, or a number.
impl FromToml for Share {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(text) => {
                let share = Self::parse_percent(text);
                if share.is_none() {
                    not_a_share(value, "write for example \"25%\", or a number", diagnostics);
                }
                share
            }
            _ => u32::from_toml(value, diagnostics).map(|number| Self::Number(number.into())),
        }
    }
}

/// A caller's share of a memory limit: a percentage of the limit, or a number of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteShare(pub(crate) Share);

impl FromToml for ByteShare {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let text = text(value, "a percentage or a size", diagnostics)?;
        let size = || Some(Share::Number(ByteSize::parse(text).ok()?.bytes()));
        let share = Share::parse_percent(text).or_else(size);
        let share = share.filter(|share| *share != Share::Number(0));
        if share.is_none() {
            not_a_share(value, "write for example \"25%\" or \"16MiB\"", diagnostics);
        }
        share.map(Self)
    }
}

fn not_a_share(value: &Spanned<DeValue<'_>>, help: &str, diagnostics: &mut Diagnostics) {
    diagnostics.error(
        Diagnostic::new(value.span(), "this is not a share of a bound")
            .label("expected 1% to 100%, or an amount")
            .help(help),
    );
}

/// How often the gateway may send one request again after a failed attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retries(pub(crate) u32);

impl FromToml for Retries {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let DeValue::Integer(number) = value.get_ref() else {
            return wrong_type(value, "a whole number", diagnostics);
        };
        let read = u32::from_str_radix(number.as_str(), number.radix()).ok();
        let read = read.filter(|number| (0..=5).contains(number)).map(Self);
        if read.is_none() {
            diagnostics.error(
                Diagnostic::new(value.span(), "this number is out of range")
                    .label("expected 0 to 5")
                    .help("write 0 to send no request a second time"),
            );
        }
        read
    }
}

impl<T: FromToml> FromToml for List<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let DeValue::Array(elements) = value.get_ref() else {
            return wrong_type(value, A_LIST, diagnostics);
        };
        let read: Self = elements
            .iter()
            .filter_map(|element| {
                T::from_toml(element, diagnostics).map(|value| At {
                    value,
                    place: element.span(),
                })
            })
            .collect();
        (read.len() == elements.len()).then_some(read)
    }
}

impl<T: FromToml> FromToml for Several<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let list = List::from_toml(value, diagnostics)?;
        if list.is_empty() {
            diagnostics.error(
                Diagnostic::new(value.span(), "this list is empty")
                    .help("write at least one value, or leave the key out where it is optional"),
            );
            return None;
        }
        Some(Self(list))
    }
}

/// Implements [`FromToml`] for types that are written as strings and have a parser.
macro_rules! texts {
    ($($(#[$doc:meta])* $type:ty, $expected:literal, $parse:expr;)*) => {$(
        $(#[$doc])*
        impl FromToml for $type {
            fn from_toml(
                value: &Spanned<DeValue<'_>>,
                diagnostics: &mut Diagnostics,
            ) -> Option<Self> {
                let text = text(value, $expected, diagnostics)?;
                let parse: fn(&str) -> Result<Self, String> = $parse;
                parse(text)
                    .map_err(|why| {
                        diagnostics.error(
                            Diagnostic::new(value.span(), format!("this is not {}", $expected))
                                .label(concat!("expected ", $expected))
                                .help(why),
                        );
                    })
                    .ok()
            }
        }
    )*};
}

fn why<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

texts! {
    Lifetime, "a lifetime", |text| why(text.parse());
    TimeSpan, "a duration", |text| why(Self::parse(text));
    ByteSize, "a size", |text| why(Self::parse(text));
    SocketAddr, "an IP address with a port", |text| text.parse().map_err(|_| {
        "write for example \"0.0.0.0:8443\" or \"[::1]:8443\"; host names are not looked up".to_owned()
    });
    TrustDomain, "a trust domain name", |text| why(Self::parse(text));
    HostPattern, "a host pattern", |text| why(Self::parse(text));
    PathPattern, "a path pattern", |text| why(Self::parse(text));
    IdentityPattern, "an identity pattern", |text| why(Self::parse(text));
    HeaderName, "a header field name", |text| text.parse().map_err(|_| {
        "use letters, digits and hyphens, for example \"Countersign-Assertion\"".to_owned()
    });
    FieldPattern, "a header field name", |text| why(Self::parse(text));
    IpNet, "a network", |text| text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(Self::from))
        .map_err(|_| "write for example \"10.0.0.0/8\" or \"2001:db8::/32\"".to_owned());
    UpgradeProtocol, "a protocol to upgrade to", |text| why(Self::parse(text));
    Method, "an HTTP method", |text| {
        let is_method = !text.is_empty()
            && text.bytes().all(|octet| octet.is_ascii_uppercase() || octet == b'-' || octet == b'_');
        let method = is_method.then(|| text.parse().ok()).flatten();
        method.ok_or_else(|| "methods are written in capitals, for example \"GET\"".to_owned())
    };
}

/// A type whose values are a fixed set of words, for example `"hard"`, `"soft"` and `"off"`.
pub(crate) trait Words: Sized + Copy + 'static {
    /// All permitted words, each with the value that it means.
    const WORDS: &'static [(&'static str, Self)];

    /// Returns the word that means this value.
    fn word(self) -> &'static str
    where
        Self: PartialEq,
    {
        Self::WORDS
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("", |(word, _)| word)
    }
}

fn read_word<W: Words>(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<W> {
    let words = || W::WORDS.iter().map(|(word, _)| *word);
    let choices = words()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let text = text(value, &format!("one of {choices}"), diagnostics)?;
    let found = W::WORDS.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let help = match nearest(text, words()) {
            Some(word) => format!("did you mean \"{word}\"?"),
            None => format!("write one of {choices}"),
        };
        diagnostics.error(
            Diagnostic::new(value.span(), format!("unknown word {text:?}"))
                .label(format!("expected one of {choices}"))
                .help(help),
        );
    }
    found.map(|(_, meaning)| *meaning)
}

macro_rules! words {
    ($($type:ty: $($word:expr => $value:expr),+;)*) => {$(
        impl Words for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $value)),+];
        }
        impl FromToml for $type {
            fn from_toml(
                value: &Spanned<DeValue<'_>>,
                diagnostics: &mut Diagnostics,
            ) -> Option<Self> {
                read_word(value, diagnostics)
            }
        }
    )*};
}

/// The documents that the public listener can serve: the key `serve` of `[public]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serve {
    Keys,
    Health,
    Metrics,
}

/// The request header fields in which a service can receive its caller's certificate: those of RFC
/// 9440, and `X-Forwarded-Client-Cert` (`Xfcc`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateHeader {
    ClientCert,
    ClientCertChain,
    Xfcc,
}

/// The key `tls` of `[public]`: whether the public listener presents the certificate of
/// `[listener]` or uses no TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublicTls {
    Listener,
    Off,
}

/// What the certificates of a profile may be used for: as TLS client or as TLS server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

/// Whether the subject of a profile's certificates has a common name. The common name is the label
/// of the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommonName {
    Label,
    None,
}

/// The format of an issuer's access tokens. The gateway verifies a JWT itself. For an opaque token,
/// the gateway must ask the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenFormat {
    Jwt,
    Opaque,
}

/// How the gateway authenticates to the introspection endpoint of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientMeans {
    Certificate,
    Basic,
    PrivateKeyJwt,
}

/// A point in time from the file, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) u64);

impl FromToml for Moment {
    fn from_toml(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(moment) => moment.to_string(),
            _ => return wrong_type(value, "a moment", diagnostics),
        };
        let format = &time::format_description::well_known::Rfc3339;
        let read = time::OffsetDateTime::parse(&text, format)
            .ok()
            .and_then(|moment| u64::try_from(moment.unix_timestamp()).ok());
        if read.is_none() {
            diagnostics.error(
                Diagnostic::new(value.span(), "this is not a moment")
                    .label("expected date, time and offset")
                    .help("write for example \"2027-01-31T00:00:00Z\""),
            );
        }
        read.map(Self)
    }
}

words! {
    ClientCertificate: "required" => Self::Required, "optional" => Self::Optional;
    RevocationPosture: "hard" => Self::Hard, "soft" => Self::Soft, "off" => Self::Off;
    CrlNumber: "required" => Self::Required, "optional" => Self::Optional;
    RevocationDepth: "chain" => Self::Chain, "leaf" => Self::Leaf;
    NameType:
        Self::Spiffe.as_str() => Self::Spiffe, Self::Uri.as_str() => Self::Uri,
        Self::Dns.as_str() => Self::Dns, Self::Email.as_str() => Self::Email,
        Self::Ip.as_str() => Self::Ip, Self::Upn.as_str() => Self::Upn;
    SigningAlgorithm:
        Self::Es256.as_str() => Self::Es256, Self::EdDsa.as_str() => Self::EdDsa;
    HttpProtocol: "http1" => Self::Http1, "h2" => Self::Http2;
    Balance:
        "round-robin" => Self::RoundRobin, "least-requests" => Self::LeastRequests,
        "caller" => Self::Caller;
    ForwardedFields:
        "x-forwarded" => Self::XForwarded, "forwarded" => Self::Forwarded,
        "both" => Self::Both, "off" => Self::Off;
    Sharing:
        "never" => Self::Never, "when-full" => Self::WhenFull, "always" => Self::Always;
    TraceContext:
        "continue" => Self::Continue, "restart" => Self::Restart, "off" => Self::Off;
    CertificateHeader:
        "client-cert" => Self::ClientCert, "client-cert-chain" => Self::ClientCertChain,
        "x-forwarded-client-cert" => Self::Xfcc;
    Binding: "request" => Self::Request, "caller" => Self::Caller;
    AssertionDetail:
        Self::Full.as_str() => Self::Full, Self::Compact.as_str() => Self::Compact;
    PathEncoding:
        Self::Strict.as_str() => Self::Strict,
        Self::EncodedSlash.as_str() => Self::EncodedSlash,
        Self::DoubleEncoding.as_str() => Self::DoubleEncoding,
        Self::EmptySegments.as_str() => Self::EmptySegments,
        Self::NonUtf8.as_str() => Self::NonUtf8;
    Serve: "keys" => Self::Keys, "health" => Self::Health, "metrics" => Self::Metrics;
    PublicTls: "listener" => Self::Listener, "off" => Self::Off;
    Usage: "client" => Self::Client, "server" => Self::Server;
    CommonName: "label" => Self::Label, "none" => Self::None;
    KeyAlgorithm:
        Self::P256.as_str() => Self::P256, Self::P384.as_str() => Self::P384,
        Self::Ed25519.as_str() => Self::Ed25519, Self::Rsa2048.as_str() => Self::Rsa2048,
        Self::Rsa3072.as_str() => Self::Rsa3072, Self::Rsa4096.as_str() => Self::Rsa4096;
    CallerMethod:
        CallerMethod::Certificate.as_str() => Self::Certificate,
        CallerMethod::ApiKey.as_str() => Self::ApiKey,
        CallerMethod::Token.as_str() => Self::Token;
    Per:
        Per::Caller.as_str() => Self::Caller, Per::Subject.as_str() => Self::Subject,
        Per::ApiKey.as_str() => Self::ApiKey, Per::Route.as_str() => Self::Route,
        Per::Address.as_str() => Self::Address;
    OnStoreFailure: "local" => Self::Local, "allow" => Self::Allow, "deny" => Self::Deny;
    TokenFormat: "jwt" => Self::Jwt, "opaque" => Self::Opaque;
    ClientMeans:
        "certificate" => Self::Certificate, "basic" => Self::Basic,
        "private-key-jwt" => Self::PrivateKeyJwt;
    TokenType:
        "at+jwt" => Self::AccessToken, "jwt" => Self::Jwt, "untyped" => Self::Untyped;
    CertificateBinding:
        CertificateBinding::Required.as_str() => Self::Required,
        CertificateBinding::IfPresent.as_str() => Self::IfPresent,
        CertificateBinding::Off.as_str() => Self::Off;
    Algorithm:
        "ES256" => Self::Es256, "ES384" => Self::Es384, "EdDSA" => Self::EdDsa,
        "RS256" => Self::Rs256, "RS384" => Self::Rs384, "RS512" => Self::Rs512,
        "PS256" => Self::Ps256, "PS384" => Self::Ps384, "PS512" => Self::Ps512;
}
