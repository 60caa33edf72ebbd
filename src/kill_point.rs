//! Points between two file operations at which tests end the process.
//!
//! A process can be killed, or the machine lose power, between any two changes of
//! files. [`kill_point`] stands between them: in the program it is nothing, in unit
//! tests a child process ends at the one it was told to, without running any
//! destructor, as a kill would.

/// Does nothing outside of tests.
#[cfg(not(test))]
pub(crate) const fn kill_point() {}

#[cfg(test)]
pub(crate) use tests::kill_point;

/// How tests kill a child process at each point in turn.
#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    const TARGET: &str = "COUNTERSIGN_TEST_KILL_AT";
    const DIRECTORY: &str = "COUNTERSIGN_TEST_DIRECTORY";
    /// The exit code of a child that ended at its point.
    const KILLED: i32 = 86;

    /// Which point this process ends at, counted from 0.
    static KILL_AT: LazyLock<Option<u32>> =
        LazyLock::new(|| std::env::var(TARGET).ok()?.parse().ok());
    static REACHED: AtomicU32 = AtomicU32::new(0);

    pub(crate) fn kill_point() {
        if let Some(at) = *KILL_AT
            && REACHED.fetch_add(1, Ordering::SeqCst) == at
        {
            std::process::exit(KILLED);
        }
    }

    /// In a child: the directory to work in.
    pub(crate) fn directory() -> Option<std::path::PathBuf> {
        std::env::var_os(DIRECTORY).map(Into::into)
    }

    /// Runs the ignored test `name` of this binary on a directory, and ends it at a
    /// point. Says whether it came to that point.
    pub(crate) fn kill_at(point: u32, name: &str, directory: &Path) -> bool {
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

    /// Runs the ignored test `name` on directories that `prepare` makes, ending it at
    /// its first point, its second and so on, and calls `check` with what each left
    /// behind; at last with what an undisturbed run leaves.
    pub(crate) fn at_each_point(
        name: &str,
        mut prepare: impl FnMut(&Path),
        mut check: impl FnMut(&Path),
    ) {
        for point in 0.. {
            let home = tempfile::tempdir().unwrap();
            prepare(home.path());
            let was_killed = kill_at(point, name, home.path());
            eprintln!("{name}: killed at point {point}: {was_killed}");
            check(home.path());
            if !was_killed {
                // Every operation on files has some.
                assert!(point > 2, "{name} has {point} points");
                return;
            }
        }
    }
}
