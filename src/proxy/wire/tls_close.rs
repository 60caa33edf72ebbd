//! How a TLS connection to a caller is closed.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio_rustls::server::TlsStream;

use super::socket::{CallerSocket, LingerLimits};

/// How long the farewell of a connection may take.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Closes a connection so that its caller can read what was sent last, whatever it
/// still sends itself.
pub(crate) async fn close_gracefully(mut stream: TlsStream<CallerSocket>) {
    stream.get_ref().0.gather();
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    stream.into_inner().0.linger(LingerLimits::CALLER).await;
}
