//! Passphrases for private keys: from a file, an environment variable, a file descriptor, or a
//! prompt on the terminal. A passphrase is never an argument, because every user of the machine
//! could read it there.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::input;
use super::output::CliError;
use crate::identity::text::{shell, shell_word};
use crate::pki::{AuthorityName, Pki};
use crate::secret::Secret;

/// Maximum number of bytes of a passphrase.
const MAX_LENGTH: u64 = 4096;

/// Where the passphrase of encrypted private keys comes from.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(in crate::cli) struct PassphraseArgs {
    /// Read the passphrase from the first line of FILE, or of standard input with `-`.
    #[arg(long, value_name = "FILE", help_heading = "Passphrase")]
    passphrase_file: Option<PathBuf>,
    /// Read the passphrase from the environment variable VARIABLE.
    #[arg(long, value_name = "VARIABLE", help_heading = "Passphrase")]
    passphrase_env: Option<String>,
    /// Read the passphrase from the first line of the open file descriptor N.
    #[arg(long, value_name = "N", help_heading = "Passphrase")]
    passphrase_fd: Option<u32>,
}

impl PassphraseArgs {
    /// Returns the passphrase for new keys. If the user types it, asks for it twice.
    pub(in crate::cli) fn choose(&self) -> Result<Secret, CliError> {
        if let Some(passphrase) = self.given()? {
            return Ok(passphrase);
        }
        require_terminal("the private keys shall be encrypted", " or --no-passphrase")?;
        let first = prompt("Passphrase for the new private keys: ")?;
        let second = prompt("The same again: ")?;
        if first.expose() != second.expose() {
            return Err(CliError::usage("the two passphrases differ"));
        }
        Ok(first)
    }

    /// Returns the passphrase for a new file. `what` names the file in the prompt. If the user
    /// types the passphrase, asks for it twice.
    pub(in crate::cli) fn choose_for(&self, what: &str) -> Result<Secret, CliError> {
        if let Some(passphrase) = self.given()? {
            return Ok(passphrase);
        }
        require_terminal(&format!("{what} shall be encrypted"), "")?;
        let first = prompt(&format!("Passphrase for {what}: "))?;
        let second = prompt("The same again: ")?;
        if first.expose() != second.expose() {
            return Err(CliError::usage("the two passphrases differ"));
        }
        Ok(first)
    }

    /// Whether an option says where the passphrase is.
    pub(in crate::cli) const fn is_given(&self) -> bool {
        self.passphrase_file.is_some()
            || self.passphrase_env.is_some()
            || self.passphrase_fd.is_some()
    }

    /// Returns the file that was named, unless it is standard input.
    pub(in crate::cli) fn file(&self) -> Option<&Path> {
        let path = self.passphrase_file.as_deref()?;
        (!input::is_stdin(path)).then_some(path)
    }

    /// Returns the option for another command, with a blank before it. Returns an empty text if the
    /// other command cannot repeat it, and will ask.
    pub(in crate::cli) fn repeated(&self) -> String {
        match (self.file(), &self.passphrase_env) {
            (Some(path), _) => format!(" --passphrase-file {}", shell(path)),
            (None, Some(variable)) => format!(" --passphrase-env {}", shell_word(variable)),
            (None, None) => String::new(),
        }
    }

    /// Returns the passphrase of an existing encrypted file.
    pub(in crate::cli) fn open(&self, path: &Path) -> Result<Secret, CliError> {
        if let Some(passphrase) = self.given()? {
            return Ok(passphrase);
        }
        require_terminal(&format!("{} is encrypted", path.display()), "")?;
        prompt(&format!("Passphrase for {}: ", path.display()))
    }

    /// Reads the passphrase and gives it to `pki`, if the key of the authority `name` is encrypted.
    pub(in crate::cli) fn unlock(
        &self,
        pki: &mut Pki,
        name: AuthorityName,
    ) -> Result<(), CliError> {
        if !pki.needs_passphrase(name)? {
            return Ok(());
        }
        let passphrase = match self.given()? {
            Some(passphrase) => passphrase,
            None => {
                let file = pki.layout().key(name);
                require_terminal(
                    &format!("the private key in {} is encrypted", file.display()),
                    "",
                )?;
                prompt(&format!("Passphrase for {}: ", file.display()))?
            }
        };
        pki.set_passphrase(passphrase);
        Ok(())
    }

    fn given(&self) -> Result<Option<Secret>, CliError> {
        let secret = if let Some(path) = &self.passphrase_file {
            if input::is_stdin(path) {
                first_line(io::stdin().lock(), "standard input")?
            } else {
                from_path(path)?
            }
        } else if let Some(variable) = &self.passphrase_env {
            let text = std::env::var(variable).map_err(|_| {
                CliError::usage(format!(
                    "the environment variable {variable} is not set, or not text"
                ))
            })?;
            Secret::from(text)
        } else if let Some(number) = self.passphrase_fd {
            from_path(Path::new(&format!("/dev/fd/{number}")))?
        } else {
            return Ok(None);
        };
        not_empty(secret).map(Some)
    }
}

fn not_empty(secret: Secret) -> Result<Secret, CliError> {
    if secret.expose().is_empty() {
        return Err(CliError::usage("the passphrase is empty"));
    }
    Ok(secret)
}

fn from_path(path: &Path) -> Result<Secret, CliError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
    first_line(file, &name)
}

fn unreadable(source: &str, error: &io::Error) -> CliError {
    CliError::usage(format!("cannot read the passphrase from {source}: {error}"))
}

/// Reads the first line without its line ending, because editors and `echo` add one.
fn first_line(source: impl Read, name: &str) -> Result<Secret, CliError> {
    // Allocated at full size, because a growing buffer leaves copies of the secret in memory.
    let mut content = Zeroizing::new(Vec::with_capacity(4098));
    source
        .take(MAX_LENGTH + 1)
        .read_to_end(&mut content)
        .map_err(|error| unreadable(name, &error))?;
    let line = content
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() as u64 > MAX_LENGTH {
        return Err(CliError::usage(format!(
            "the passphrase in {name} is longer than {MAX_LENGTH} bytes"
        )));
    }
    Ok(Secret::new(line.to_vec()))
}

fn require_terminal(what: &str, otherwise: &str) -> Result<(), CliError> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "{what} and there is no terminal to ask for the passphrase; \
         use --passphrase-file, --passphrase-env, --passphrase-fd{otherwise}"
    )))
}

fn prompt(text: &str) -> Result<Secret, CliError> {
    let answer =
        rpassword::prompt_password(text).map_err(|error| unreadable("the terminal", &error))?;
    not_empty(Secret::from(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts_without_its_ending() {
        for (content, passphrase) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret\nsecond line\n", "secret"),
            (" with spaces \n", " with spaces "),
            ("\n", ""),
        ] {
            let read = first_line(content.as_bytes(), "test").unwrap();
            assert_eq!(read.expose(), passphrase.as_bytes());
        }
        let long = "x".repeat(4097);
        assert!(first_line(long.as_bytes(), "test").is_err());
        assert!(not_empty(Secret::new(Vec::new())).is_err());
    }
}
