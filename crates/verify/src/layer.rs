//! A `tower` layer: only requests with a verified assertion reach the service.
//!
//! The layer puts the [`Assertion`] into the request's extensions. If verification fails, the
//! layer responds with problem details (RFC 9457). The layer changes nothing else in the
//! request, and does not read bodies. To compare `htb`, the service reads the body and calls
//! [`Assertion::matches_body`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode, request};
use http_body_util::{Either, Full};
use tower::{Layer, Service};

use crate::claims::HEADER_LOWERCASE;
use crate::verifier::only_assertion;
use crate::{Assertion, AssertionVerifier, RequestParts, VerifyError};

/// Verifies the assertion of every request with one verifier.
///
/// The assertion contains the URI that the gateway sent. Therefore put this layer outside of all
/// layers that change the URI, such as `axum`'s `nest`.
#[derive(Clone, Debug)]
pub struct AssertionLayer {
    verifier: Arc<AssertionVerifier>,
}

impl AssertionLayer {
    /// Creates a layer from an owned or shared verifier.
    pub fn new(verifier: impl Into<Arc<AssertionVerifier>>) -> Self {
        Self {
            verifier: verifier.into(),
        }
    }
}

impl<S> Layer<S> for AssertionLayer {
    type Service = AssertionService<S>;

    fn layer(&self, inner: S) -> AssertionService<S> {
        AssertionService {
            inner,
            verifier: Arc::clone(&self.verifier),
        }
    }
}

/// The service that an [`AssertionLayer`] creates. This service verifies each request, and then
/// calls the inner service.
#[derive(Clone, Debug)]
pub struct AssertionService<S> {
    inner: S,
    verifier: Arc<AssertionVerifier>,
}

impl AssertionVerifier {
    /// Verifies the assertion in the head of a request. Use this method in frameworks
    /// without `tower`, or in handlers if only some paths need an assertion.
    ///
    /// # Errors
    ///
    /// The errors of [`only_assertion`] and [`AssertionVerifier::verify_async`],
    /// and [`VerifyError::RequestUnclear`] if [`RequestParts::from_http`] fails.
    pub async fn verify_http(&self, head: &request::Parts) -> Result<Assertion, VerifyError> {
        let lines = head.headers.get_all(HEADER_LOWERCASE);
        let token = only_assertion(lines.iter().map(HeaderValue::as_bytes))?;
        let request = RequestParts::from_http(head).map_err(|_| VerifyError::RequestUnclear)?;
        self.verify_async(token, &request).await
    }
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for AssertionService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Clone + Send + 'static,
    S::Future: Send,
    RequestBody: Send + 'static,
{
    type Response = Response<Either<ResponseBody, Full<Bytes>>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let verifier = Arc::clone(&self.verifier);
        // Tower allows `call` only on the instance on which `poll_ready` was called. Therefore this
        // request uses that instance, and the clone stays in `self` for the next request.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            match verifier.verify_http(&head).await {
                Ok(assertion) => {
                    head.extensions.insert(assertion);
                    let response = inner.call(Request::from_parts(head, body)).await?;
                    Ok(response.map(Either::Left))
                }
                Err(refusal) => Ok(problem(refusal).map(Either::Right)),
            }
        })
    }
}

/// Makes a problem details response (RFC 9457) that contains the stable error code.
fn problem(refusal: VerifyError) -> Response<Full<Bytes>> {
    let status =
        StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "code": refusal.code(),
        "detail": refusal.to_string(),
    });
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110 section 15.5.2: a 401 response must name an authentication scheme. Only
        // the gateway can satisfy the scheme `Countersign`.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Countersign"));
    }
    response
}
