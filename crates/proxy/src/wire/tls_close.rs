//! Closes a caller's TLS connection.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio_rustls::server::TlsStream;

use super::socket::{CallerSocket, LingerLimits};

/// Maximum time for sending `close_notify`.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Closes a connection so that the caller can read the last bytes, even if the caller is still
/// sending a request.
pub(crate) async fn close_gracefully(mut stream: TlsStream<CallerSocket>) {
    stream.get_ref().0.cork();
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    stream.into_inner().0.linger(LingerLimits::CALLER).await;
}
