//! Points between two file operations at which unit tests end a process.
//!
//! A process can be killed, or the machine can lose power, between any two changes of files. The
//! code calls [`kill_point`] between such changes. In production, [`kill_point`] does nothing. In
//! unit tests, a child process ends at one selected point without running destructors, as if it
//! were killed.

/// Does nothing. In unit tests, `tests::kill_point` replaces this function.
#[cfg(not(any(test, feature = "testing")))]
pub const fn kill_point() {}

#[cfg(any(test, feature = "testing"))]
pub use tests::kill_point;

/// Runs a child process in unit tests, and ends it at each kill point in turn.
#[cfg(any(test, feature = "testing"))]
pub mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::print_stderr,
        reason = "only tests use this, but a crate above is no test of this one"
    )]

    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    const TARGET: &str = "COUNTERSIGN_TEST_KILL_AT";
    const DIRECTORY: &str = "COUNTERSIGN_TEST_DIRECTORY";
    /// The exit code of a child process that ended at its kill point.
    const KILLED: i32 = 86;

    /// The number of the kill point at which this process ends, counted from 0. Only [`directory`]
    /// sets this number, and only unit tests call `directory`. So the environment variables alone
    /// never end another program.
    static KILL_AT: OnceLock<u32> = OnceLock::new();
    static REACHED: AtomicU32 = AtomicU32::new(0);

    /// Ends this process if this call is the selected kill point.
    pub fn kill_point() {
        if let Some(at) = KILL_AT.get()
            && REACHED.fetch_add(1, Ordering::SeqCst) == *at
        {
            std::process::exit(KILLED);
        }
    }

    /// Returns the directory whose files a child process must change, and lets the process end at
    /// its kill point from now on. Returns `None` if this process is not such a child process.
    pub fn directory() -> Option<std::path::PathBuf> {
        let directory = std::env::var_os(DIRECTORY)?;
        if let Some(at) = std::env::var(TARGET).ok().and_then(|at| at.parse().ok()) {
            KILL_AT.get_or_init(|| at);
        }
        Some(directory.into())
    }

    /// Runs the ignored test `name` of this test program in a child process, which works in
    /// `directory` and ends at the kill point `point`. Returns `false` if the test was complete
    /// before it reached this point.
    pub fn kill_at(point: u32, name: &str, directory: &Path) -> bool {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env(TARGET, point.to_string())
            .env(DIRECTORY, directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let said = String::from_utf8_lossy(&said);
        match output.status.code() {
            Some(KILLED) => true,
            Some(0) => {
                assert!(said.contains("1 passed"), "no test {name}: {said}");
                false
            }
            _ => panic!("{name}, to be killed at point {point}: {said}"),
        }
    }

    /// Runs the ignored test `name` once for each of its kill points, and ends it at that point.
    /// Before each run, `prepare` fills the directory of the run. After it, `check` checks this
    /// directory. In the last run, the test is not ended early.
    pub fn at_each_point(name: &str, mut prepare: impl FnMut(&Path), mut check: impl FnMut(&Path)) {
        for point in 0.. {
            let home = tempfile::tempdir().unwrap();
            prepare(home.path());
            let was_killed = kill_at(point, name, home.path());
            eprintln!("{name}: killed at point {point}: {was_killed}");
            check(home.path());
            if !was_killed {
                // Every tested operation has more than two kill points. Fewer would mean that no
                // process was killed.
                assert!(point > 2, "{name} has {point} points");
                return;
            }
        }
    }
}
