//! Runs the shell commands of `--exec`, and sleeps between the runs of `--every`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::crypto;
use crate::pki::Lifetime;

/// Runs a shell command. `environment` are the names and values of additional environment
/// variables. The error describes how the command failed.
pub(super) fn run(command: &str, environment: &[(&str, PathBuf)]) -> Result<(), String> {
    let status = Command::new("sh")
        .args(["-c", command])
        .envs(environment.iter().map(|(name, path)| (name, path)))
        .status()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} failed: {status}"))
    }
}

/// Sleeps for an interval that varies randomly by up to 10 %, so that many machines do not act at
/// the same time.
pub(super) fn sleep_about(interval: Lifetime) {
    std::thread::sleep(jittered(interval));
}

fn jittered(interval: Lifetime) -> Duration {
    let whole = Duration::from_secs(u64::try_from(interval.as_seconds()).unwrap_or(1));
    let [random] = crypto::random::<1>().unwrap_or_default();
    // The factor is between 0.9 and 1.1.
    whole.mul_f64(0.9 + f64::from(random) / 255.0 * 0.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        for _ in 0..100 {
            let slept = jittered("100s".parse().unwrap()).as_secs_f64();
            assert!((90.0..=110.0).contains(&slept), "{slept}");
        }
    }

    #[test]
    fn a_hook_that_fails_says_so() {
        assert!(run("test -n \"$WHERE\"", &[("WHERE", PathBuf::from("/a"))]).is_ok());
        let error = run("exit 3", &[]).unwrap_err();
        assert!(error.contains("exit 3") && error.contains('3'), "{error}");
    }
}
