//! The cache of callers' chains. A caller cannot evict the entries of other callers.

use countersign_testkit::gateway::plain;
use countersign_testkit::{Authority, AuthoritySpec, Credentials, TestCa, TlsVersion};

use crate::support::{CALLER, HOST, World};

/// The number of chains of each kind in the flood.
const FLOOD: usize = 150;

/// The values of the chain metrics in `/metrics`.
#[derive(Debug, Clone, Copy)]
struct Chains {
    kept: u64,
    known: u64,
    verified: u64,
}

async fn chains(world: &World) -> Chains {
    let said = plain(world.gateway.admin(), "GET", "/metrics", &[])
        .await
        .body;
    let number = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("{name} in {said}"))
    };
    Chains {
        kept: number("countersign_chains_kept "),
        known: number("countersign_chains_known_total "),
        verified: number("countersign_chains_verified_total "),
    }
}

/// Returns the resident memory of the gateway in KiB.
fn resident(world: &World) -> u64 {
    let path = format!("/proc/{}/status", world.gateway.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

async fn call(world: &World, who: &Credentials, version: TlsVersion) {
    let client = world.gateway.client(HOST).with(who).tls(version);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_flood_of_junk_chains_neither_fills_memory_nor_drives_out_a_known_caller() {
    let world = World::open().await;
    call(&world, &world.caller, TlsVersion::V13).await;
    call(&world, &world.caller, TlsVersion::V12).await;
    let before = chains(&world).await;
    assert_eq!((before.kept, before.verified), (1, 1), "{before:?}");
    let memory = resident(&world);

    // Clients without a valid certificate, each with a different chain.
    for number in 0..FLOOD {
        let root = Authority::root(&AuthoritySpec::new(&format!("stranger {number}")));
        let stranger = TestCa::new("example.org")
            .client(CALLER)
            .with_extra(root.der().clone());
        let version = TlsVersion::BOTH[number % 2];
        let client = world.gateway.client(HOST).with(&stranger).tls(version);
        assert!(client.get("/a").await.is_err());
    }
    let strangers = chains(&world).await;
    assert_eq!(
        strangers.kept, 1,
        "nothing of theirs is kept: {strangers:?}"
    );

    // A valid caller that each time adds other useless certificates after its chain.
    let noisy = world.ca.client("/ns/shop/sa/noisy");
    for number in 0..FLOOD {
        let junk = Authority::root(&AuthoritySpec::new(&format!("junk {number}")));
        let with_junk = (0..5).fold(noisy.clone(), |chain, _| {
            chain.with_extra(junk.der().clone())
        });
        call(&world, &with_junk, TlsVersion::BOTH[number % 2]).await;
    }
    let flooded = chains(&world).await;
    assert!(flooded.kept <= strangers.kept + FLOOD as u64, "{flooded:?}");

    // The first caller is still in the cache, so that its chain is not verified again.
    call(&world, &world.caller, TlsVersion::V13).await;
    let after = chains(&world).await;
    assert_eq!(after.verified, flooded.verified, "{flooded:?} {after:?}");
    assert!(after.known > flooded.known, "{flooded:?} {after:?}");
    let grown = resident(&world).saturating_sub(memory);
    assert!(grown < 48 * 1024, "{grown} KiB for {} chains", 2 * FLOOD);
}
