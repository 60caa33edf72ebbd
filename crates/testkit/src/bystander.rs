//! A well-behaved caller that checks whether attackers harm it. It reads one endless
//! response, and sends new requests at the same time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::protocol::Protocol;
use crate::until;

/// The maximum time that a bystander waits for a response, or for the next piece of the endless
/// response. A longer wait counts as harm.
const STALLED: Duration = Duration::from_secs(10);

/// A service such as [`Paced`](crate::Paced), and how to send requests to it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The host name in the requests.
    pub host: String,
    /// The text before the `/` of all paths. For gRPC: `/` and the name of the gRPC service.
    pub prefix: String,
    /// Whether the requests are gRPC calls with an empty message. Otherwise they are `GET`
    /// requests.
    pub grpc: bool,
    /// The bearer token in the requests.
    pub token: Option<String>,
}

impl Target {
    /// Describes a service that is called with plain HTTP requests.
    #[must_use]
    pub fn http(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            prefix: String::new(),
            grpc: false,
            token: None,
        }
    }

    /// Describes a gRPC service with the name `service`. Requests call its methods with empty
    /// messages.
    #[must_use]
    pub fn grpc(host: &str, service: &str) -> Self {
        Self {
            prefix: format!("/{service}"),
            grpc: true,
            ..Self::http(host)
        }
    }

    /// Returns the value of `Authorization`, if requests carry a token.
    pub(crate) fn authorization(&self) -> Option<String> {
        let token = self.token.as_ref()?;
        Some(format!("Bearer {token}"))
    }

    /// Returns the path for `name`, such as `hello`, with the prefix of this target.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Makes a request for the path of `name`, such as `hello`.
    ///
    /// # Panics
    /// If `name` contains characters that a path cannot contain.
    #[must_use]
    pub fn request(&self, name: &str) -> Request<Bytes> {
        let path = self.path(name);
        let (mut request, body) = if self.grpc {
            let request = Request::post(path)
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            (request, Bytes::from_static(&[0; 5]))
        } else {
            (Request::get(path), Bytes::new())
        };
        if let Some(value) = self.authorization() {
            request = request.header("authorization", value);
        }
        request.body(body).expect("a request")
    }
}

/// The successes and failures of a bystander since it started.
#[derive(Debug, Clone, Default)]
pub struct Experience {
    /// The number of received pieces of the endless response.
    pub pieces: usize,
    /// The latency of each successful request.
    pub latencies: Vec<Duration>,
    /// A description of each failure: a request without a successful response, or the end of the
    /// endless response.
    pub harm: Vec<String>,
}

/// A well-behaved caller. Dropping this value stops the caller's tasks.
#[derive(Debug)]
pub struct Bystander {
    experience: Arc<Mutex<Experience>>,
    tasks: [JoinHandle<()>; 2],
}

impl Bystander {
    /// Starts to read the endless response, and to send requests with `pause` between two of
    /// them. Returns when the first piece of the endless response and the response to a request
    /// have arrived.
    ///
    /// # Panics
    /// If the bystander is harmed before this function returns, or if nothing arrives before the
    /// deadline.
    pub async fn start(client: &Client, target: &Target, pause: Duration) -> Self {
        let client = client.clone().protocol(Protocol::Http2);
        let experience = Arc::new(Mutex::new(Experience::default()));
        let tasks = [
            tokio::spawn(follow(
                client.clone(),
                target.clone(),
                Arc::clone(&experience),
            )),
            tokio::spawn(ask(client, target.clone(), pause, Arc::clone(&experience))),
        ];
        let started = Self { experience, tasks };
        until("a response that goes on, and a request", async || {
            let seen = started.experience();
            assert!(seen.harm.is_empty(), "{seen:?}");
            seen.pieces > 0 && !seen.latencies.is_empty()
        })
        .await;
        started
    }

    /// Returns the successes and failures of the bystander since it started.
    ///
    /// # Panics
    /// If one of the bystander's tasks has panicked.
    #[must_use]
    pub fn experience(&self) -> Experience {
        self.experience.lock().expect("a lock").clone()
    }

    /// Waits until five further pieces and three further responses have arrived, or until the
    /// bystander was harmed.
    pub async fn goes_on(&self) {
        let before = self.experience();
        until("more of a bystander's traffic, or its end", async || {
            let now = self.experience();
            let more = now.pieces >= before.pieces + 5
                && now.latencies.len() >= before.latencies.len() + 3;
            more || !now.harm.is_empty()
        })
        .await;
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn note(experience: &Mutex<Experience>, change: impl FnOnce(&mut Experience)) {
    change(&mut experience.lock().expect("a lock"));
}

/// Reads the endless response. Any end of the response counts as harm.
async fn follow(client: Client, target: Target, experience: Arc<Mutex<Experience>>) {
    let ended = async {
        let mut session = client.session().await.map_err(|error| error.to_string())?;
        let request = target.request("stream");
        let started = session.start(request).await;
        let response = started.map_err(|error| error.to_string())?;
        if response.status() != 200 {
            return Err(response.status().to_string());
        }
        let mut body = response.into_body();
        loop {
            match tokio::time::timeout(STALLED, body.frame()).await {
                Err(_) => return Err("stalled".to_owned()),
                Ok(None) => return Err("ended".to_owned()),
                Ok(Some(Err(error))) => return Err(format!("{error:?}")),
                Ok(Some(Ok(_))) => note(&experience, |seen| seen.pieces += 1),
            }
        }
    };
    let ended: Result<(), String> = ended.await;
    if let Err(why) = ended {
        note(&experience, |seen| {
            seen.harm.push(format!("its stream: {why}"));
        });
    }
}

/// Sends requests, one after the other, with `pause` between two of them.
async fn ask(client: Client, target: Target, pause: Duration, experience: Arc<Mutex<Experience>>) {
    let mut session = None;
    loop {
        let begun = Instant::now();
        match asked(&client, &target, &mut session).await {
            Ok(()) => note(&experience, |seen| seen.latencies.push(begun.elapsed())),
            Err(why) => {
                session = None;
                note(&experience, |seen| {
                    seen.harm.push(format!("a request: {why}"));
                });
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn asked(
    client: &Client,
    target: &Target,
    session: &mut Option<crate::Session>,
) -> Result<(), String> {
    let current = match session {
        Some(session) => session,
        None => {
            let fresh = client.session().await.map_err(|error| error.to_string())?;
            session.insert(fresh)
        }
    };
    let answer = current.send(target.request("hello"));
    let answer = match tokio::time::timeout(STALLED, answer).await {
        Err(_) => return Err("no answer in time".to_owned()),
        Ok(answer) => answer.map_err(|error| error.to_string())?,
    };
    let grpc_status = answer.trailers.as_ref().and_then(|t| t.get("grpc-status"));
    let grpc_status = grpc_status.or_else(|| answer.headers.get("grpc-status"));
    let served = answer.status == 200 && (!target.grpc || grpc_status.is_some_and(|s| s == "0"));
    let reason = answer.reason();
    served
        .then_some(())
        .ok_or_else(|| format!("{} {reason:?} {grpc_status:?}", answer.status))
}
