//! Running gateways with an authority, a service and a caller.

use std::net::SocketAddr;

use countersign_testkit::{Client, Credentials, Echo, Gateway, Settings, TestCa};

use super::{BINARY, CALLER, HOST};

/// A running gateway and its allowed caller. The test itself provides the service.
pub(crate) struct Front {
    pub(crate) gateway: Gateway,
    pub(crate) caller: Credentials,
}

impl Front {
    /// Starts a gateway. It has one upstream with these endpoints and further keys (`more`), and
    /// one route for all paths and callers.
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

    /// Starts a gateway with these settings.
    pub(crate) async fn with(ca: &TestCa, settings: &Settings) -> Self {
        Self {
            gateway: Gateway::start(BINARY, settings).await,
            caller: ca.client(CALLER),
        }
    }

    /// Returns a client with the certificate of the allowed caller.
    pub(crate) fn client(&self) -> Client {
        self.gateway.client(HOST).with(&self.caller)
    }
}

/// A certificate authority, an echo service, a gateway in front of it, and an allowed caller.
pub(crate) struct World {
    pub(crate) ca: TestCa,
    pub(crate) echo: Echo,
    pub(crate) gateway: Gateway,
    pub(crate) caller: Credentials,
}

impl World {
    /// Starts a gateway with one route for all requests of every authenticated caller.
    pub(crate) async fn open() -> Self {
        Self::with(|settings, echo| settings.everything_to(echo)).await
    }

    /// Starts a gateway with one route for all requests, without authentication.
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

    /// Starts a gateway. `configure` makes its settings from the address of the echo service.
    pub(crate) async fn with(configure: impl FnOnce(Settings, SocketAddr) -> Settings) -> Self {
        let ca = TestCa::new("example.org");
        Self::of(ca, |settings, _, echo| configure(settings, echo)).await
    }

    /// Starts a gateway. `configure` makes its settings from the authority and the address of the
    /// echo service.
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

    /// Returns a client with the certificate of the allowed caller.
    pub(crate) fn client(&self) -> Client {
        self.anonymous().with(&self.caller)
    }

    /// Returns a client without a certificate.
    pub(crate) fn anonymous(&self) -> Client {
        self.gateway.client(HOST)
    }

    /// Returns a client whose certificate has this SPIFFE path.
    pub(crate) fn client_as(&self, path: &str) -> Client {
        self.anonymous().with(&self.ca.client(path))
    }
}

/// Returns the private memory of a gateway in KiB. Memory-mapped code is not counted.
pub(crate) fn resident_kib(gateway: &Gateway) -> u64 {
    std::fs::read_to_string(format!("/proc/{}/status", gateway.pid()))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))
        .unwrap()
        .parse()
        .unwrap()
}
