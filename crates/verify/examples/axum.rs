//! An axum service that identifies its callers: `GATEWAY=http://127.0.0.1:9080 cargo run
//! --example axum --features fetch,tower`.

use axum::{Extension, Router, extract::Path, routing::get};
use countersign_verify::{Assertion, AssertionLayer, Verifier};
use tokio::net::TcpListener;

async fn order(Path(id): Path<u64>, Extension(caller): Extension<Assertion>) -> String {
    format!("order {id}, asked for by {}\n", caller.sub)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let verifier = Verifier::builder()
        .issuer(std::env::var("GATEWAY")?)
        .audience("orders")
        .discover()
        .build()?;
    let orders = Router::new().route("/orders/{id}", get(order));
    let service = orders.layer(AssertionLayer::new(verifier));
    Ok(axum::serve(TcpListener::bind("127.0.0.1:9001").await?, service).await?)
}
