//! Black-box tests of access tokens and API keys: responses to callers with and without a
//! certificate, the data that services receive, and the effect of a failing issuer.

mod api_keys;
mod denied;
mod explained;
mod forwarded_claims;
mod issuers;
mod lifetimes;
mod limits;
mod probed;
mod provider;
#[cfg(feature = "redis")]
mod redis;
mod remembered;
mod replayed;
mod tokens;
mod worlds;

use std::path::Path;

use countersign_testkit::{Answer, Client, Credentials};
use serde_json::{Value, json};

use crate::support::{TOKEN_ISSUER, get_with, now, thumbprint};

/// Returns a `[[token_issuer]]` table with keys in a file.
fn issuer(keys: &Path, more: &str) -> String {
    format!(
        "[[token_issuer]]\nname = \"corporate\"\nissuer = \"{TOKEN_ISSUER}\"\n\
         audience = [\"orders-api\", \"payments-api\"]\njwks_file = \"{}\"\n{more}\n",
        keys.display()
    )
}

/// Returns the claims of a valid token of `issuer`, bound to `caller`'s certificate. `changes`
/// replaces claims, and `null` removes a claim.
fn claims(caller: &Credentials, issuer: &str, changes: Value) -> Value {
    let now = now();
    let mut claims = json!({
        "iss": issuer, "aud": "orders-api", "sub": "alice", "client_id": "app",
        "iat": now, "exp": now + 600, "jti": "token-1", "scope": "orders:read orders:write",
        "tenant": "acme", "cnf": {"x5t#S256": thumbprint(caller)},
    });
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => members.remove(name),
            value => members.insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// Sends a GET request with a bearer token.
async fn ask(client: &Client, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    client
        .send(get_with(path, &[("authorization", &bearer)]))
        .await
        .unwrap()
}

/// Checks the status and the reason code of a refusal.
#[track_caller]
fn refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(
        (answer.status, answer.reason()),
        (status, Some(reason)),
        "{answer:?}"
    );
}
