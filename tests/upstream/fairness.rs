//! If only one caller makes a service fail, the service is ejected for that caller only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_testkit::{Client, TestCa, read_head};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::http;
use crate::support::{Front, HOST, request};

/// A service that closes the connection for paths below `/break`, sends no response for paths
/// below `/hang`, and responds to all other requests.
struct Brittle {
    address: SocketAddr,
    asked: Arc<Asked>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Asked {
    failed: AtomicUsize,
    answered: AtomicUsize,
}

impl Brittle {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Asked>::default();
        let counts = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, Arc::clone(&counts)));
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    async fn serve(mut stream: TcpStream, counts: Arc<Asked>) -> std::io::Result<()> {
        let head = read_head(&mut stream).await?;
        let path = head.split(|octet| *octet == b' ').nth(1).unwrap();
        if path.starts_with(b"/break") {
            counts.failed.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        if path.starts_with(b"/hang") {
            counts.failed.fetch_add(1, Ordering::SeqCst);
            stream.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
        counts.answered.fetch_add(1, Ordering::SeqCst);
        // `Connection: close` makes the gateway open a new connection for each request.
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        stream.write_all(answer).await
    }

    fn failed(&self) -> usize {
        self.asked.failed.load(Ordering::SeqCst)
    }

    fn answered(&self) -> usize {
        self.asked.answered.load(Ordering::SeqCst)
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a gateway with these services. All requests are POST, which is not sent again.
async fn world(ca: &TestCa, services: &[&Brittle]) -> Front {
    let endpoints: Vec<_> = services.iter().map(|one| http(one.address)).collect();
    Front::open(ca, &endpoints, "first_byte_timeout = \"200ms\"\n").await
}

fn client(world: &Front, ca: &TestCa, name: &str) -> Client {
    let caller = ca.client(&format!("/ns/shop/sa/{name}"));
    world.gateway.client(HOST).with(&caller)
}

#[tokio::test]
async fn one_caller_cannot_eject_an_endpoint_for_others() {
    let ca = TestCa::new("example.org");
    for path in ["/break", "/hang"] {
        let services = [Brittle::start().await, Brittle::start().await];
        let world = world(&ca, &[&services[0], &services[1]]).await;
        let mut spoiler = client(&world, &ca, "spoiler").session().await.unwrap();
        let mut other = client(&world, &ca, "other").session().await.unwrap();
        // The requests alternate between the services, so that each service gets three.
        for _ in 0..6 {
            let answer = spoiler.send(request("POST", path, "")).await.unwrap();
            assert!(matches!(answer.status, 502 | 504), "{answer:?}");
        }
        assert_eq!([services[0].failed(), services[1].failed()], [3, 3]);
        for _ in 0..2 {
            let answer = other.send(request("POST", "/a", "")).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        assert_eq!([services[0].answered(), services[1].answered()], [1, 1]);
        for _ in 0..3 {
            // At least one of the services gets three more requests from the spoiler.
            for _ in 0..6 {
                let _ = spoiler.send(request("POST", path, "")).await.unwrap();
            }
            let before = [services[0].answered(), services[1].answered()];
            for _ in 0..4 {
                let answer = other.send(request("POST", "/a", "")).await.unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
            }
            let now = [services[0].answered(), services[1].answered()];
            assert_eq!(now, before.map(|count| count + 2), "{path}");
        }
    }
}

/// If only one of two endpoints fails for a caller, the caller's requests go to the other
/// endpoint. The failing endpoint stays in use for other callers.
#[tokio::test]
async fn an_endpoint_that_fails_one_caller_is_ejected_for_that_caller() {
    let ca = TestCa::new("example.org");
    let (brittle, sound) = (Brittle::start().await, super::Named::start("sound").await);
    let endpoints = [http(brittle.address), http(sound.address)];
    let world = Front::open(&ca, &endpoints, "").await;
    let mut spoiler = client(&world, &ca, "spoiler").session().await.unwrap();
    let mut other = client(&world, &ca, "other").session().await.unwrap();
    let mut broken = 0;
    for _ in 0..40 {
        let answer = spoiler.send(request("POST", "/break", "")).await.unwrap();
        broken += usize::from(answer.status != 200);
    }
    // Three failures eject the endpoint. Each later trial of the endpoint is one more failure.
    assert!((3..10).contains(&broken), "{broken} of 40");
    assert_eq!(brittle.failed(), broken);
    for _ in 0..8 {
        let answer = other.send(request("POST", "/a", "")).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(brittle.answered(), 4, "half of what the other caller asked");
}

#[tokio::test]
async fn an_endpoint_that_fails_several_callers_is_ejected_for_all() {
    let ca = TestCa::new("example.org");
    let (brittle, sound) = (Brittle::start().await, super::Named::start("sound").await);
    let endpoints = [http(brittle.address), http(sound.address)];
    let world = Front::open(&ca, &endpoints, "").await;
    for number in 0..20 {
        let mut session = client(&world, &ca, &format!("caller-{number}"))
            .session()
            .await
            .unwrap();
        for _ in 0..2 {
            let _ = session.send(request("POST", "/break", "")).await.unwrap();
        }
    }
    // Without the ejection, each of the 20 callers would reach this endpoint once.
    assert!((3..10).contains(&brittle.failed()), "{}", brittle.failed());
}
