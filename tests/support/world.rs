//! A running gateway with what belongs around it.

use std::net::SocketAddr;

use countersign_testkit::{Client, Credentials, Echo, Gateway, Settings, TestCa};

use super::{BINARY, CALLER, HOST};

/// A gateway and a caller that it knows; the service is the test's own.
pub(crate) struct Front {
    pub(crate) gateway: Gateway,
    pub(crate) caller: Credentials,
}

impl Front {
    /// An upstream with these endpoints and keys, and a route that takes everything.
    pub(crate) async fn open(ca: &TestCa, endpoints: &[String], more: &str) -> Self {
        let settings = Settings::new(ca)
            .upstream_at("orders", endpoints, more)
            .route(
                "orders",
                "orders",
                "paths = [\"/**\"]\ncallers = [\"*\"]\nupgrade = [\"websocket\", \"foo\"]\n",
            );
        Self::with(ca, &settings).await
    }

    /// Settings of the test's own.
    pub(crate) async fn with(ca: &TestCa, settings: &Settings) -> Self {
        Self {
            gateway: Gateway::start(BINARY, settings).await,
            caller: ca.client(CALLER),
        }
    }

    /// The caller, with its certificate.
    pub(crate) fn client(&self) -> Client {
        self.gateway.client(HOST).with(&self.caller)
    }
}

/// An authority, a service that echoes, a gateway between, and a caller that it knows.
pub(crate) struct World {
    pub(crate) ca: TestCa,
    pub(crate) echo: Echo,
    pub(crate) gateway: Gateway,
    pub(crate) caller: Credentials,
}

impl World {
    /// One route that accepts all requests from every authenticated caller.
    pub(crate) async fn open() -> Self {
        Self::with(|settings, echo| settings.everything_to(echo)).await
    }

    /// One route that accepts all requests without authentication.
    pub(crate) async fn open_to_all() -> Self {
        Self::with(|settings, echo| {
            settings
                .optional_certificates()
                .upstream("orders", echo)
                .route(
                    "open",
                    "orders",
                    "paths = [\"/**\"]\nauthenticate = \"none\"\n",
                )
        })
        .await
    }

    /// Settings of the test's own, for a service at this address.
    pub(crate) async fn with(configure: impl FnOnce(Settings, SocketAddr) -> Settings) -> Self {
        let ca = TestCa::new("example.org");
        Self::of(ca, |settings, _, echo| configure(settings, echo)).await
    }

    /// An authority and settings of the test's own, for a service at this address.
    pub(crate) async fn of(
        ca: TestCa,
        configure: impl FnOnce(Settings, &TestCa, SocketAddr) -> Settings,
    ) -> Self {
        let echo = Echo::start().await;
        let settings = configure(Settings::new(&ca), &ca, echo.address());
        Self {
            gateway: Gateway::start(BINARY, &settings).await,
            caller: ca.client(CALLER),
            ca,
            echo,
        }
    }

    /// The caller, with its certificate.
    pub(crate) fn client(&self) -> Client {
        self.anonymous().with(&self.caller)
    }

    /// A client without certificate.
    pub(crate) fn anonymous(&self) -> Client {
        self.gateway.client(HOST)
    }

    /// A client with another SPIFFE path.
    pub(crate) fn client_as(&self, path: &str) -> Client {
        self.anonymous().with(&self.ca.client(path))
    }
}

/// Returns the private memory of a gateway. Pages of its code are not counted.
pub(crate) fn resident_kib(gateway: &Gateway) -> u64 {
    std::fs::read_to_string(format!("/proc/{}/status", gateway.pid()))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))
        .unwrap()
        .parse()
        .unwrap()
}
