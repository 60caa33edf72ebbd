//! Points between two file operations at which tests end a process.
//!
//! A process can be killed, or the machine can lose power, between any two changes of
//! files. [`kill_point`] is called between them. In the program it does nothing. In
//! unit tests, a child process ends at one selected point without running
//! destructors, as if it were killed.

/// Does nothing, except in tests.
#[cfg(not(any(test, feature = "testing")))]
pub const fn kill_point() {}

#[cfg(any(test, feature = "testing"))]
pub use tests::kill_point;

/// Runs a child process in tests, and kills it at each point in turn.
#[cfg(any(test, feature = "testing"))]
pub mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    const TARGET: &str = "COUNTERSIGN_TEST_KILL_AT";
    const DIRECTORY: &str = "COUNTERSIGN_TEST_DIRECTORY";
    /// The exit code of a child that ended at its point.
    const KILLED: i32 = 86;

    /// The point at which this process ends, counted from 0.
    static KILL_AT: LazyLock<Option<u32>> =
        LazyLock::new(|| std::env::var(TARGET).ok()?.parse().ok());
    static REACHED: AtomicU32 = AtomicU32::new(0);

    /// Ends this process if this is the selected point.
    pub fn kill_point() {
        if let Some(at) = *KILL_AT
            && REACHED.fetch_add(1, Ordering::SeqCst) == at
        {
            std::process::exit(KILLED);
        }
    }

    /// Returns the directory to work in, if this process is a child.
    pub fn directory() -> Option<std::path::PathBuf> {
        std::env::var_os(DIRECTORY).map(Into::into)
    }

    /// Runs the ignored test `name` of this binary on a directory, and ends it at a
    /// point. Returns whether it reached that point.
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

    /// Runs the ignored test `name` once for each of its points, and ends it there.
    /// `prepare` makes the directory of each run, and `check` is called with what the
    /// run has left. The last run is not ended early.
    pub fn at_each_point(name: &str, mut prepare: impl FnMut(&Path), mut check: impl FnMut(&Path)) {
        for point in 0.. {
            let home = tempfile::tempdir().unwrap();
            prepare(home.path());
            let was_killed = kill_at(point, name, home.path());
            eprintln!("{name}: killed at point {point}: {was_killed}");
            check(home.path());
            if !was_killed {
                // Every operation on files has several points.
                assert!(point > 2, "{name} has {point} points");
                return;
            }
        }
    }
}
