//! Tests with a real identity provider: `oidc-provider` for Node.js. It uses mutual TLS,
//! certificate-bound tokens, introspection and key rotation.

use std::net::SocketAddr;
use std::process::Stdio;

use countersign_testkit::skipped::tool;
use countersign_testkit::{Client, Credentials, Echo, Gateway, Leaf, Settings, TestCa, in_time};
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{ask, refused};
use crate::support::{BINARY, CALLER, HOST, Run, assertion_claims, script};

const LIBRARY: &str = "oidc-provider for Node";

/// A running provider. It ends when its standard input is closed.
struct Provider {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Provider {
    /// Starts the provider. Returns `None` if Node.js or the library is missing.
    async fn start(ca: &TestCa) -> Option<Self> {
        let mut command = script::node("idp.mjs");
        // The warnings of the provider are not needed.
        command.stderr(Stdio::null());
        let mut child = script::start(command, LIBRARY)?;
        let server = ca.server(&["localhost"]);
        let said = json!({
            "chain": server.chain_pem(), "key": server.key_pem(),
            "root": std::fs::read_to_string(ca.root_file()).unwrap(),
            "app": ca.spiffe(CALLER), "gateway": "gateway.example.org",
        });
        let mut input = child.stdin.take().unwrap();
        // The error is ignored, because a script that cannot start does not read its input.
        let _ = input.write_all(format!("{said}\n").as_bytes()).await;
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = in_time("the provider's start", output.next_line()).await;
        let Ok(Some(port)) = first else {
            let status = child.wait().await.unwrap();
            assert_eq!(
                status.code(),
                Some(script::ABSENT),
                "the provider ended with {status}"
            );
            tool(LIBRARY, false);
            return None;
        };
        tool(LIBRARY, true);
        Some(Self {
            _child: child,
            input,
            output,
            address: SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())),
        })
    }

    fn issuer(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    async fn rotate(&mut self) {
        self.input.write_all(b"rotate\n").await.unwrap();
        let line = in_time("a new key", self.output.next_line()).await.unwrap();
        assert_eq!(line.as_deref(), Some("rotated"));
    }

    /// Gets a token for a resource, bound to the client's certificate.
    async fn token(&self, client: &Credentials, resource: &str) -> String {
        let form = format!(
            "grant_type=client_credentials&client_id=app&scope=orders%3Aread&resource={resource}"
        );
        let answer = self.post(client, "/token", form).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    async fn post(
        &self,
        client: &Credentials,
        path: &str,
        form: String,
    ) -> countersign_testkit::Answer {
        let request = Request::post(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(bytes::Bytes::from(form))
            .unwrap();
        let host = format!("localhost:{}", self.address.port());
        Client::new(self.address, "localhost")
            .host(&host)
            .with(client)
            .send(request)
            .await
            .unwrap()
    }
}

const JWT: &str = "https%3A%2F%2Forders.example.org";
const OPAQUE: &str = "https%3A%2F%2Forders.example.org%2Fopaque";

async fn gateway(ca: &TestCa, provider: &Provider, echo: &Echo, more: &str) -> Gateway {
    let settings = Settings::new(ca)
        .section(&format!(
            "[[token_issuer]]\nname = \"corporate\"\nissuer = \"{}\"\n\
             audience = [\"orders-api\"]\nroots = [\"{}\"]\n{more}\n",
            provider.issuer(),
            ca.root_file().display()
        ))
        .set("admin", "socket", "\"admin.sock\"")
        .upstream("orders", echo.address())
        .route(
            "orders",
            "orders",
            "paths = [\"/**\"]\ncallers = [\"*\"]\n\
             token = { issuer = \"corporate\", scopes = [\"orders:read\"] }",
        );
    Gateway::start(BINARY, &settings).await
}

#[tokio::test]
async fn bound_tokens_of_a_real_provider_pass_and_its_keys_may_rotate() {
    let ca = TestCa::new("example.org");
    let Some(mut provider) = Provider::start(&ca).await else {
        return;
    };
    let echo = Echo::start().await;
    let gateway = gateway(&ca, &provider, &echo, "required_at_start = true").await;
    let caller = ca.client(CALLER);
    let client = gateway.client(HOST).with(&caller);
    let token = provider.token(&caller, JWT).await;
    let claims = assertion_claims(&ask(&client, "/a", &token).await);
    assert_eq!(claims["token"]["client_id"], "app");
    assert_eq!(claims["token"]["iss"], provider.issuer());
    assert_eq!(claims["token"]["scope"], "orders:read");
    let thief = gateway.client(HOST).with(&ca.client("/ns/shop/sa/other"));
    refused(
        &ask(&thief, "/a", &token).await,
        401,
        "token-binding-mismatch",
    );
    provider.rotate().await;
    let next = provider.token(&caller, JWT).await;
    assert_ne!(kid(&next), kid(&token));
    in_time("the new key", async {
        loop {
            let answer = ask(&client, "/a", &next).await;
            if answer.status == 200 {
                return;
            }
            refused(&answer, 401, "token-signature");
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        }
    })
    .await;
    assert_eq!(
        ask(&client, "/a", &token).await.status,
        200,
        "its key is still published"
    );
}

fn kid(token: &str) -> Value {
    use base64ct::Encoding as _;
    let header = token.split('.').next().unwrap();
    let header = base64ct::Base64UrlUnpadded::decode_vec(header).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].clone()
}

#[tokio::test]
async fn opaque_tokens_are_introspected_over_mutual_tls_until_they_are_revoked() {
    let ca = TestCa::new("example.org");
    let Some(provider) = Provider::start(&ca).await else {
        return;
    };
    let echo = Echo::start().await;
    let own = ca.issue(Leaf::new().dns("gateway.example.org"));
    let certificate = ca.write("introspection.pem", own.chain_pem());
    let key = ca.write("introspection.key", own.key_pem());
    let gateway = gateway(
        &ca,
        &provider,
        &echo,
        &format!(
            "format = \"opaque\"\n[token_issuer.introspection]\n\
             endpoint = \"{}/token/introspection\"\nclient_id = \"gateway\"\n\
             authentication = \"certificate\"\ncertificate = \"{}\"\nprivate_key = \"{}\"",
            provider.issuer(),
            certificate.display(),
            key.display()
        ),
    )
    .await;
    let caller = ca.client(CALLER);
    let client = gateway.client(HOST).with(&caller);
    let token = provider.token(&caller, OPAQUE).await;
    assert!(!token.contains('.'), "it is opaque");
    let claims = assertion_claims(&ask(&client, "/a", &token).await);
    assert_eq!(claims["token"]["client_id"], "app");
    let thief = gateway.client(HOST).with(&ca.client("/ns/shop/sa/other"));
    refused(
        &ask(&thief, "/a", &token).await,
        401,
        "token-binding-mismatch",
    );
    refused(&ask(&client, "/a", "made-up").await, 401, "token-inactive");

    let form = format!("client_id=app&token={token}");
    let revoked = provider.post(&caller, "/token/revocation", form).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    // The gateway caches the token for some time. An operator can empty the cache at once.
    let answer = ask(&client, "/a", &token).await;
    let hash = assertion_claims(&answer)["token"]["ath"]
        .as_str()
        .unwrap()
        .to_owned();
    let purge = async |more: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["--json", "token", "purge", "--config"]);
        command.arg(gateway.config_file()).args(more);
        Run::of_async(&mut command).await.done().json()
    };
    // One hash in 64 begins with `-`. The command must not read it as an option.
    purge(&["--hash", "-of-another-token"]).await;
    assert_eq!(ask(&client, "/a", &token).await.status, 200);
    let said = purge(&["--hash", &hash]).await;
    assert_eq!(said["forgotten"], 1, "{said}");
    refused(&ask(&client, "/a", &token).await, 401, "token-inactive");
    assert_eq!(purge(&[]).await["issuers"], 1);
}
