//! Callers that are slow, that disconnect early, or that must be refused.

use std::sync::Arc;
use std::time::Duration;

use countersign_testkit::{Client, ConnectError, Protocol, in_time};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::World;
use crate::callers::{HOST, STEADY, ask, tunnel_head};
use crate::service::content;

const LARGE: usize = 2 * 1024 * 1024;

pub(crate) fn start(world: &Arc<World>, workers: &mut JoinSet<()>) {
    for number in 0..2 {
        workers.spawn(slow_writers(Arc::clone(world), number));
        workers.spawn(slow_readers(Arc::clone(world), number));
    }
    for number in 0..3 {
        workers.spawn(leavers(Arc::clone(world), number));
    }
    workers.spawn(intruders(Arc::clone(world)));
}

/// Sends requests in pieces of 7 bytes. Slow requests must get a correct response too.
async fn slow_writers(world: Arc<World>, mut number: usize) {
    let ledger = &world.ledger;
    while !ledger.over() {
        number += 1;
        let (caller, client) = world.callers.some(number);
        let id = ledger.id();
        let path = format!("/{}/{id}", STEADY[number / 2 % STEADY.len()]);
        let body = content(&id, 120);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Caller: {caller}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let octets = [head.as_bytes(), &body].concat();
        let Ok(mut connection) = client.connect().await else {
            ledger.fault(format!("{caller} cannot connect to write slowly"));
            continue;
        };
        for drop in octets.chunks(7) {
            let _ = connection.write(drop).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let answer = connection.read_until(|_| false).await;
        if answer.statuses() == [200] && answer.octets.ends_with(&body) {
            ledger.count("slow-requests");
            ledger.answered(&path);
        } else {
            ledger.fault(format!("slow {path}: {}", answer.text()));
        }
    }
}

/// Reads large responses with pauses, so that they arrive slowly. The responses must be correct
/// and complete.
async fn slow_readers(world: Arc<World>, mut number: usize) {
    let ledger = &world.ledger;
    while !ledger.over() {
        number += 1;
        let (caller, client) = world.callers.some(number);
        let protocol = Protocol::BOTH[number % 2];
        let id = ledger.id();
        let path = format!("/{}/{id}", STEADY[number / 2 % STEADY.len()]);
        let request = Request::get(&path)
            .header("x-caller", &caller)
            .header("x-size", LARGE)
            .body(bytes::Bytes::new())
            .expect("a request");
        let sipped = async {
            let mut session = client.protocol(protocol).session().await.ok()?;
            let response = session.start(request).await.ok()?;
            let status = response.status();
            let mut body = response.into_body();
            let mut read = Vec::with_capacity(LARGE);
            while let Some(frame) = body.frame().await {
                read.extend_from_slice(frame.ok()?.data_ref()?);
                if read.len() % 5 == 0 {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
            }
            Some((status, read))
        };
        match tokio::time::timeout(Duration::from_secs(30), sipped).await {
            Ok(Some((StatusCode::OK, read))) if read == content(&id, LARGE) => {
                ledger.count("slow-answers");
                ledger.answered(&path);
            }
            Ok(Some((status, read))) => {
                ledger.fault(format!("sips of {path}: {status}, {} octets", read.len()));
            }
            _ => ledger.fault(format!("sips of {path}: no complete answer")),
        }
    }
}

/// Disconnects at eight different moments of a connection, in turn.
async fn leavers(world: Arc<World>, mut number: usize) {
    while !world.ledger.over() {
        number += 1;
        let (caller, client) = world.callers.some(number);
        leave(&world, number, &caller, &client).await;
        world.ledger.count("left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn leave(world: &World, number: usize, caller: &str, client: &Client) {
    // The service changes after 16 numbers, so that each service gets all kinds of disconnects.
    // Tunnels always use a service that supports them.
    let service = match number % 8 {
        6 => STEADY[0],
        _ => STEADY[number / 16 % STEADY.len()],
    };
    let path = format!("/{service}/{}", world.ledger.id());
    let head = |more: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Caller: {caller}\r\n{more}\r\n")
    };
    let raw = |octets: String| async move {
        if let Ok(mut connection) = client.connect().await {
            let _ = connection.write(octets.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(number as u64 % 30)).await;
        }
    };
    match number % 8 {
        0 => drop(TcpStream::connect(world.gateway.listener()).await),
        1 => {
            // Sends the first bytes of a ClientHello.
            if let Ok(mut stream) = TcpStream::connect(world.gateway.listener()).await {
                let _ = stream
                    .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03")
                    .await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        2 => drop(client.connect().await),
        3 => raw("GET /steady/never HTTP/1.1\r\nHos".to_owned()).await,
        4 => raw(head("Content-Length: 1000000\r\n") + "the beginning").await,
        5 => raw(head("Transfer-Encoding: chunked\r\n") + "ff\r\nhalf a chunk").await,
        6 => raw(tunnel_head(&path, caller) + "early words").await,
        _ => {
            // Starts to read a response, and disconnects before its end.
            let protocol = Protocol::BOTH[number / 8 % 2];
            let request = Request::get(&path)
                .header("x-caller", caller)
                .header("x-size", LARGE)
                .body(bytes::Bytes::new())
                .expect("a request");
            if let Ok(mut session) = client.clone().protocol(protocol).session().await
                && let Ok(response) = session.start(request).await
            {
                let _ = response.into_body().frame().await;
            }
        }
    }
}

/// Sends requests as callers that the gateway must refuse, and checks the TLS alert or the
/// reason code of the refusal.
async fn intruders(world: Arc<World>) {
    let ledger = &world.ledger;
    while !ledger.over() {
        for (who, client, alert) in [
            ("nobody", &world.callers.nobody, 116),
            ("a foreigner", &world.callers.foreigner, 48),
        ] {
            let refusal = in_time("a refusal", client.refusal()).await;
            match &refusal {
                ConnectError::Alert(_) if refusal.alert() == Some(alert) => ledger.count("refused"),
                other => ledger.fault(format!("{who} met {other} instead of alert {alert}")),
            }
        }
        let ask = ask(&world, "steady", "stranger", 1);
        match world.callers.stranger.send(ask.request.clone()).await {
            Ok(answer)
                if answer.status == 403
                    && answer.header("countersign-reason") == Some("caller-not-allowed") =>
            {
                ledger.count("refused");
            }
            other => ledger.fault(format!("a stranger met {other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}
