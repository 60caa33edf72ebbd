//! Reads only the path of the operators' socket. `countersign status` needs the path even if the
//! rest of the configuration file is invalid.

use std::path::{Path, PathBuf};

use super::material::files::{Access, Files};

/// The reason why the path of the operators' socket is unknown.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    /// The configuration file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The path of the configuration file.
        path: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{}: it is not TOML; name the socket with --socket PATH", .0.display())]
    NotToml(PathBuf),
    /// The configuration file has no key `socket` in `[admin]`.
    #[error(
        "{}: [admin] has no `socket`; add one and restart the gateway, or name it with --socket PATH",
        .0.display()
    )]
    None(PathBuf),
}

/// Returns the path of the operators' socket, which the key `socket` of `[admin]` names.
///
/// # Errors
/// If the file cannot be read, is not TOML, or does not name the socket.
pub fn admin_socket(config: &Path) -> Result<PathBuf, AdminSocketError> {
    let text = std::fs::read_to_string(config).map_err(|error| AdminSocketError::Unreadable {
        path: config.to_owned(),
        error,
    })?;
    let table: toml::Table = text
        .parse()
        .map_err(|_| AdminSocketError::NotToml(config.to_owned()))?;
    let socket = table
        .get("admin")
        .and_then(|admin| admin.get("socket"))
        .and_then(toml::Value::as_str)
        .ok_or_else(|| AdminSocketError::None(config.to_owned()))?;
    Ok(Files::beside((config, None), Access::default()).locate(socket))
}
