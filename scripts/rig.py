"""Shared by scripts/bench, scripts/scale and scripts/reload: the build of the gateway, the load
generator, the service behind it, and the certificates.
"""

import json
import pathlib
import resource
import signal
import subprocess
import sys
import time

from peers import ROOT, resident_kib, say, stop


def prepare():
    """Raises the limit of open files, and makes SIGTERM raise an exception, so that all
    started processes are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def build(*what):
    command = ["cargo", "build", "--locked", "--target-dir", "target/bench", *what]
    say("building:", " ".join(command))
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return ROOT / "target" / "bench"


def gateway(binary):
    """Returns the path of the gateway to measure: the given one, or a new build."""
    if binary:
        return pathlib.Path(binary).resolve()
    return build("--profile", "dist", "--no-default-features", "--features", "aws-lc-rs,mimalloc",
                 "--bin", "countersign") / "dist/countersign"


class Rig:
    """The service, the certificates and the generator of one run."""

    def __init__(self, work, generator=None, services=1, roots=0, lists=(0, 0)):
        self.work, self.pki = work, work / "pki"
        if generator:
            self.generator = pathlib.Path(generator).resolve()
        else:
            self.generator = build("--release", "-p", "countersign-testkit", "--bin", "load") / "release/load"
        subprocess.run([self.generator, "pki", self.pki, str(roots), *map(str, lists)], check=True)
        # It ends when its standard input ends, even if this process is killed.
        self.service = subprocess.Popen(
            [self.generator, "upstream", str(services)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.upstreams = self.service.stdout.readline().split()
        self.upstream = self.upstreams[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.service.stdin.close()
        self.service.wait(10)

    def load(self, process, port, options, seconds, warm=700):
        """Runs one kind of load and returns the generator's report."""
        command = [
            self.generator, "run", "--to", f"127.0.0.1:{port}", "--pki", self.pki,
            "--watch", process.pid, "--upstream", self.service.pid, "--warm", warm,
            "--milliseconds", int(seconds * 1000), *options,
        ]
        result = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, timeout=seconds + 60)
        if result.returncode:
            raise RuntimeError(result.stderr.strip()[-400:])
        return json.loads(result.stdout)

    def hold(self, port, connections, path="/"):
        """Starts a process that holds idle connections. Returns when all are open."""
        holder = subprocess.Popen(
            [str(self.generator), "idle", "--to", f"127.0.0.1:{port}", "--pki", str(self.pki),
             "--connections", str(connections), "--path", path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if not holder.stdout.readline():
            stop(holder)
            raise RuntimeError(holder.stderr.read().strip()[-400:])
        return holder

    def release(self, holder):
        """Ends a holder. Returns how many of its connections were still open."""
        try:
            output, _ = holder.communicate(timeout=60)
            return json.loads(output)["open"]
        finally:
            stop(holder)

    def idle(self, process, port, connections):
        """Measures the memory per idle connection."""
        # A warm-up: memory that the first requests allocate does not belong to the connections.
        self.load(process, port, ["--kind", "h1", "--connections", "8"], 0.4, warm=100)
        time.sleep(0.5)
        before = resident_kib(process.pid)
        holder = self.hold(port, connections)
        time.sleep(1.5)
        after = resident_kib(process.pid)
        still = self.release(holder)
        return {"kib": (after - before) / connections, "units": connections,
                "failed": connections - still, "refused": 0,
                "complaint": "connections were closed" if still < connections else None}
