//! The private socket for operators, and the commands that use it.

use std::path::PathBuf;

use countersign_testkit::client::get;
use countersign_testkit::gateway::plain;
use countersign_testkit::{Gateway, Settings, TestCa, in_time, until};
use http_body_util::BodyExt as _;
use tokio::process::Command;

use crate::support::{BINARY, Run, World, mode};

/// Starts a gateway with a socket in the directory of its configuration.
async fn world() -> World {
    World::with(|settings, echo| {
        settings
            .set("admin", "socket", "\"admin.sock\"")
            .everything_to(echo)
    })
    .await
}

impl World {
    fn socket(&self) -> PathBuf {
        self.gateway.directory().join("admin.sock")
    }

    /// Runs a command with the configuration of this gateway.
    async fn command(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config");
        Run::of_async(command.arg(self.gateway.config_file())).await
    }

    fn change_config(&self, from: &str, to: &str) {
        let file = self.gateway.config_file();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
    }
}

async fn post(socket: PathBuf, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    answer
}

#[tokio::test]
async fn status_says_how_the_gateway_is_doing() {
    let world = world().await;
    assert_eq!(mode(&world.socket()), 0o600);
    let client = world.client();
    let mut session = client.session().await.unwrap();
    assert_eq!(session.get("/a").await.unwrap().status, 200);
    let run = world.command(&["--json", "status"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let said = run.json();
    assert_eq!(said["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(said["generation"], 1);
    assert_eq!(said["readiness"], "ready");
    assert_eq!(said["connections"], 1);
    assert_eq!(said["routes"], 1);
    assert_eq!(
        said["addresses"]["listener"],
        world.gateway.listener().to_string()
    );
    assert_eq!(said["trust_domains"][0]["name"], "example.org");
    assert_eq!(said["trust_domains"][0]["revocation"], "off");
    let roots = said["trust_domains"][0]["roots"].as_array().unwrap();
    assert!(roots[0].as_str().unwrap().contains("CN="), "{roots:?}");
    let run = world.command(&["status"]).await;
    let text = run.stdout;
    assert!(text.contains("trust domain example.org"), "{text}");
}

#[tokio::test]
async fn reload_answers_with_the_generation_or_with_what_is_wrong() {
    let world = world().await;
    let run = world.command(&["--json", "reload"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.json()["generation"].as_u64().unwrap() >= 2);

    world.change_config("workers = 2", "workers = 2\nwrokers = 3");
    let run = world.command(&["reload"]).await;
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("wrokers"), "{}", run.stderr);
    // The file is invalid, but the command can still read the path of the socket from it.
    let run = world.command(&["--json", "status"]).await;
    assert_eq!(run.code, 3, "{}", run.stderr);
    let said = run.json();
    assert_eq!(said["problems"][0]["code"], "configuration-refused");
    assert!(said["reloads"]["refused"].as_u64().unwrap() >= 1);

    world.change_config("\nwrokers = 3", "");
    world.change_config("workers = 2", "workers = 3");
    let run = world.command(&["reload"]).await;
    assert_eq!(run.code, 2);
    let said = run.stderr;
    assert!(said.contains("[runtime] workers"), "{said}");
    world.change_config("workers = 3", "workers = 2");
    world.change_config("\"admin.sock\"", "\"other.sock\"");
    let answer = post(world.socket(), "/reload").await;
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    assert!(answer.contains("[admin] socket"), "{answer}");
}

#[tokio::test]
async fn a_hundred_reloads_at_once_become_few() {
    let world = world().await;
    let asking: Vec<_> = (0..100)
        .map(|_| tokio::spawn(post(world.socket(), "/reload")))
        .collect();
    for asked in asking {
        let answer = asked.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let run = world.command(&["--json", "status"]).await;
    let count = run.json()["reloads"]["ok"].as_u64().unwrap();
    assert!((1..20).contains(&count), "{count} reloads");
}

#[tokio::test]
async fn drain_lets_requests_finish_and_the_process_end() {
    let mut world = world().await;
    let client = world.client();
    let mut session = client.session().await.unwrap();
    let response = session.start(get("/slow")).await.unwrap();
    let run = world.command(&["--json", "drain"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.json()["draining"], true);
    until("draining to be announced", async || {
        let ready = plain(world.gateway.public(), "GET", "/readyz", &[]).await;
        ready.status == 503
    })
    .await;
    assert!(client.get("/new").await.is_err());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"chunk 4\n"));
    drop(session);
    assert!(world.gateway.ended().await.success());
    assert!(!world.socket().exists(), "the socket is left behind");
    let run = world.command(&["status"]).await;
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("is the gateway running"));
}

#[tokio::test]
async fn changes_are_posted_and_only_to_the_socket() {
    let world = world().await;
    let answer = post(world.socket(), "/status").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    let answer = post(world.socket(), "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    for path in ["/status", "/reload", "/drain"] {
        for listener in [world.gateway.public(), world.gateway.admin()] {
            let answer = plain(listener, "POST", path, &[]).await;
            assert_eq!(answer.status, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn a_live_socket_is_not_taken_over_and_a_dead_one_is() {
    let world = world().await;
    let ca = TestCa::new("example.org");
    let socket = format!("\"{}\"", world.socket().display());
    let second = Settings::new(&ca)
        .set("admin", "socket", &socket)
        .everything_to("127.0.0.1:9".parse().unwrap());
    let failure = Gateway::try_start(BINARY, &second).await.unwrap_err();
    assert_eq!(failure.status.code(), Some(1));
    assert!(failure.stderr.contains("listens at"), "{failure}");
    assert_eq!(world.command(&["status"]).await.code, 0);

    let dead = ca.directory().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let third = second.set("admin", "socket", &format!("\"{}\"", dead.display()));
    let _third = Gateway::start(BINARY, &third).await;
    let answer = post(dead, "/reload").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn without_a_socket_the_commands_say_what_to_do() {
    let world = World::open().await;
    let run = world.command(&["status"]).await;
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("--socket PATH"));
    let run =
        Run::of_async(Command::new(BINARY).args(["reload", "--socket", "/nonexistent/admin.sock"]))
            .await;
    assert_eq!(run.code, 1);
}
