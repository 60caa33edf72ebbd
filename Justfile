# Everyday commands. `just` is a convenience: each recipe is one or two plain commands.

# What there is.
default:
    @just --list

# A throw-away gateway with everything around it.
demo:
    cargo run --release -- demo

# All tests; nothing else to install.
test:
    cargo test --workspace

# What must hold before a commit: format, lints, documentation.
check:
    scripts/lint

# What continuous integration runs, its tools included.
ci:
    .ci/run

# Countersign beside nginx, HAProxy and Envoy: ratios from one interleaved run.
bench *OPTIONS:
    scripts/bench {{OPTIONS}}

# Everything at once for minutes: load, slow callers, dying services, reloads.
soak *OPTIONS:
    scripts/soak {{OPTIONS}}

# Every fuzz target for a while (nightly, cargo-fuzz).
fuzz *OPTIONS:
    scripts/fuzz {{OPTIONS}}

# Benchmarks of the hot paths.
microbench:
    cargo bench --workspace --profile dist

# Licences, banned crates, sources (needs cargo-deny).
deny:
    cargo deny check bans licenses sources

# Everything, the slow parts included.
ci-full:
    scripts/ci-full
