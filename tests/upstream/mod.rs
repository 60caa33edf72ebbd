//! Connections to services: TLS, h2, upgrades and load balancing.

mod balance;
mod fairness;
mod flow;
mod foreign;
mod health;
mod http2;
mod http2_frames;
mod isolation;
mod names;
mod nonsense;
mod resets;
mod retries;
mod tls;
mod trailers;
mod tunnels;
mod unsent;
mod upgrade;

use std::net::SocketAddr;

use countersign_testkit::read_head;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A service that responds to every request with its name. Dropping it closes all its
/// connections, as if its process had been killed.
struct Named {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Named {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, name)
    }

    fn on(listener: TcpListener, name: &'static str) -> Self {
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(say(stream, name));
            }
        });
        Self { address, task }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn say(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    loop {
        read_head(&mut stream).await?;
        let length = name.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn https(address: SocketAddr) -> String {
    format!("https://{address}")
}
