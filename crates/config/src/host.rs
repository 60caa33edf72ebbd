//! Checks what the gateway needs from this machine to start: free addresses, the operators' socket,
//! and files and directories that the gateway writes. The checks change nothing, and take no
//! connection from a running gateway.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::document::Document;
use super::document::value::{At, Field};
use crate::file_access;
use crate::telemetry::audit_file;

/// What is known about a gateway that runs with the configuration that is checked.
#[derive(Debug, Clone)]
pub enum RunningGateway {
    /// No gateway listens at the operators' socket of the configuration.
    None,
    /// Nothing is known: the configuration has no operators' socket, or this user has no permission
    /// to connect to the socket.
    Unknown,
    /// A gateway listens at the operators' socket, and these are its addresses.
    At(Vec<SocketAddr>),
}

impl RunningGateway {
    /// Whether this gateway listens on an address that conflicts with `address`. Two addresses
    /// conflict if their ports are equal, and their IP addresses are equal or one of them means all
    /// interfaces.
    fn holds(&self, address: SocketAddr) -> bool {
        let excludes = |held: &SocketAddr| {
            held.port() == address.port()
                && (held.ip() == address.ip()
                    || held.ip().is_unspecified()
                    || address.ip().is_unspecified())
        };
        match self {
            Self::At(addresses) => addresses.iter().any(excludes),
            Self::None | Self::Unknown => false,
        }
    }
}

/// Reports everything on this machine that would prevent a start of the gateway. `base` is the
/// directory of the configuration file.
pub(super) fn check(
    document: &Document,
    base: &Path,
    running: &RunningGateway,
    diagnostics: &mut Diagnostics,
) {
    let listener = document.listener.as_ref().map(|section| &section.address);
    let public = document.public.as_ref().map(|section| &section.address);
    let admin = document.admin.as_ref().map(|section| &section.address);
    for address in [listener, public, admin].into_iter().flatten() {
        if let Some(written) = address.at()
            && !running.holds(written.value)
            && let Err(error) = bind(written.value)
        {
            report_address(written, &error, running, diagnostics);
        }
    }
    let named = |field: Option<&Field<String>>| {
        let written = field.and_then(Field::at)?.clone();
        let path = base.join(&written.value);
        Some((written, path))
    };
    let socket = document.admin.as_ref().map(|section| &section.socket);
    if let Some((written, path)) = named(socket)
        && let Err(why) = check_socket(&path)
    {
        refuse(&written, &path, &why, diagnostics);
    }
    let audit = document.audit.as_ref();
    if let Some((written, path)) = named(audit.map(|section| &section.file))
        && let Err(why) = check_audit(&path)
    {
        refuse(&written, &path, &why, diagnostics);
    }
    if let Some((written, path)) = named(audit.map(|section| &section.chains))
        && let Err(why) = check_directory(&path)
    {
        refuse(&written, &path, &why, diagnostics);
    }
    // If the deny list does not exist, the gateway creates it at start. So its directory must be
    // writable.
    if let Some((written, path)) = named(document.deny_list.as_ref().map(|section| &section.file))
        && !path.exists()
        && let Err(why) = check_parent(&path)
    {
        refuse(&written, &path, &why, diagnostics);
    }
}

/// Binds an address, but does not listen on it. A listening socket could take connections that are
/// meant for another process.
fn bind(address: SocketAddr) -> io::Result<()> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // The gateway's listeners also set this option. With this option, `bind` still fails if another
    // process listens on the address.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn report_address(
    written: &At<SocketAddr>,
    error: &io::Error,
    running: &RunningGateway,
    diagnostics: &mut Diagnostics,
) {
    let address = written.value;
    let diagnostic = Diagnostic::new(
        written.place.clone(),
        format!("cannot listen on {address}: {error}"),
    )
    .label("this address");
    match (error.kind(), running) {
        (io::ErrorKind::AddrInUse, RunningGateway::Unknown) => diagnostics.warn(diagnostic.help(
            "if the gateway itself runs, this is no fault; give [admin] a `socket` that this \
                 user may open, so that the check can tell",
        )),
        (io::ErrorKind::AddrInUse, _) => diagnostics.error(
            diagnostic.help(
                "if the gateway runs with an earlier configuration, this is no fault: check with \
                 --files-only then; otherwise another program listens there, so choose another port",
            ),
        ),
        (io::ErrorKind::PermissionDenied, _) => {
            diagnostics.error(diagnostic.help(
                "run the check as the gateway runs; ports below 1024 need CAP_NET_BIND_SERVICE",
            ))
        }
        (io::ErrorKind::AddrNotAvailable, _) => diagnostics.error(
            diagnostic
                .help("choose an address of this machine, or check elsewhere with --files-only"),
        ),
        _ => diagnostics.error(diagnostic.help("choose another address")),
    }
}

fn refuse(written: &At<String>, path: &Path, why: &str, diagnostics: &mut Diagnostics) {
    diagnostics.error(
        Diagnostic::new(
            written.place.clone(),
            format!("{} {why}", path.display()),
        )
        .label("this path")
        .help(
            "make the directory, and let the user that runs countersign write there; on another \
             machine check with --files-only",
        ),
    );
}

fn check_socket(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt as _;
    if let Err(error) = std::os::unix::net::SocketAddr::from_pathname(path) {
        return Err(format!("cannot be a socket: {error}"));
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err("is not a socket".to_owned());
        }
        // The gateway replaces an old socket at start, so an existing socket is no error.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("cannot be used: {error}")),
    }
    check_parent(path)
}

fn check_audit(path: &Path) -> Result<(), String> {
    match audit_file::check(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_parent(path),
        Err(error) => Err(format!("cannot be written: {error}")),
    }
}

/// Checks that a directory exists or can be made, and that files can be made in it.
fn check_directory(path: &Path) -> Result<(), String> {
    let mut existing = path;
    loop {
        match fs::metadata(existing) {
            Ok(metadata) if metadata.is_dir() => return check_writable(existing),
            Ok(_) => return Err(format!("needs {} as a directory", existing.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot be used: {error}")),
        }
        existing = existing.parent().unwrap_or(Path::new("/"));
        if existing.as_os_str().is_empty() {
            return check_writable(Path::new("."));
        }
    }
}

/// Checks that a file can be made at this path.
fn check_parent(path: &Path) -> Result<(), String> {
    let parent = file_access::parent(path);
    match fs::metadata(parent) {
        Ok(metadata) if metadata.is_dir() => check_writable(parent),
        Ok(_) => Err(format!("needs {} as a directory", parent.display())),
        Err(error) => Err(format!("cannot be made in {}: {error}", parent.display())),
    }
}

fn check_writable(directory: &Path) -> Result<(), String> {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(directory, access)
        .map_err(|error| format!("cannot be written in {}: {error}", directory.display()))
}
