//! The operators' socket of a configuration, without loading anything else:
//! `countersign status` has to work when the rest of the file does not.

use std::path::{Path, PathBuf};

use super::material::files::{Access, Files};

/// Why the socket is not known.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: it is not TOML; name the socket with --socket PATH", .0.display())]
    NotToml(PathBuf),
    /// The file names no socket.
    #[error(
        "{}: [admin] has no `socket`; add one and restart the gateway, or name it with --socket PATH",
        .0.display()
    )]
    None(PathBuf),
}

/// Returns the path of the private socket of the gateway with this configuration.
///
/// # Errors
/// When the file does not say.
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
