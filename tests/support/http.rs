//! HTTP requests, and connections on which a response is in progress.

use bytes::Bytes;
use countersign_testkit::{Client, Connection};
use http::Request;

use super::HOST;

pub(crate) fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(body.into())
        .unwrap()
}

/// Makes a GET request with these header fields.
pub(crate) fn get_with(path: &str, fields: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::get(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Bytes::new()).unwrap()
}

/// Returns a connection on which a response from an [`Echo`](countersign_testkit::Echo) is in
/// progress.
pub(crate) async fn streaming(client: &Client) -> Connection {
    streaming_with(client, "").await
}

/// Same as [`streaming`], with more header fields. Each field ends with CRLF.
pub(crate) async fn streaming_with(client: &Client, fields: &str) -> Connection {
    let mut connection = client.connect().await.unwrap();
    let request = format!("GET /hang-mid-body HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
    connection.write(request.as_bytes()).await.unwrap();
    let answer = connection.read_head().await;
    assert_eq!(answer.statuses(), [200]);
    connection
}
