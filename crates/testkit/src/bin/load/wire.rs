//! The part of HTTP/1.1 that the load generator needs: one fixed request, and responses with
//! `Content-Length`.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{HOST, Outcome};

const BUFFER: usize = 64 * 1024;

/// Makes a `GET` request for a path.
pub(crate) fn request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: load/1\r\nAccept: */*\r\nX-Request-Id: 2f0c8a1e-55d1-4f7b-9b1a-0e6f3f6d9a42\r\n\r\n"
    )
    .into_bytes()
}

/// Returns the length of the head at the start of `bytes`, including the empty line at its end.
/// Returns `None` if the head is not complete.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The status of a response, and the length of its body in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) octets: u64,
}

/// Parses the status and the content length from a response head.
fn parse(head: &[u8]) -> Outcome<(u16, u64)> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .ok_or("no status line")?
        .parse()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .ok_or("an answer without length")?
        .1
        .trim()
        .parse()?;
    Ok((status, length))
}

/// A connection that sends requests and reads their responses, one after the other.
#[derive(Debug)]
pub(crate) struct Exchange<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: vec![0; BUFFER],
        }
    }

    pub(crate) async fn send(&mut self, request: &[u8]) -> Outcome<Answer> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let mut filled = 0;
        loop {
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            let count = self.stream.read(room).await?;
            if count == 0 {
                return Err("the peer closed, or sent too long a head".into());
            }
            filled += count;
            let got = self.buffer.get(..filled).unwrap_or_default();
            let Some(end) = head_end(got) else { continue };
            let (status, length) = parse(got.get(..end).unwrap_or_default())?;
            let mut left = length
                .checked_sub((filled - end) as u64)
                .ok_or("more octets than the answer has")?;
            while left > 0 {
                let count = self.stream.read(&mut self.buffer).await? as u64;
                if count == 0 || count > left {
                    return Err("the body is shorter or longer than said".into());
                }
                left -= count;
            }
            return Ok(Answer {
                status,
                octets: length,
            });
        }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}
