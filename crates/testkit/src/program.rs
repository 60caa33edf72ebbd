//! Services that are other programs, such as nginx. Dropping a [`Program`] ends the process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::skipped::tool;
use crate::until;

/// The exit code of a test script if the library that the script uses is not installed.
const ABSENT: i32 = 77;
/// The maximum time until a script listens. The time is long, because Go first compiles its
/// script.
const START: Duration = Duration::from_secs(180);

/// A running service. Dropping this value ends the process.
#[derive(Debug)]
pub struct Program {
    child: Child,
    address: SocketAddr,
    _directory: Option<TempDir>,
}

impl Program {
    /// Returns the address on which the program listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs a script that prints its port as JSON, and serves until its standard input ends.
    /// `what` is the name of the program or library that the script needs. If it is not
    /// installed, returns `None` and writes a note (see [`crate::skipped`]).
    ///
    /// # Panics
    /// If the script fails.
    pub async fn script(command: &mut Command, what: &str) -> Option<Self> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut child) = child else {
            tool(what, false);
            return None;
        };
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = tokio::time::timeout(START, lines.next_line())
            .await
            .unwrap_or_else(|_| panic!("{what} does not start"))
            .expect("a line");
        let Some(line) = line else {
            let output = child.wait_with_output().await.expect("the script's end");
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(ABSENT), "{what}: {complaint}");
            tool(what, false);
            return None;
        };
        tool(what, true);
        // Reads and discards the script's standard error. Otherwise the script would block when the
        // pipe is full.
        let mut errors = child.stderr.take().expect("a pipe");
        tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
        let line: Value = serde_json::from_str(&line).expect("a line of JSON");
        let port = line["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        Some(Self {
            child,
            address: ([127, 0, 0, 1], port.expect("a port")).into(),
            _directory: None,
        })
    }

    /// Starts Jetty with h2 and without TLS. `source` is the file of the Java program that uses
    /// Jetty. If Java or the libraries of Debian's package `libjetty9-java` are not installed,
    /// returns `None` and writes a note (see [`crate::skipped`]).
    pub async fn jetty(source: &Path) -> Option<Self> {
        const JARS: [&str; 8] = [
            "jetty9-http2-server",
            "jetty9-http2-common",
            "jetty9-http2-hpack",
            "jetty9-http",
            "jetty9-io",
            "jetty9-server",
            "jetty9-util",
            "servlet-api",
        ];
        let jars = JARS.map(|name| format!("/usr/share/java/{name}.jar"));
        if !jars.iter().all(|jar| Path::new(jar).exists()) {
            tool("jetty", false);
            return None;
        }
        let mut command = Command::new("java");
        command.arg("-cp").arg(jars.join(":")).arg(source);
        Self::script(&mut command, "jetty").await
    }

    /// Starts nginx with h2 and without TLS. It forwards requests to `backend` over HTTP/1.1. If
    /// nginx is not installed, returns `None` and writes a note (see [`crate::skipped`]).
    pub async fn nginx(backend: SocketAddr) -> Option<Self> {
        let directory = TempDir::with_prefix("countersign-nginx-").expect("a directory");
        let address = free_address().await;
        let place = directory.path().display();
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 8192; }}\nhttp {{\n\
             access_log off;\n\
             client_body_temp_path {place}/body;\nproxy_temp_path {place}/proxy;\n\
             fastcgi_temp_path {place}/fastcgi;\nuwsgi_temp_path {place}/uwsgi;\n\
             scgi_temp_path {place}/scgi;\n\
             keepalive_requests 1000000;\n\
             server {{\nlisten {address} http2;\nlocation / {{\n\
             proxy_pass http://{backend};\nproxy_http_version 1.1;\n\
             proxy_buffering off;\nproxy_request_buffering off;\n}}\n}}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, configuration).expect("a configuration");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory.path()).arg("-c").arg(&file);
        Self::listening("nginx", &mut command, address, directory).await
    }

    /// Starts Envoy with h2 and without TLS. It forwards requests to `backend` over HTTP/1.1. If
    /// Envoy is not installed, returns `None` and writes a note (see [`crate::skipped`]).
    pub async fn envoy(binary: Option<&Path>, backend: SocketAddr) -> Option<Self> {
        let Some(binary) = binary else {
            tool("envoy", false);
            return None;
        };
        let directory = TempDir::with_prefix("countersign-envoy-").expect("a directory");
        let address = free_address().await;
        let socket = |address: SocketAddr| serde_json::json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } });
        // Envoy retries, because a backend may close an idle connection just when Envoy uses the
        // connection again. The tests are not about this race.
        let retries = serde_json::json!({ "retry_on": "reset,connect-failure", "num_retries": 3 });
        let manager = serde_json::json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "codec_type": "HTTP2",
            "stream_idle_timeout": "0s",
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "backend", "timeout": "0s", "retry_policy": retries } }],
            }] },
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
        });
        let configuration = serde_json::json!({ "static_resources": {
            "listeners": [{ "address": socket(address), "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }] }] }],
            "clusters": [{ "name": "backend", "type": "STATIC", "connect_timeout": "5s",
                "load_assignment": { "cluster_name": "backend", "endpoints": [{ "lb_endpoints": [{
                    "endpoint": { "address": socket(backend) } }] }] } }],
        } });
        let file = directory.path().join("envoy.json");
        std::fs::write(&file, configuration.to_string()).expect("a configuration");
        let mut command = Command::new(binary);
        command
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "off",
                "-c",
            ])
            .arg(&file);
        Self::listening("envoy", &mut command, address, directory).await
    }

    /// Starts a program, and waits until it accepts connections at `address`. If the program
    /// cannot be started, returns `None` and writes a note (see [`crate::skipped`]).
    async fn listening(
        what: &str,
        command: &mut Command,
        address: SocketAddr,
        directory: TempDir,
    ) -> Option<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(child) = child else {
            tool(what, false);
            return None;
        };
        tool(what, true);
        until(&format!("{what} at {address}"), async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Some(Self {
            child,
            address,
            _directory: Some(directory),
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // `go run` starts the service as another process, which `kill_on_drop` does not kill.
        // The service ends when its standard input ends.
        drop(self.child.stdin.take());
    }
}

/// Returns an address with a free port, for programs that cannot select a port themselves.
async fn free_address() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    probe.local_addr().expect("an address")
}
