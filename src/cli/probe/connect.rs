//! Connects once as a caller would, and records the server's behaviour.
//!
//! The server's certificate is verified. The probe continues even if the verification fails, so
//! that one run shows all errors.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Serialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Name};

use super::question::{Question, bare};
use crate::cli::common::recording_verifier::{self, Recorder};
use crate::clock;
use crate::crypto;
use crate::identity::LeafFacts;
use crate::identity::leaf::rfc4514;
use crate::identity::text::printable;
use crate::reason::ReasonCode;
use crate::tls::complete_key;

/// Maximum time for each step.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the probe waits for a TLS 1.3 server to refuse the client certificate, before it sends
/// a request.
const REFUSAL: Duration = Duration::from_millis(300);

/// The reason why a probe has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// The arguments cannot be used.
    #[error("{0}")]
    Usage(String),
    /// No connection could be opened.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The server sent no data within the timeout.
    #[error("{0}: nothing came within 15 seconds")]
    Silent(&'static str),
}

/// The results of a probe.
#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    /// Whether the gateway accepted the request.
    pub(super) ok: bool,
    pub(super) address: String,
    pub(super) server: Server,
    pub(super) tls_version: Option<String>,
    pub(super) alpn: Option<String>,
    pub(super) certificate_requested: bool,
    pub(super) acceptable_issuers: Vec<String>,
    /// Whether an issuer that the server accepts has issued the caller's certificate. `None` if the
    /// server names no issuers.
    pub(super) issued_by_acceptable: Option<bool>,
    /// Problems of the caller's own certificate that the probe can detect.
    pub(super) notes: Vec<String>,
    pub(super) alert: Option<Alert>,
    pub(super) answer: Option<Answer>,
    /// The possible reasons of the refusal.
    pub(super) candidates: Vec<Candidate>,
}

/// The server's certificate chain, and whether the chain is trusted.
#[derive(Debug, Default, Serialize)]
pub(super) struct Server {
    pub(super) chain: Vec<Certificate>,
    /// Whether the chain is valid. `None` if there are no roots to verify it with.
    pub(super) verified: Option<bool>,
    pub(super) error: Option<String>,
}

/// The properties of a certificate that the output shows.
#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) names: String,
    pub(super) not_after: String,
}

/// A TLS alert.
#[derive(Debug, Serialize)]
pub(super) struct Alert {
    pub(super) number: u8,
    pub(super) name: String,
}

/// An HTTP response.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) reason: Option<String>,
    pub(super) request_id: Option<String>,
}

/// A possible reason of a refusal, with an explanation.
#[derive(Debug, Serialize)]
pub(super) struct Candidate {
    pub(super) code: ReasonCode,
    pub(super) title: &'static str,
    pub(super) hint: &'static str,
}

impl From<ReasonCode> for Candidate {
    fn from(code: ReasonCode) -> Self {
        Self {
            code,
            title: code.title(),
            hint: code.hint(),
        }
    }
}

/// Reads the caller's chain and key. Accepts expired certificates, because the probe reports them.
pub(super) fn credentials(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, ProbeError> {
    let key = complete_key(key, chain.first());
    let key = crypto::provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| ProbeError::Usage(format!("the private key cannot be used: {error}")))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(ProbeError::Usage(
                "the private key does not belong to the first certificate".to_owned(),
            ))
        }
        _ => Ok(certified),
    }
}

/// Connects, performs the handshake and sends the request. Without `credentials`, the probe
/// presents no certificate.
pub(super) async fn probe(
    question: &Question,
    credentials: Option<CertifiedKey>,
    roots: Option<Vec<CertificateDer<'static>>>,
) -> Result<Findings, ProbeError> {
    let url = &question.url;
    let usage = |what: &str| ProbeError::Usage(format!("{url}: {what}"));
    let host = match (url.scheme_str(), url.host()) {
        (Some("https"), Some(host)) => bare(host),
        _ => return Err(usage("write the whole URL, https://HOST/PATH")),
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| usage("the host is malformed"))?;
    let mut findings = Findings::default();
    let chain = credentials
        .as_ref()
        .map(|credentials| credentials.cert.clone());
    let chain = chain.unwrap_or_default();
    if credentials.is_some() {
        look_at_own(&chain, &mut findings);
    }
    let seen = Arc::new(Recorder::default());
    let config = config(&seen, credentials, roots)?;

    let unreachable = |error: io::Error| ProbeError::Unreachable(format!("{url}: {error}"));
    let connecting = async {
        match question.address {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((host, url.port_u16().unwrap_or(443))).await,
        }
    };
    let stream = in_time("the connection", connecting)
        .await?
        .map_err(unreachable)?;
    findings.address = stream.peer_addr().map_err(unreachable)?.to_string();
    let begun = Instant::now();
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let shaken = in_time("the TLS handshake", shaking).await?;
    let outcome = match shaken {
        Ok(stream) => {
            note_protocol(&stream, &mut findings);
            let timeout = REFUSAL + 2 * begun.elapsed();
            converse(stream, question, timeout).await
        }
        Err(error) => Err(Box::<dyn Error + Send + Sync>::from(error)),
    };
    tell(&seen, &chain, &mut findings);
    match outcome {
        Ok(response) => note_answer(&response, &mut findings),
        Err(error) => match alert_of(&*error) {
            Some(alert) => note_alert(alert, &mut findings),
            None => findings.notes.push(format!(
                "the server ended the connection without saying why: {}",
                printable(&error.to_string())
            )),
        },
    }
    findings.ok &= findings.server.verified != Some(false);
    Ok(findings)
}

async fn in_time<T>(what: &'static str, work: impl Future<Output = T>) -> Result<T, ProbeError> {
    tokio::time::timeout(PROBE_TIMEOUT, work)
        .await
        .map_err(|_| ProbeError::Silent(what))
}

fn look_at_own(chain: &[CertificateDer<'_>], findings: &mut Findings) {
    let Some(leaf) = chain.first().and_then(|der| LeafFacts::read(der).ok()) else {
        findings
            .notes
            .push("your certificate cannot be read".to_owned());
        return;
    };
    let now = clock::certificate_now();
    let mut note = |text: String| findings.notes.push(text);
    if clock::certificate_is_over(leaf.not_after, now) {
        note(format!(
            "your certificate expired at {}",
            clock::rfc3339(leaf.not_after)
        ));
    }
    if now < leaf.not_before {
        note(format!(
            "your certificate is valid only from {}",
            clock::rfc3339(leaf.not_before)
        ));
    }
    if leaf.extended_key_usage.is_some_and(|usage| !usage.client) {
        note("your certificate is not meant for clients (extended key usage)".to_owned());
    }
    let sans = &leaf.sans;
    let names = sans.uri.len() + sans.dns.len() + sans.email.len() + sans.ip.len() + sans.upn.len();
    if names == 0 {
        let other = match sans.other {
            0 => "no subject alternative name",
            _ => "subject alternative names of other types only",
        };
        note(format!(
            "your certificate has {other}, so that it names no caller: it needs a SPIFFE ID, DNS \
             name, mail address, IP address, user principal name or other URI there. Its subject ({}) does not count",
            printable(&leaf.subject)
        ));
    }
    if sans.uri.len() > 1 {
        note(format!(
            "your certificate has {} URI names; a caller has one",
            sans.uri.len()
        ));
    }
    if leaf.claims_authority() {
        note(
            "your certificate may sign certificates or revocation lists (CA, keyCertSign or \
             cRLSign), which no caller's may"
                .to_owned(),
        );
    }
}

fn config(
    seen: &Arc<Recorder>,
    credentials: Option<CertifiedKey>,
    roots: Option<Vec<CertificateDer<'static>>>,
) -> Result<ClientConfig, ProbeError> {
    let provider = crypto::provider();
    let usage = |error: &dyn std::fmt::Display| ProbeError::Usage(format!("--cacert: {error}"));
    let judge = match roots {
        None => None,
        Some(roots) => {
            let mut store = RootCertStore::empty();
            for root in roots {
                store.add(root).map_err(|error| usage(&error))?;
            }
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
            Some(verifier.build().map_err(|error| usage(&error))?)
        }
    };
    let mut config =
        recording_verifier::config(seen, credentials, judge).map_err(|error| usage(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn tell(seen: &Recorder, own: &[CertificateDer<'_>], findings: &mut Findings) {
    let recorded = seen.recorded();
    findings.server.chain = recorded.chain.iter().map(certificate).collect();
    findings.server.verified = recorded.verdict.as_ref().map(Result::is_ok);
    findings.server.error = recorded.verdict.clone().and_then(Result::err);
    let Some(issuers) = &recorded.issuers else {
        return;
    };
    findings.certificate_requested = true;
    findings.acceptable_issuers = issuers.iter().map(|der| distinguished(der)).collect();
    findings.issued_by_acceptable = (!issuers.is_empty() && !own.is_empty()).then(|| {
        let facts = own.iter().filter_map(|der| LeafFacts::read(der).ok());
        facts
            .into_iter()
            .any(|one| issuers.contains(&one.issuer_der))
    });
}

fn certificate(der: &CertificateDer<'static>) -> Certificate {
    match LeafFacts::read(der) {
        Ok(facts) => Certificate {
            subject: printable(&facts.subject),
            issuer: printable(&facts.issuer),
            names: facts.sans.summary(),
            not_after: clock::rfc3339(facts.not_after),
        },
        Err(error) => Certificate {
            subject: format!("cannot be read: {error}"),
            issuer: String::new(),
            names: String::new(),
            not_after: String::new(),
        },
    }
}

fn distinguished(der: &[u8]) -> String {
    match X509Name::from_der(der) {
        Ok((_, name)) => printable(&rfc4514(&name)),
        Err(_) => "a name that cannot be read".to_owned(),
    }
}

fn note_protocol(stream: &TlsStream<TcpStream>, findings: &mut Findings) {
    let session = stream.get_ref().1;
    findings.tls_version = session.protocol_version().map(|version| {
        let text = format!("{version:?}");
        text.replace("TLSv1_", "TLS 1.")
    });
    findings.alpn = session
        .alpn_protocol()
        .map(|protocol| printable(&String::from_utf8_lossy(protocol)));
}

async fn converse(
    mut stream: TlsStream<TcpStream>,
    question: &Question,
    timeout: Duration,
) -> Result<Response<Incoming>, Box<dyn Error + Send + Sync>> {
    // In TLS 1.3, the client completes the handshake before the server has checked the client
    // certificate. A refusal arrives at the first read. If the request were sent first, the alert
    // could be lost.
    let mut early = [0_u8; 1];
    match tokio::time::timeout(timeout, stream.read(&mut early)).await {
        Err(_) => {}
        Ok(Ok(0)) => return Err("it was closed at once".into()),
        Ok(Ok(_)) => return Err("the server spoke first; it is no HTTP server".into()),
        Ok(Err(error)) => return Err(error.into()),
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let target = question.url.path_and_query();
    let mut request = Request::builder()
        .method(&question.method)
        .uri(target.map_or("/", |target| target.as_str()))
        .body(Full::<Bytes>::new(question.body.clone()))?;
    *request.headers_mut() = question.fields.clone();
    match tokio::time::timeout(PROBE_TIMEOUT, sender.send_request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => match connection.await {
            // The error of the connection has more details than the error of the request.
            Ok(Err(cause)) => Err(cause.into()),
            _ => Err(error.into()),
        },
        Err(_) => Err("no answer came within 15 seconds".into()),
    }
}

/// Finds a TLS alert among the causes of an error.
fn alert_of(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
    let mut current = Some(error);
    while let Some(error) = current {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) =
            inner.or_else(|| error.downcast_ref::<rustls::Error>())
        {
            return Some(*alert);
        }
        current = error.source();
    }
    None
}

fn note_alert(alert: AlertDescription, findings: &mut Findings) {
    let number = u8::from(alert);
    let candidates = ReasonCode::behind_alert(number);
    let known = candidates.iter().find_map(|code| code.alert());
    let name = match known.filter(|alert| alert.number() == number) {
        Some(known) => known.name().to_owned(),
        None => format!("{alert:?}"),
    };
    if candidates.is_empty() {
        findings.notes.push(
            "no reason of Countersign has this alert: the TLS settings of both sides do not fit"
                .to_owned(),
        );
    }
    findings.candidates = candidates.into_iter().map(Candidate::from).collect();
    findings.alert = Some(Alert { number, name });
}

fn note_answer(response: &Response<Incoming>, findings: &mut Findings) {
    let field = |name: &str| {
        let value = response.headers().get(name)?;
        Some(printable(&String::from_utf8_lossy(value.as_bytes())))
    };
    let reason = field("countersign-reason");
    let known = reason.as_deref().and_then(ReasonCode::parse);
    findings.candidates = known.map(Candidate::from).into_iter().collect();
    findings.ok = reason.is_none();
    findings.answer = Some(Answer {
        status: response.status().as_u16(),
        reason,
        request_id: field("x-request-id"),
    });
}
