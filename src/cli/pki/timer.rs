//! systemd units that run a `pki` command again and again.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::cli::common::format::absolute;
use crate::cli::common::output::CliError;
use crate::crypto;
use crate::file_access::directory_owner;
use crate::identity::text::{hex, printable, shell};

/// A service and a timer that starts it.
pub(super) struct Timer<'a> {
    /// The name of both units, without `.service` and `.timer`.
    pub(super) name: &'a str,
    pub(super) service: &'a str,
    pub(super) timer: &'a str,
    /// The authority's directory. The service runs as the owner of this directory.
    pub(super) dir: &'a Path,
    /// The arguments of the program. Text from a user must be quoted with [`unit_word`].
    pub(super) command: String,
    /// The values of `OnCalendar` and `RandomizedDelaySec`.
    pub(super) schedule: [&'a str; 2],
    /// The file with the passphrase, if the command needs one.
    pub(super) passphrase: Option<&'a Path>,
}

/// The passphrase file if the operator has named none.
pub(super) const PASSPHRASE: &str = "/etc/countersign/ca.pass";

/// The longest part of a file name that a unit's name contains. A file name has at most 255 bytes.
const MAX_STEM: usize = 128;

impl Timer<'_> {
    /// Checks that systemd can read the passphrase file. So the operator sees an error now, and not
    /// when the service starts.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let Some(path) = self.passphrase else {
            return Ok(());
        };
        let text = absolute(path);
        let refuse = |why: &str| {
            Err(CliError::usage(format!(
                "{} cannot be a credential of a systemd service: {why}",
                printable(&text)
            )))
        };
        // systemd.exec(5): `LoadCredential=` knows escapes with `\`, and has no way to quote others.
        if text.contains('\\') || text.chars().any(char::is_control) {
            return refuse("its path contains a control character or \\");
        }
        if path != Path::new(PASSPHRASE) && !path.is_file() {
            return refuse("it is not a regular file");
        }
        Ok(())
    }

    /// Returns the paths of the units in a directory, each with its content.
    pub(super) fn units(&self, directory: &Path) -> [(PathBuf, String); 2] {
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("countersign"));
        let program = unit_word(&program.to_string_lossy());
        let mut settings = String::new();
        if let Some((user, group)) = directory_owner(self.dir)
            && user != 0
        {
            let _ = write!(settings, "User={user}\nGroup={group}\n");
        }
        settings.push_str("UMask=0077\nNoNewPrivileges=yes\n");
        let mut option = "";
        if let Some(path) = self.passphrase {
            let _ = write!(
                settings,
                "# Put the passphrase there, readable for root only.\n\
                 LoadCredential=passphrase:{}\n",
                absolute(path).replace('%', "%%")
            );
            option = " --passphrase-file %d/passphrase";
        }
        let service = format!(
            "[Unit]\nDescription={}\n\n[Service]\nType=oneshot\n{settings}ExecStart={program} {}{option}\n",
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

    /// Returns the command that enables the units, and the file in which they expect the passphrase.
    pub(super) fn enabling(&self, directory: &Path) -> String {
        let path = |kind: &str| {
            let path = directory.join(format!("{}.{kind}", self.name));
            shell(Path::new(&absolute(&path)))
        };
        // systemd would only link to units elsewhere. Then the owner of that directory could change
        // what root runs.
        let mut text = format!(
            "The units are written. To enable them, as root: install -o root -g root -m 0644 {} {} \
             /etc/systemd/system/ && systemctl daemon-reload && systemctl enable --now {}.timer",
            path("service"),
            path("timer"),
            self.name
        );
        if let Some(file) = self.passphrase {
            let _ = write!(
                text,
                "\nThe service reads the passphrase from {}, which only root has to be able to read.",
                printable(&absolute(file))
            );
        }
        text
    }
}

/// Refuses to replace files with another content.
pub(super) fn check_existing(units: &[(PathBuf, String)]) -> Result<(), CliError> {
    for (path, content) in units {
        let is_there = path.symlink_metadata().is_ok();
        if is_there && std::fs::read(path).ok().as_deref() != Some(content.as_bytes()) {
            return Err(CliError::failed(format!(
                "{} exists already and has another content; --force replaces it",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Returns the part of a unit's name that stands for a certificate: the name of its file. Adds a hash
/// of the path if the name alone could stand for another certificate too.
pub(super) fn unit_name_of(certificate: &Path, dir: &Path) -> String {
    let path = absolute(certificate);
    let stem = certificate.file_stem().unwrap_or_default();
    let stem = stem.to_string_lossy();
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = stem
        .chars()
        .map(|c| if is_safe(c) { c } else { '_' })
        .take(MAX_STEM)
        .collect();
    let issued = absolute(&dir.join("issued"));
    if name == stem && Path::new(&path).parent() == Some(Path::new(&issued)) {
        return name;
    }
    let hash = hex(&crypto::sha256(path.as_bytes()));
    format!("{name}-{}", hash.get(..8).unwrap_or_default())
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
