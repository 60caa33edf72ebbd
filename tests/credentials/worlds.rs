//! Gateways with a token issuer.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_testkit::gateway::plain;
use countersign_testkit::{Answer, Idp, Settings, TestCa, TokenKey};
use serde_json::{Value, json};

use super::{ask, claims, issuer};
use crate::support::{TOKEN_ISSUER, World, replace};

/// A gateway with one token issuer, whose public keys are in a file.
pub(super) struct TokenWorld {
    world: World,
    pub(super) key: TokenKey,
}

impl Deref for TokenWorld {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl TokenWorld {
    /// Starts a gateway with one issuer and one route. `more` contains further keys of the issuer.
    pub(super) async fn with(more: &str, route: &str) -> Self {
        Self::open(|settings, keys, echo| {
            settings
                .optional_certificates()
                .section(&issuer(keys, more))
                .upstream("orders", echo)
                .route("orders", "orders", &format!("paths = [\"/**\"]\n{route}"))
        })
        .await
    }

    /// Starts a gateway. `configure` makes its settings from the file with the issuer's keys and
    /// the address of the service.
    pub(super) async fn open(
        configure: impl FnOnce(Settings, &Path, SocketAddr) -> Settings,
    ) -> Self {
        let ca = TestCa::new("example.org");
        let key = TokenKey::new("one");
        let keys = ca.write("keys.json", Idp::key_set(&[&key]).to_string());
        let world = World::of(ca, |settings, _, echo| configure(settings, &keys, echo)).await;
        Self { world, key }
    }

    /// Returns a valid token that is bound to the caller's certificate.
    pub(super) fn token(&self) -> String {
        self.token_with(json!({}))
    }

    /// Returns a valid token with changed claims. `null` removes a claim.
    pub(super) fn token_with(&self, changes: Value) -> String {
        self.key.sign(&self.claims(changes))
    }

    pub(super) fn claims(&self, changes: Value) -> Value {
        claims(&self.caller, TOKEN_ISSUER, changes)
    }

    /// Replaces one text in the configuration file.
    pub(super) fn reconfigure(&self, from: &str, to: &str) {
        let file = self.gateway.config_file();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        replace(&file, text.replacen(from, to, 1));
    }
}

/// An issuer with TLS that publishes one key, and the authority that issued its certificate.
pub(super) struct Issuer {
    pub(super) ca: TestCa,
    pub(super) idp: Idp,
    pub(super) key: TokenKey,
}

impl Issuer {
    pub(super) async fn new() -> Self {
        let ca = TestCa::new("example.org");
        let idp = Idp::start_tls(&ca.server(&["localhost"])).await;
        let key = TokenKey::new("one");
        idp.publish(&[&key]);
        Self { ca, idp, key }
    }

    /// Returns settings of a gateway that uses this issuer; see [`demanding`].
    pub(super) fn settings(&self, echo: SocketAddr, more: &str, token: &str) -> Settings {
        let settings = Settings::new(&self.ca);
        demanding(settings, &self.ca, &self.idp, echo, more, token)
    }

    /// Starts a gateway that uses this issuer; see [`demanding`].
    pub(super) async fn open(self, more: &str, token: &str) -> IssuerWorld {
        IssuerWorld::of(self, |settings, ca, idp, echo| {
            demanding(settings, ca, idp, echo, more, token)
        })
        .await
    }
}

/// Returns the `[[token_issuer]]` table of an issuer that the gateway asks over the network.
/// `more` contains further keys of the table.
pub(super) fn remote_issuer(ca: &TestCa, idp: &Idp, more: &str) -> String {
    format!(
        "[[token_issuer]]\nname = \"corporate\"\nissuer = \"{}\"\n\
         audience = [\"orders-api\"]\nroots = [{:?}]\n{more}\n",
        idp.issuer(),
        ca.root_file()
    )
}

/// Adds an issuer, and one route that requires tokens of this issuer. `more` contains further
/// keys of the issuer, and `token` further keys of the requirement.
fn demanding(
    settings: Settings,
    ca: &TestCa,
    idp: &Idp,
    echo: SocketAddr,
    more: &str,
    token: &str,
) -> Settings {
    settings
        .optional_certificates()
        .section(&remote_issuer(ca, idp, more))
        .upstream("orders", echo)
        .route(
            "orders",
            "orders",
            &format!(
                "paths = [\"/**\"]\ncallers = [\"*\"]\n\
                 token = {{ issuer = \"corporate\"{token} }}"
            ),
        )
}

/// A gateway with an issuer that it asks over the network.
pub(super) struct IssuerWorld {
    world: World,
    pub(super) idp: Idp,
    pub(super) key: TokenKey,
}

impl Deref for IssuerWorld {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl IssuerWorld {
    pub(super) async fn with(more: &str, token: &str) -> Self {
        Issuer::new().await.open(more, token).await
    }

    /// Starts a gateway with the settings that `configure` returns.
    pub(super) async fn of(
        issuer: Issuer,
        configure: impl FnOnce(Settings, &TestCa, &Idp, SocketAddr) -> Settings,
    ) -> Self {
        let Issuer { ca, idp, key } = issuer;
        let world = World::of(ca, |settings, ca, echo| configure(settings, ca, &idp, echo)).await;
        Self { world, idp, key }
    }

    pub(super) fn token(&self) -> String {
        self.signed_by(&self.key)
    }

    /// Returns a new token for each call.
    pub(super) fn signed_by(&self, key: &TokenKey) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        key.sign(&self.claims(json!({"jti": format!("number {number}")})))
    }

    pub(super) fn claims(&self, changes: Value) -> Value {
        claims(&self.caller, &self.idp.issuer(), changes)
    }

    pub(super) async fn ask(&self, token: &str) -> Answer {
        ask(&self.client(), "/a", token).await
    }

    /// Returns the problem about the issuer that `/readyz` shows to operators.
    pub(super) async fn problem(&self) -> Option<String> {
        let ready = plain(self.gateway.admin(), "GET", "/readyz", &[]).await;
        assert_eq!(ready.status, 200, "tokens are not everything");
        let problems = ready.json()["problems"].clone();
        let mut all = problems.as_array().into_iter().flatten();
        let found = all.find(|problem| problem["code"] == "token-issuer-unavailable")?;
        Some(found["detail"].as_str().unwrap().to_owned())
    }
}
