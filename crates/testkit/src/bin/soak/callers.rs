//! Well-behaved callers that check every response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_testkit::service::PieceBody;
use countersign_testkit::{Client, Credentials, Leaf, Protocol, TestCa, in_time};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use tokio::task::JoinSet;

use crate::World;
use crate::service::content;

pub(crate) const HOST: &str = "orders.example.org";
/// The names of the services that are never disturbed: HTTP/1.1 and h2, each with and without
/// TLS.
pub(crate) const STEADY: [&str; 4] = ["steady", "steady-h2", "steady-tls", "steady-tls-h2"];
/// The names of the services that are killed and restarted.
pub(crate) const MORTAL: [&str; 2] = ["mortal", "mortal-tls-h2"];
/// The name of the service that sometimes sends wrong responses.
pub(crate) const MISLEADING: &str = "misleading";
/// The body lengths in bytes. Requests use them in turn.
const SIZES: [usize; 8] = [0, 40, 700, 16_000, 0, 70_000, 12, 300_000];
/// The maximum time until a response over HTTP/1.1 is complete, even while services are killed.
const SLOWEST: Duration = Duration::from_secs(10);
/// The pause between two requests of one caller.
pub(crate) const BREATH: Duration = Duration::from_millis(4);

/// The clients of all callers.
#[derive(Debug)]
pub(crate) struct Callers {
    address: SocketAddr,
    known: Vec<(String, Credentials)>,
    /// A caller with a valid certificate that no route allows.
    pub(crate) stranger: Client,
    /// A caller whose certificate has the name of a valid caller, but comes from another
    /// authority.
    pub(crate) foreigner: Client,
    /// A caller without a certificate.
    pub(crate) nobody: Client,
}

impl Callers {
    pub(crate) fn new(ca: &TestCa, address: SocketAddr) -> Self {
        let known = (0..8).map(|number| {
            let path = format!("/ns/soak/sa/caller-{number}");
            (ca.spiffe(&path), ca.client(&path))
        });
        let client = || Client::new(address, HOST);
        let forged = Leaf::with_uri(&ca.spiffe("/ns/soak/sa/caller-0"));
        Self {
            address,
            known: known.collect(),
            stranger: client().with(&ca.client("/ns/other/sa/stranger")),
            foreigner: client().with(&TestCa::new("elsewhere.example").issue(forged)),
            nobody: client(),
        }
    }

    /// Returns the name and the client of a valid caller. Consecutive numbers select the callers
    /// in turn.
    pub(crate) fn some(&self, number: usize) -> (String, Client) {
        let (name, credentials) = &self.known[number % self.known.len()];
        let client = Client::new(self.address, HOST).with(credentials);
        (name.clone(), client)
    }
}

/// A request with a unique identifier, and the response that it must get.
pub(crate) struct Ask {
    pub(crate) path: String,
    pub(crate) request: Request<Bytes>,
    expected: Vec<u8>,
    id: String,
}

/// Returns the name of a steady service. `SIZES.len()` consecutive numbers select the same service,
/// so that each service gets bodies of all lengths.
pub(crate) const fn steady(number: usize) -> &'static str {
    STEADY[number / SIZES.len() % STEADY.len()]
}

/// Makes a request. `number` selects the body length. Every third request has a body of this
/// length. The other requests ask the service for a response body of this length.
pub(crate) fn ask(world: &World, service: &str, caller: &str, number: usize) -> Ask {
    let id = world.ledger.id();
    let size = SIZES[number % SIZES.len()];
    let path = format!("/{service}/{id}");
    let request = Request::builder()
        .uri(format!("https://{HOST}{path}"))
        .header("x-caller", caller)
        .header("countersign-assertion", "forged");
    let expected = content(&id, size);
    let request = if number.is_multiple_of(3) {
        request
            .method(Method::POST)
            .body(Bytes::from(expected.clone()))
    } else {
        request.header("x-size", size).body(Bytes::new())
    };
    Ask {
        path,
        request: request.expect("a request"),
        expected,
        id,
    }
}

impl Ask {
    /// Returns a description of the error, if a response to this request is wrong.
    pub(crate) fn complaint(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<String> {
        let header = |name| {
            headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
        };
        if let Some(complaint) = header("x-complaint") {
            return Some(format!("{}: {complaint}", self.path));
        }
        if status != StatusCode::OK {
            let reason = header("countersign-reason").unwrap_or_default();
            return Some(format!("{}: {status} {reason}", self.path));
        }
        let id = header("x-id").unwrap_or_default();
        if id != self.id {
            return Some(format!("{}: the answer belongs to {id}", self.path));
        }
        if body != self.expected {
            return Some(format!(
                "{}: another body, {} octets of {}",
                self.path,
                body.len(),
                self.expected.len()
            ));
        }
        None
    }

    /// Returns whether this error response may be caused by a service that was killed or that
    /// sends wrong responses. Such an error response is no fault of the gateway.
    fn excused(status: StatusCode, headers: &HeaderMap) -> bool {
        let reason = headers
            .get("countersign-reason")
            .and_then(|value| value.to_str().ok());
        status.is_server_error()
            && reason
                .is_some_and(|reason| reason.starts_with("upstream-") || reason == "overloaded")
    }
}

pub(crate) fn start(world: &Arc<World>, workers: &mut JoinSet<()>) {
    for number in 0..5 {
        workers.spawn(http1(Arc::clone(world), &STEADY, number * SIZES.len()));
    }
    for number in 0..3 {
        workers.spawn(http1(Arc::clone(world), &MORTAL, number));
    }
    for number in 0..2 {
        workers.spawn(http1(Arc::clone(world), &[MISLEADING], number));
    }
    for number in 0..2 {
        workers.spawn(http2(Arc::clone(world), number));
    }
    for number in 0..3 {
        workers.spawn(tunnels(Arc::clone(world), number));
    }
}

/// Sends requests over HTTP/1.1 to each of `services` in turn. Up to 50 requests use the same
/// connection.
async fn http1(world: Arc<World>, services: &'static [&'static str], mut number: usize) {
    let ledger = &world.ledger;
    while !ledger.over() {
        let (caller, client) = world.callers.some(number);
        let Ok(mut session) = client.session().await else {
            ledger.fault(format!("{caller} cannot connect"));
            continue;
        };
        for _ in 0..50 {
            if ledger.over() {
                break;
            }
            number += 1;
            let service = services[number / SIZES.len() % services.len()];
            let may_fail = !STEADY.contains(&service);
            let ask = match service {
                // The misleading service does not read request bodies. [`ask`] adds a body only if
                // the number is a multiple of 3, which `number * 3 + 1` never is.
                MISLEADING => ask(&world, service, &caller, number * 3 + 1),
                _ => ask(&world, service, &caller, number),
            };
            let sent = session.send(ask.request.clone());
            let Ok(sent) = tokio::time::timeout(SLOWEST, sent).await else {
                ledger.fault(format!("h1 {}: no answer within {SLOWEST:?}", ask.path));
                break;
            };
            match sent {
                Ok(answer) => {
                    let status = StatusCode::from_u16(answer.status).unwrap_or_default();
                    match ask.complaint(status, &answer.headers, &answer.body) {
                        None => {
                            ledger.count("h1");
                            ledger.count(service);
                            ledger.answered(&ask.path);
                        }
                        Some(_) if may_fail && Ask::excused(status, &answer.headers) => {
                            ledger.count("excused");
                        }
                        Some(complaint) => ledger.fault(format!("h1 {complaint}")),
                    }
                }
                Err(_) if may_fail => ledger.count("cut-short"),
                Err(error) => ledger.fault(format!("h1 {}: {error}", ask.path)),
            }
            if session.is_closed() {
                break;
            }
            tokio::time::sleep(BREATH).await;
        }
    }
}

/// Sends requests over h2, on six concurrent streams of one connection.
async fn http2(world: Arc<World>, mut number: usize) {
    let ledger = &world.ledger;
    while !ledger.over() {
        number += 1;
        let (caller, client) = world.callers.some(number);
        let connected = async {
            let connection = client.protocol(Protocol::Http2).connect().await.ok()?;
            connection.streams().await.ok()
        };
        let Some(sender) = connected.await else {
            ledger.fault(format!("{caller} cannot connect over h2"));
            continue;
        };
        let mut streams = JoinSet::new();
        for stream in 0..6 {
            streams.spawn(stream_requests(
                Arc::clone(&world),
                sender.clone(),
                caller.clone(),
                number + stream * SIZES.len(),
            ));
        }
        while let Some(ended) = streams.join_next().await {
            if let Err(error) = ended {
                ledger.fault(format!("an h2 stream broke off: {error}"));
            }
        }
    }
}

async fn stream_requests(
    world: Arc<World>,
    mut sender: SendRequest<PieceBody>,
    caller: String,
    mut number: usize,
) {
    for _ in 0..40 {
        if world.ledger.over() {
            return;
        }
        number += 1;
        let service = steady(number);
        let ask = ask(&world, service, &caller, number);
        let request = ask
            .request
            .clone()
            .map(|body| Full::new(body).map_err(|never| match never {}).boxed());
        let exchange = async {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        };
        match in_time("an answer over h2", exchange).await {
            Ok((head, body)) => match ask.complaint(head.status, &head.headers, &body) {
                None => {
                    world.ledger.count("h2");
                    world.ledger.count(service);
                    world.ledger.answered(&ask.path);
                }
                Some(complaint) => world.ledger.fault(format!("h2 {complaint}")),
            },
            Err(error) => world.ledger.fault(format!("h2 {}: {error:?}", ask.path)),
        }
        tokio::time::sleep(BREATH).await;
    }
}

/// Makes the head of a request that opens a tunnel.
pub(crate) fn tunnel_head(path: &str, caller: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: soak\r\nX-Caller: {caller}\r\n\r\n"
    )
}

/// Opens tunnels, and checks that each message comes back in capitals. Each tunnel ends without
/// a closing handshake, because the client drops the connection.
async fn tunnels(world: Arc<World>, mut number: usize) {
    let ledger = &world.ledger;
    while !ledger.over() {
        number += 1;
        let (caller, client) = world.callers.some(number);
        // The even indexes of `STEADY` are the services with HTTP/1.1, which accept tunnels.
        let path = format!("/{}/{}", STEADY[number % 2 * 2], ledger.id());
        let Ok(mut connection) = client.connect().await else {
            ledger.fault(format!("{caller} cannot connect for a tunnel"));
            continue;
        };
        let _ = connection
            .write(tunnel_head(&path, &caller).as_bytes())
            .await;
        let answer = connection
            .read_until(|octets| octets.ends_with(b"\r\n\r\n"))
            .await;
        if answer.statuses() != [101] {
            ledger.fault(format!("tunnel {path}: {}", answer.text()));
            continue;
        }
        for message in 0..20 {
            let text = format!("{path} message {message}\n");
            let sent = connection.write(text.as_bytes()).await;
            let answer = connection
                .read_until(|octets| octets.len() >= text.len())
                .await;
            if sent.is_err() || answer.text() != text.to_ascii_uppercase() {
                ledger.fault(format!(
                    "tunnel {path}: {} instead of {text}",
                    answer.text()
                ));
                break;
            }
            ledger.count("tunnel-messages");
            tokio::time::sleep(BREATH).await;
        }
        ledger.count("tunnels");
        ledger.answered(&path);
    }
}
