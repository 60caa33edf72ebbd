//! What callers and operators can ask a running gateway about itself.

mod denials;
mod operators;
mod probe;
mod socket;
mod strangers;
mod whoami;

use countersign_testkit::{Credentials, Echo, Gateway, Settings, TestCa};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_countersign");
/// The host that requests are for unless a test says otherwise.
const HOST: &str = "orders.example.org";
/// SPIFFE path of the caller.
const CALLER: &str = "/ns/shop/sa/checkout";

/// An authority, a service that echoes, and a gateway between.
struct World {
    ca: TestCa,
    echo: Echo,
    gateway: Gateway,
    caller: Credentials,
}

impl World {
    /// A gateway with one route that takes everything, and settings of the test's
    /// own.
    async fn with(configure: impl FnOnce(Settings) -> Settings) -> Self {
        let ca = TestCa::new("example.org");
        let echo = Echo::start().await;
        let settings = configure(Settings::new(&ca)).everything_to(echo.address());
        Self {
            gateway: Gateway::start(BINARY, &settings).await,
            caller: ca.client(CALLER),
            ca,
            echo,
        }
    }
}
