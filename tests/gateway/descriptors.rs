//! File descriptors. If callers use too many, or if the limit is low, a revocation still takes
//! effect and the commands of operators still work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_testkit::{Crl, Echo, Gateway, Settings, TestCa, in_time, until};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::failing_files::{Injected, deny_list};
use super::material::{assert_prompt, problem};
use crate::support::{BINARY, CALLER, HOST, RevocationLists, World, readyz, replace, streaming};

/// A gateway that checks revocation, with a deny list in a separate directory and a socket. Its
/// limit for unread files is very short, so that every read failure exceeds it.
struct Scene {
    world: World,
    lists: RevocationLists,
    deny: PathBuf,
}

impl Scene {
    async fn start(binary: &str) -> Self {
        let ca = TestCa::new("example.org");
        let echo = Echo::start().await;
        let lists = RevocationLists::of(&ca);
        let deny = deny_list(&ca);
        let settings = Settings::new(&ca)
            .trust(&ca, &format!("{}\nmax_unread = \"1s\"", lists.setting()))
            .set("admin", "socket", "\"admin.sock\"")
            .set("deny_list", "file", &format!("{deny:?}"))
            // A long timeout, so that silent connections stay until the end of the test.
            .set("limits", "handshake_timeout", "\"10m\"")
            .everything_to(echo.address());
        let world = World {
            gateway: Gateway::start(binary, &settings).await,
            caller: ca.client(CALLER),
            ca,
            echo,
        };
        Self { world, lists, deny }
    }

    /// Checks that the commands of operators work.
    async fn assert_operable(&self) {
        let world = &self.world;
        let status = world.by_socket(&["--json", "status"]).await;
        assert_eq!(status.code, 3, "{status:?}");
        world.by_socket(&["reload"]).await.done();
        let mallory = format!("spiffe://{}/mallory", world.ca.domain());
        let add = ["--json", "deny", "add", "--identity", &mallory];
        let added = world.by_socket(&add).await.done().json();
        let remove = ["deny", "remove", added["id"].as_str().unwrap()];
        world.by_socket(&remove).await.done();
    }
}

/// Returns a script that runs the gateway with this limit of descriptors.
fn with_limit(directory: &Path, descriptors: usize) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let script = directory.join("limited");
    let text = format!("#!/bin/sh\nulimit -n {descriptors} || exit 9\nexec {BINARY} \"$@\"\n");
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[tokio::test]
async fn callers_cannot_take_the_descriptors_that_a_revocation_needs() {
    // This process opens many connections and needs many descriptors too.
    countersign_core::descriptors::raise_limit();
    let directory = tempfile::tempdir().unwrap();
    let binary = with_limit(directory.path(), 1024);
    let scene = Scene::start(binary.to_str().unwrap()).await;
    let world = &scene.world;
    let ready = readyz(&world.gateway, "descriptors-low", true).await;
    let detail = problem(&ready, "descriptors-low")["detail"].to_string();
    assert!(
        detail.contains("1024 descriptors") && detail.contains("LimitNOFILE"),
        "{detail}"
    );
    let status = world.by_socket(&["--json", "status"]).await.json();
    assert_eq!(status["descriptors"]["limit"], 1024, "{status}");
    let most = status["connections_limit"].as_u64().unwrap();
    assert!((300..700).contains(&most), "{status}");

    // Every fourth caller also uses a connection to the service. All callers stay connected.
    let client = world
        .gateway
        .client(HOST)
        .with(&world.ca.client("/ns/shop/sa/many"));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..1060 {
        let client = client.clone();
        callers.spawn(async move {
            let mut connection = client.connect().await.ok()?;
            if number % 4 == 0 {
                let head = format!("GET /hang-mid-body HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
                connection.write(head.as_bytes()).await.ok()?;
            }
            Some(connection)
        });
    }
    // Waits until nearly all connections that the gateway allows are open.
    let mut held = Vec::new();
    let full = async {
        while held.len() + 20 < usize::try_from(most).unwrap() {
            held.extend(callers.join_next().await.unwrap().unwrap());
        }
    };
    in_time("a full gateway", full).await;
    // Frees slots for the callers in the following checks.
    held.truncate(held.len() - 20);
    callers.abort_all();
    assert_prompt(
        &world.gateway,
        (&world.ca, &scene.lists),
        &mut 1,
        "all connections",
    )
    .await;
    scene.assert_operable().await;
    // The gateway can also read its files.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    held.truncate(held.len() - 20);
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    let ready = readyz(&world.gateway, "material-unreadable", false).await;
    assert_eq!(ready["status"], "ready");
}

/// Sets the descriptor limit of the gateway to the number that it uses now.
fn take_all_descriptors(gateway: &Gateway) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
    let highest = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .max()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap()).unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(highest + 1);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).unwrap();
    usize::try_from(highest + 1).unwrap()
}

/// Opens connections until the gateway uses all descriptors below the limit.
async fn fill_gaps(world: &World, limit: usize) -> Vec<tokio::net::TcpStream> {
    let mut held = Vec::new();
    in_time("the last descriptor", async {
        while open_descriptors(&world.gateway) < limit {
            let connecting = tokio::net::TcpStream::connect(world.gateway.listener());
            held.push(connecting.await.unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    held
}

fn open_descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid()))
        .unwrap()
        .count()
}

#[tokio::test]
async fn a_revocation_needs_no_descriptor_that_is_free() {
    let scene = Scene::start(BINARY).await;
    let world = &scene.world;
    // These callers connect before, because the gateway cannot accept new connections later.
    let mut streams = Vec::new();
    for number in 0..8 {
        let caller = world.ca.client(&format!("/ns/shop/sa/before{number}"));
        let client = world.gateway.client(HOST).with(&caller);
        streams.push((caller, streaming(&client).await));
    }
    let config = world.gateway.config_file();
    let good = std::fs::read(&config).unwrap();
    let limit = take_all_descriptors(&world.gateway);
    let mut held = fill_gaps(world, limit).await;
    let mut number = 1;
    let mut slow = Vec::new();
    // The first round has no free descriptor. The second round also has an invalid
    // configuration. The third round also has a deny list whose file hangs.
    let mut injected = None;
    for what in ["descriptors", "configuration", "deny list"] {
        match what {
            "configuration" => {
                replace(&config, "[nonsense");
                readyz_by_socket(world, "configuration-refused").await;
            }
            "deny list" => {
                let calls = "open,openat,statx";
                injected =
                    Injected::into(&world.gateway, &scene.deny, calls, "delay_enter=600s").await;
                if injected.is_some() {
                    readyz_by_socket(world, "material-stalled").await;
                }
            }
            _ => {}
        }
        // Callers that were disconnected have freed descriptors, which are used up again.
        held.extend(fill_gaps(world, limit).await);
        let mut fastest = Duration::MAX;
        for _ in 0..2 {
            let (caller, stream) = streams.pop().unwrap();
            number += 1;
            let newer = Crl::new().number(number).revoke(caller.serial());
            let replaced = std::time::Instant::now();
            scene.lists.publish(&world.ca, newer);
            let cut = super::material::ended(stream).await - replaced;
            fastest = fastest.min(cut);
            if cut < Duration::from_secs(1) {
                break;
            }
        }
        if fastest >= Duration::from_secs(1) {
            slow.push((what, fastest));
        }
    }
    assert!(slow.is_empty(), "{slow:?}\n{}", world.gateway.stderr());
    if let Some(injected) = injected {
        injected.end().await;
    }
    replace(&config, good);
    // The gateway keeps reserve descriptors for commands of operators.
    scene_operable_without_problems(world).await;
    drop(held);
}

/// Waits until `status` reports this problem. It uses the socket, because the other listeners have
/// no free descriptors.
async fn readyz_by_socket(world: &World, code: &str) {
    until(code, async || {
        let status = world.by_socket(&["--json", "status"]).await;
        status.stdout.contains(code)
    })
    .await;
}

async fn scene_operable_without_problems(world: &World) {
    until("a reload", async || {
        world.by_socket(&["reload"]).await.code == 0
    })
    .await;
    let add = ["deny", "add", "--identity", "dns:mallory.example.org"];
    world.by_socket(&add).await.done();
}
