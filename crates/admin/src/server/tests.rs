//! Tests both read-only listeners over real sockets, with and without TLS.

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::super::readiness::Readiness;
use super::*;
use crate::reason::ReasonCode;
use crate::snapshot::fixture::{ISSUER, snapshot};
use crate::telemetry::metrics::Metrics;
use crate::{Problem, ProblemCode};

struct Served {
    address: SocketAddr,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    _keys: tempfile::TempDir,
}

/// Starts a listener. `make` creates its router for the listener's port.
async fn served(tls: ListenerTls, make: impl FnOnce(Arc<ControlState>, u16) -> Router) -> Served {
    let keys = tempfile::tempdir().unwrap();
    let readiness = Arc::new(Readiness::new());
    let metrics = Arc::new(Metrics::new());
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(keys.path())));
    let state = Arc::new(ControlState::new(
        Arc::clone(&snapshot),
        Arc::clone(&readiness),
        Arc::clone(&metrics),
        Arc::default(),
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let serving = Serving {
        stopping,
        share: ControlShare::FULL,
        snapshot,
    };
    let task = tokio::spawn(serve(listener, make(state, address.port()), tls, serving));
    Served {
        address,
        readiness,
        metrics,
        stop,
        task,
        _keys: keys,
    }
}

async fn public(offered: Offered) -> Served {
    served(ListenerTls::Off, |state, _| router(state, offered)).await
}

async fn admin() -> Served {
    served(ListenerTls::Off, operators_router).await
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Reply {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("an answer in time");
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Reply {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

impl Served {
    async fn ask(&self, method: &str, path: &str, fields: &str) -> Reply {
        let host = format!("Host: {}\r\n", self.address);
        self.ask_as(method, path, &format!("{host}{fields}")).await
    }

    async fn ask_as(&self, method: &str, target: &str, fields: &str) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n");
        exchange(stream, &request).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "").await
    }
}

#[tokio::test]
async fn keys_and_metadata_have_tags_and_can_be_kept() {
    let served = public(Offered::ALL).await;
    let metadata = served.get("/.well-known/oauth-authorization-server").await;
    assert_eq!(metadata.json()["issuer"], ISSUER);
    assert_eq!(
        metadata.json()["jwks_uri"],
        format!("{ISSUER}/.well-known/jwks.json")
    );
    let same = served.get("/.well-known/openid-configuration").await;
    assert_eq!(same.body, metadata.body);
    let jwks = served.get("/.well-known/jwks.json").await;
    assert_eq!(jwks.status, 200);
    assert_eq!(jwks.field("content-type"), Some("application/json"));
    assert_eq!(jwks.field("cache-control"), Some("max-age=300"));
    assert_eq!(jwks.json()["keys"].as_array().unwrap().len(), 1);
    let etag = jwks.field("etag").unwrap();
    for (tags, status) in [
        (etag.to_owned(), 304),
        (format!("\"other\", W/{etag}"), 304),
        ("*".to_owned(), 304),
        ("\"other\"".to_owned(), 200),
        (etag.trim_matches('"').to_owned(), 200),
    ] {
        let fields = format!("If-None-Match: {tags}\r\n");
        let reply = served.ask("GET", "/.well-known/jwks.json", &fields).await;
        assert_eq!(reply.status, status, "{tags}");
        assert_eq!(reply.body.is_empty(), status == 304);
        assert_eq!(reply.field("etag"), Some(etag));
        assert_eq!(reply.field("cache-control"), Some("max-age=300"));
    }
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let served = public(Offered::ALL).await;
    let head = served.ask("HEAD", "/.well-known/jwks.json", "").await;
    assert_eq!((head.status, &*head.body), (200, ""));
    assert!(head.field("etag").is_some());
    for path in [
        "/.well-known/jwks.json",
        "/readyz",
        "/metrics",
        "/reasons/no-route",
    ] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let reply = served.ask(method, path, "Content-Length: 0\r\n").await;
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(reply.field("allow"), Some("GET,HEAD"));
        }
    }
    let origin = "Origin: https://evil.example\r\n";
    for path in ["/.well-known/jwks.json", "/readyz", "/nothing"] {
        let reply = served.ask("GET", path, origin).await;
        assert!(!reply.head.to_lowercase().contains("access-control"));
    }
}

#[tokio::test]
async fn what_is_not_offered_is_not_there() {
    let nothing = Offered {
        keys: false,
        health: false,
        metrics: false,
        details: false,
    };
    let served = public(nothing).await;
    for path in [
        "/.well-known/jwks.json",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/healthz",
        "/readyz",
        "/metrics",
        "/",
        "/reasons/",
        "/reasons/%3Cscript%3E",
        "/reasons/x/y",
    ] {
        let reply = served.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(!reply.body.contains("script"));
    }
    let page = served.get("/reasons").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("certificate-revoked"));
}

#[tokio::test]
async fn readiness_follows_the_process() {
    let served = public(Offered::ALL).await;
    let alive = served.get("/healthz").await;
    assert_eq!((alive.status, &*alive.body), (200, "ok"));
    assert_eq!(alive.field("cache-control"), Some("no-store"));
    let starting = served.get("/readyz").await;
    assert_eq!(starting.status, 503);
    assert_eq!(
        starting.json(),
        json!({"status": "starting", "generation": 7, "problems": []})
    );
    served.readiness.set_ready();
    served.readiness.raise(
        "",
        Problem::new(ProblemCode::ConfigurationRefused, "certs/trust.pem: empty"),
    );
    let ready = served.get("/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json()["status"], "ready");
    assert_eq!(
        ready.json()["problems"],
        json!([{
            "code": "configuration-refused", "severity": "error",
            "since": ready.json()["problems"][0]["since"], "detail": "certs/trust.pem: empty",
            "command": "countersign check"
        }])
    );
    served.readiness.set_draining();
    let draining = served.get("/readyz").await;
    assert_eq!(
        (draining.status, served.get("/healthz").await.status),
        (503, 200)
    );
    assert_eq!(draining.json()["status"], "draining");
}

#[tokio::test]
async fn metrics_and_pages_of_reasons_are_served() {
    let served = admin().await;
    served.metrics.handshake_refused(ReasonCode::UnknownIssuer);
    let metrics = served.get("/metrics").await;
    assert_eq!(
        metrics.field("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(metrics.body.contains("reason=\"unknown-issuer\"} 1"));
    for code in ReasonCode::ALL {
        let page = served.get(&format!("/reasons/{code}")).await;
        assert_eq!(page.status, 200);
        assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
        assert!(
            page.field("content-security-policy")
                .unwrap()
                .contains("default-src 'none'")
        );
        assert!(page.body.contains(code.as_str()));
    }
}

#[tokio::test]
async fn operators_are_asked_for_by_a_loopback_name_only() {
    let served = admin().await;
    let port = served.address.port();
    for host in ["localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "[::1]"] {
        let reply = served
            .ask_as("GET", "/readyz", &format!("Host: {host}:{port}\r\n"))
            .await;
        assert_eq!(reply.status, 503, "{host}");
        assert_eq!(reply.json()["status"], "starting");
    }
    let mut refused: Vec<String> = [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "0.0.0.0",
        "2130706433",
        "user@localhost",
        "localhost.",
        "",
    ]
    .iter()
    .map(|host| format!("Host: {host}:{port}\r\n"))
    .collect();
    refused.push("Host: localhost\r\n".to_owned());
    refused.push(format!("Host: localhost:{}\r\n", port ^ 1));
    refused.push(format!("Host: localhost:+{port}\r\n"));
    refused.push(format!("Host: ::1:{port}\r\n"));
    refused.push(format!(
        "Host: localhost:{port}\r\nHost: localhost:{port}\r\n"
    ));
    refused.push(String::new());
    for fields in refused {
        let reply = served.ask_as("GET", "/readyz", &fields).await;
        assert!(matches!(reply.status, 400 | 421), "{fields}: {reply:?}");
        assert!(!reply.body.contains("starting"), "{fields}");
    }
    let fields = format!("Host: localhost:{port}\r\n");
    let reply = served
        .ask_as(
            "GET",
            &format!("http://evil.example:{port}/readyz"),
            &fields,
        )
        .await;
    assert_eq!(reply.status, 421);
    // A request for a path that does not exist gets the same response. The response therefore does
    // not reveal which paths exist.
    let reply = served
        .ask_as("GET", "/nothing", "Host: evil.example\r\n")
        .await;
    assert_eq!(reply.status, 421);
}

#[tokio::test]
async fn the_public_listener_speaks_tls_without_asking_for_a_certificate() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let now = i64::try_from(crate::clock::unix_now()).unwrap();
    let credentials = Credentials::from_pem(
        made.cert.pem().as_bytes(),
        made.signing_key.serialize_pem().as_bytes(),
        now,
    )
    .unwrap();
    let tls = ListenerTls::On(server_only_config(&credentials).unwrap());
    let served = served(tls, |state, _| router(state, Offered::ALL)).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(served.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(client))
        .connect(name, stream)
        .await
        .unwrap();
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(stream, request).await.status, 200);
    // If a client speaks plain HTTP to the TLS port, only its connection ends. The server
    // continues.
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert!(!served.task.is_finished());
}

#[tokio::test]
async fn large_heads_and_rubbish_are_refused_and_do_no_harm() {
    let served = public(Offered::ALL).await;
    let large = format!("X-Large: {}\r\n", "x".repeat(64 * 1024));
    let stream = TcpStream::connect(served.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{large}\r\n");
    let _ = writing.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = reading.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    let reply = served.ask_as("\u{0}RUBBISH", "/", "").await;
    assert_eq!(reply.status, 400);
    assert_eq!(served.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_the_listener() {
    let served = public(Offered::ALL).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0_u8; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    served.stop.send(true).unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), idle.read_to_end(&mut rest))
        .await
        .expect("the idle connection ends")
        .unwrap();
    tokio::time::timeout(Duration::from_secs(5), served.task)
        .await
        .expect("the server ends")
        .unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}
