//! systemd units that run a `pki` command again and again.

use std::path::{Path, PathBuf};

use crate::cli::common::format::absolute;
use crate::identity::text::shell;

/// A service and a timer that starts it.
pub(super) struct Timer<'a> {
    /// The name of both units, without `.service` and `.timer`.
    pub(super) name: &'a str,
    pub(super) service: &'a str,
    pub(super) timer: &'a str,
    /// The words after the program's path. Texts of users are quoted by [`unit_word`].
    pub(super) command: String,
    /// `OnCalendar` and `RandomizedDelaySec`.
    pub(super) schedule: [&'a str; 2],
    /// The file with the passphrase, if the command needs one.
    pub(super) passphrase: Option<&'a Path>,
}

/// Where a passphrase is expected if no file was named.
pub(super) const PASSPHRASE: &str = "/etc/countersign/ca.pass";

impl Timer<'_> {
    /// Returns the paths of the units in a directory, each with its content.
    pub(super) fn units(&self, directory: &Path) -> [(PathBuf, String); 2] {
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("countersign"));
        let program = unit_word(&program.to_string_lossy());
        let (credential, option) = match self.passphrase {
            Some(path) => (
                format!(
                    "# Put the passphrase there, readable for root only.\n\
                     LoadCredential=passphrase:{}\n",
                    absolute(path).replace('%', "%%")
                ),
                " --passphrase-file %d/passphrase",
            ),
            None => (String::new(), ""),
        };
        let service = format!(
            "[Unit]\nDescription={}\n\n[Service]\nType=oneshot\n{credential}ExecStart={program} {}{option}\n",
            self.service, self.command
        );
        let [calendar, delay] = self.schedule;
        let timer = format!(
            "[Unit]\nDescription={}\n\n\
             [Timer]\nOnCalendar={calendar}\nRandomizedDelaySec={delay}\nPersistent=true\n\n\
             [Install]\nWantedBy=timers.target\n",
            self.timer
        );
        let path = |kind: &str| directory.join(format!("{}.{kind}", self.name));
        [(path("service"), service), (path("timer"), timer)]
    }

    /// Says which command enables the units.
    pub(super) fn enabling(&self, directory: &Path) -> String {
        format!(
            "note: {0}/{1}.{{service,timer}} are written; enable them with: systemctl enable --now \
             $(realpath {0}/{1}.service {0}/{1}.timer)",
            shell(directory),
            self.name
        )
    }
}

/// Quotes a text as one word of a unit file (systemd.syntax(7)).
pub(super) fn unit_word(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
}
