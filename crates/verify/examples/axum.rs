//! An axum service that identifies its callers: `cargo run --example axum --features
//! fetch,tower`.

use axum::{Extension, Router, extract::Path, routing::get};
use countersign_verify::{Assertion, AssertionLayer, Verifier};

async fn order(Path(id): Path<u64>, Extension(caller): Extension<Assertion>) -> String {
    format!("order {id}, asked for by {}\n", caller.sub)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = std::env::var("GATEWAY").unwrap_or("http://127.0.0.1:9080".to_owned());
    let verifier = Verifier::builder()
        .issuer(&gateway)
        .audience("orders")
        .jwks_url(format!("{gateway}/.well-known/jwks.json"))
        .build()?;
    let service = Router::new()
        .route("/orders/{id}", get(order))
        .layer(AssertionLayer::new(verifier));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:9001").await?;
    Ok(axum::serve(listener, service).await?)
}
