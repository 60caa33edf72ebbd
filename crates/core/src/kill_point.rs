//! Points between two file operations at which unit tests end a process.
//!
//! A process can be killed, or the machine can lose power, between any two changes of files. The
//! code calls [`kill_point`] between such changes. In production the function does nothing. In unit
//! tests, a child process ends at one selected point without running destructors, as if it were
//! killed.

/// Does nothing. In unit tests, `tests::kill_point` replaces this function.
#[cfg(not(any(test, feature = "testing")))]
pub const fn kill_point() {}

#[cfg(any(test, feature = "testing"))]
pub use tests::kill_point;

/// Runs a child process in unit tests, and ends it at each kill point in turn.
#[cfg(any(test, feature = "testing"))]
pub mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    const TARGET: &str = "COUNTERSIGN_TEST_KILL_AT";
    const DIRECTORY: &str = "COUNTERSIGN_TEST_DIRECTORY";
    /// The exit code of a child process that ended at its point.
    const KILLED: i32 = 86;

    /// The point at which this process ends. Points are counted from 0.
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

    /// Returns the directory to work in. Returns `None` if this process is not a child process.
    pub fn directory() -> Option<std::path::PathBuf> {
        std::env::var_os(DIRECTORY).map(Into::into)
    }

    /// Runs the ignored test `name` of this binary in a child process on `directory`, and ends it
    /// at `point`. Returns whether the child reached that point.
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

    /// Runs the ignored test `name` once for each of its points, and ends it there. `prepare` makes
    /// the directory of each run. `check` checks the directory after the run. The last run reaches
    /// no point and is not ended early.
    pub fn at_each_point(name: &str, mut prepare: impl FnMut(&Path), mut check: impl FnMut(&Path)) {
        for point in 0.. {
            let home = tempfile::tempdir().unwrap();
            prepare(home.path());
            let was_killed = kill_at(point, name, home.path());
            eprintln!("{name}: killed at point {point}: {was_killed}");
            check(home.path());
            if !was_killed {
                // Every operation that is tested has more than two points.
                assert!(point > 2, "{name} has {point} points");
                return;
            }
        }
    }
}
