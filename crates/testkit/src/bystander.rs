//! A caller that minds its own business while others attack: one response that goes on,
//! and new requests beside it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::protocol::Protocol;
use crate::until;

/// The longest that a bystander waits for anything before that is harm.
const STALLED: Duration = Duration::from_secs(10);

/// How a service of the kind of [`Paced`](crate::Paced) is asked.
#[derive(Debug, Clone)]
pub struct Target {
    /// The host that requests are for.
    pub host: String,
    /// What its paths begin with.
    pub prefix: String,
    /// Requests are gRPC calls.
    pub grpc: bool,
    /// The bearer token that its requests carry.
    pub token: Option<String>,
}

impl Target {
    /// A service over plain HTTP.
    #[must_use]
    pub fn http(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            prefix: String::new(),
            grpc: false,
            token: None,
        }
    }

    /// The methods of a gRPC service, called with empty messages.
    #[must_use]
    pub fn grpc(host: &str, service: &str) -> Self {
        Self {
            prefix: format!("/{service}"),
            grpc: true,
            ..Self::http(host)
        }
    }

    /// The value of `Authorization`, if requests carry a token.
    pub(crate) fn authorization(&self) -> Option<String> {
        let token = self.token.as_ref()?;
        Some(format!("Bearer {token}"))
    }

    /// A path of the service.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// A request for a path of the service.
    ///
    /// # Panics
    /// When the name cannot stand in a path.
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

/// What became of a bystander so far.
#[derive(Debug, Clone, Default)]
pub struct Experience {
    /// Pieces of the response that goes on.
    pub pieces: usize,
    /// How long each request took that was served.
    pub latencies: Vec<Duration>,
    /// What went wrong.
    pub harm: Vec<String>,
}

/// The caller; dropping it ends it.
#[derive(Debug)]
pub struct Bystander {
    experience: Arc<Mutex<Experience>>,
    tasks: [JoinHandle<()>; 2],
}

impl Bystander {
    /// Opens the response that goes on, waits for its first piece, and then sends a
    /// request after each pause.
    ///
    /// # Panics
    /// When the response does not begin.
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

    /// What became of it so far.
    ///
    /// # Panics
    /// When one of its tasks has panicked.
    #[must_use]
    pub fn experience(&self) -> Experience {
        self.experience.lock().expect("a lock").clone()
    }

    /// Waits until it was harmed, or has received and sent more.
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

/// Reads the response that goes on.
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

/// Sends requests, one after the other.
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
