//! The service behind the measured peers, such as the gateway. It uses HTTP/1.1 without TLS, and
//! responds with prepared bytes: a body of 1 MiB for `/1m`, and of 256 bytes for all other
//! paths.

use std::io::Read as _;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Outcome;
use crate::wire::head_end;

/// The prepared responses with a small and a large body.
#[derive(Debug)]
struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

fn answer(length: usize) -> Vec<u8> {
    let mut octets =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes();
    octets.resize(octets.len() + length, b'x');
    octets
}

/// Serves on `ports` ports with two threads, until standard input ends.
pub(crate) fn serve(ports: usize) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let answers = Arc::new(Answers {
        small: answer(256),
        large: answer(1024 * 1024),
    });
    let mut addresses = Vec::new();
    for _ in 0..ports {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        addresses.push(listener.local_addr()?.to_string());
        runtime.spawn(accept(listener, Arc::clone(&answers)));
    }
    println!("{}", addresses.join(" "));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.shutdown_background();
    Ok(())
}

async fn accept(listener: TcpListener, answers: Arc<Answers>) {
    while let Ok((stream, _)) = listener.accept().await {
        let answers = Arc::clone(&answers);
        tokio::spawn(async move { converse(stream, &answers).await });
    }
}

/// Responds to all requests of one connection. The requests must not have bodies.
async fn converse(mut stream: TcpStream, answers: &Answers) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        while let Some(end) = head_end(&buffer) {
            let large = buffer.starts_with(b"GET /1m ");
            let answer = if large {
                &answers.large
            } else {
                &answers.small
            };
            stream.write_all(answer).await?;
            buffer.drain(..end);
        }
        if buffer.len() > 64 * 1024 || stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}
