//! The client side of HTTP/2 connections to services.
//!
//! This module uses the `h2` crate directly, because with hyper one caller could harm other callers
//! on a shared connection. For each connection, this module does the following:
//!
//! - It combines small pieces of a body before it sends them.
//! - It limits the rate of resets.
//! - It does not send a head that is so large that the service would end the connection.
//! - It counts the kinds of frames that make services end connections.
//!
//! The files:
//!
//! - `state`: the state of a connection, as its frames show it
//! - `driving`: the task that drives a connection
//! - `upload`: a request's body
//! - `body`: a response's body
//! - `field_limits`: limits on heads and trailers
//! - `settings`: the settings of all HTTP/2 connections, including those of tunnels

mod body;
mod driving;
mod field_limits;
pub(super) mod settings;
mod state;
mod upload;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use self::body::H2Body;
use self::field_limits::{check_fields, field_sizes};
use self::settings::{CONNECTION_WINDOW, HEAD_SLACK, STREAM_WINDOW};
pub(in crate::upstream) use self::state::ConnectionState;
use self::state::OpenStream;
use self::upload::Upload;
use super::error::{SendError, ServiceError};
use super::resources::HeldResources;

/// Bytes of memory that h2 may use to manage small pieces of unread content. While a caller does
/// not read its response, the service may fill the flow-control windows with small pieces. h2's
/// default would allow fewer than 2,000 pieces.
const SMALL_FRAME_BUDGET: usize = 16 * 1024 * 1024;
/// Maximum number of request bytes in h2's memory that wait until the service's flow-control
/// windows have space.
const SEND_BUFFER: usize = 1024 * 1024;
/// Sends requests on a connection. The connection ends when the last clone of the `Client` was
/// dropped and all streams have ended.
#[derive(Clone)]
pub(in crate::upstream) struct Client {
    // Field order matters: `sender` must be dropped before `last`. Dropping the last clone of
    // `last` wakes the driving task, which then checks whether senders remain.
    sender: SendRequest<Bytes>,
    last: Arc<WakeOnDrop>,
}

struct WakeOnDrop(Arc<ConnectionState>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.note_no_clients();
    }
}

/// Starts HTTP/2 on a connection, and spawns a task that drives it. `max_head` is the maximum size
/// of a response's head in bytes. The connection holds `resources` until it is closed.
///
/// # Errors
/// Returns an error if the connection fails before the service has sent its SETTINGS frame.
pub(super) async fn open<S>(
    stream: S,
    max_head: u32,
    resources: HeldResources,
) -> Result<Client, ServiceError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let state = Arc::new(ConnectionState::default());
    let stream = state::observed(stream, Arc::clone(&state));
    let (sender, connection) = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(max_head.saturating_add(HEAD_SLACK))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(stream)
        .await?;
    let driving = driving::drive(connection, Arc::clone(&state));
    tokio::spawn(async move {
        driving.await;
        drop(resources);
    });
    let client = Client {
        sender,
        last: Arc::new(WakeOnDrop(state)),
    };
    client.state().settings().await?;
    Ok(client)
}

impl Client {
    pub(in crate::upstream) fn state(&self) -> &Arc<ConnectionState> {
        &self.last.0
    }

    pub(in crate::upstream) fn is_closed(&self) -> bool {
        self.state().is_closed()
    }

    /// Returns how many concurrent streams the service allows.
    pub(in crate::upstream) fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Sends a request and waits for the head of its response. For each interim response before
    /// that head, calls `on_interim` with the status. If the returned future is dropped before the
    /// head has arrived, the stream is reset.
    ///
    /// # Errors
    /// Returns an error if there is no response. The error contains the request if no byte of it
    /// was sent.
    pub(in crate::upstream) async fn send<B>(
        &mut self,
        request: Request<B>,
        on_interim: impl Fn(StatusCode),
    ) -> Result<Response<H2Body>, SendError<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Err(error) = poll_fn(|context| self.sender.poll_ready(context)).await {
            return Err(SendError::unsent(error, request));
        }
        let (mut parts, body) = request.into_parts();
        self.check_head(&parts)?;
        let is_whole = body.is_end_stream();
        if !is_whole {
            add_length(&mut parts, &body);
        }
        let head = Request::from_parts(parts, ());
        let (response, stream) = self
            .sender
            .send_request(head, is_whole)
            .map_err(ServiceError::from)?;
        let upload = match is_whole {
            true => Upload::none(),
            false => Upload::begin(stream, body, self.state()).await,
        };
        let mut exchange = Exchange {
            response: Some(response),
            upload,
            open: Some(OpenStream::begin(self.state())),
        };
        let answer = poll_fn(|context| exchange.poll(context, &on_interim)).await;
        answer.map_err(SendError::from)
    }

    /// Refuses a head that is larger than the service accepts. Some services end the whole
    /// connection if they receive such a head.
    fn check_head(&self, parts: &request::Parts) -> Result<(), ServiceError> {
        let fields = || {
            let pseudo = pseudo_headers(parts).into_iter();
            pseudo.chain(field_sizes(&parts.headers))
        };
        check_fields(self.state(), fields)
    }
}

/// A request that was sent, or is being sent, and has received no response head yet.
struct Exchange {
    response: Option<ResponseFuture>,
    upload: Upload,
    /// Counts the stream as open. `None` after the response has started.
    open: Option<OpenStream>,
}

impl Exchange {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        on_interim: &impl Fn(StatusCode),
    ) -> Poll<Result<Response<H2Body>, ServiceError>> {
        if self.upload.poll_failed(context) {
            return Poll::Ready(Err(ServiceError::Upload));
        }
        let Some(response) = &mut self.response else {
            return Poll::Pending;
        };
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(context) {
            on_interim(interim.status());
        }
        let Poll::Ready(answer) = Pin::new(response).poll(context) else {
            return Poll::Pending;
        };
        self.response = None;
        let Some(open) = self.open.take() else {
            return Poll::Pending;
        };
        let upload = std::mem::replace(&mut self.upload, Upload::none());
        Poll::Ready(match answer {
            Ok(answer) => {
                let length = announced_length(answer.headers());
                Ok(answer.map(|stream| H2Body::new(stream, upload, open, length)))
            }
            Err(_) if open.state().is_silent() => Err(ServiceError::Silent),
            Err(error) => Err(error.into()),
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let (Some(response), Some(open)) = (self.response.take(), self.open.take()) {
            open.abandon(Box::new(response));
        }
    }
}

/// Returns the value of the first `Content-Length` field, if it is a number. A response with
/// several different values is refused elsewhere.
fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Adds `Content-Length` if the length of the body is known and the method allows the field (RFC
/// 9110 section 8.6).
fn add_length(parts: &mut request::Parts, body: &impl Body) {
    let Some(length) = body.size_hint().exact() else {
        return;
    };
    let expects_content = ![Method::GET, Method::HEAD, Method::DELETE].contains(&parts.method);
    if (length > 0 || expects_content) && !parts.headers.contains_key(CONTENT_LENGTH) {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
}

/// Returns the lengths of the names and values of the pseudo-header fields (RFC 9113 section
/// 8.3.1).
fn pseudo_headers(parts: &request::Parts) -> [(usize, usize); 4] {
    let path = parts
        .uri
        .path_and_query()
        .map_or(1, |path| path.as_str().len());
    let authority = parts.uri.authority().map_or(0, |name| name.as_str().len());
    let scheme = parts.uri.scheme_str().map_or(0, str::len);
    [
        (":method".len(), parts.method.as_str().len()),
        (":path".len(), path),
        (":authority".len(), authority),
        (":scheme".len(), scheme),
    ]
}
