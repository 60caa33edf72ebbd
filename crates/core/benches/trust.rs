//! Measures three things. First, the verification of a caller's chain, with and without the path
//! cache. Second, whole handshakes with both sides: with an unknown chain, with a chain in the
//! cache, and resumed. Third, loading a large CRL, and loading it again without changes.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark stops when its own preparations fail"
)]

#[path = "../../../tests/support/trust.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use countersign_core::clock;
use countersign_core::tls::handshake_notes::with_notes;
use countersign_core::tls::{
    ClientCertificate, Credentials as Ours, ServerEntry, ServerEntryConfig, ServerNames,
    TicketPolicy, TicketSource,
};
use countersign_core::trust::{
    ClientTrust, PathCache, Predecessors, TrustBundle, TrustBundleConfig,
};
use countersign_testkit::{Authority, AuthoritySpec, Credentials, Crl, Leaf, TestCa};
use divan::Bencher;
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use rustls_pki_types::{CertificateRevocationListDer, ServerName, UnixTime};

fn main() {
    divan::main();
}

fn config(ca: &TestCa, lists: Vec<Vec<u8>>) -> TrustBundleConfig {
    let crls = lists
        .into_iter()
        .map(CertificateRevocationListDer::from)
        .collect();
    TrustBundleConfig {
        intermediates: vec![ca.intermediate().der().clone()],
        ..support::bundle_config(vec![ca.root().der().clone()], crls)
    }
}

fn build(config: TrustBundleConfig) -> TrustBundle {
    TrustBundle::build(config, i64::try_from(clock::unix_now()).unwrap()).unwrap()
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now()))
}

/// Returns the CRLs of the root and of the intermediate. The intermediate's CRL has `entries`
/// entries.
fn lists(ca: &TestCa, entries: u32) -> Vec<Vec<u8>> {
    let crl = (0..entries).fold(Crl::new(), |crl, number| {
        crl.revoke(&[&[0x51; 12][..], &number.to_be_bytes()].concat())
    });
    vec![
        Crl::new().signed_by(ca.root()),
        crl.signed_by(ca.intermediate()),
    ]
}

fn prepared(entries: Option<u32>) -> (ClientTrust, Credentials) {
    let ca = TestCa::new("example.org");
    let lists = entries
        .map(|entries| lists(&ca, entries))
        .unwrap_or_default();
    let trust = ClientTrust::new(vec![Arc::new(build(config(&ca, lists)))]).unwrap();
    (trust, ca.client("/a"))
}

/// A benchmark runs once with each of these numbers of entries in the intermediate's CRL. `None`
/// means that there are no CRLs and no revocation check.
const LISTS: [Option<u32>; 3] = [None, Some(1), Some(100_000)];

#[divan::bench(args = LISTS)]
fn chain_anew(bencher: Bencher<'_, '_>, entries: &Option<u32>) {
    let (trust, caller) = prepared(*entries);
    bencher.bench_local(|| {
        trust
            .verify(&caller.chain[0], &caller.chain[1..], now())
            .unwrap()
    });
}

#[divan::bench(args = LISTS)]
fn chain_known(bencher: Bencher<'_, '_>, entries: &Option<u32>) {
    let (trust, caller) = prepared(*entries);
    let first = trust
        .admit(&caller.chain[0], &caller.chain[1..], now())
        .unwrap();
    first.pending.unwrap().commit();
    bencher.bench_local(|| {
        trust
            .admit(&caller.chain[0], &caller.chain[1..], now())
            .unwrap()
    });
}

/// The reasons why a hostile chain is expensive to verify.
#[derive(Debug, Clone, Copy)]
enum Hostile {
    /// Seven forged certificates with the name of the real intermediate. By its name, each of them
    /// could be the issuer of the leaf.
    Namesakes,
    /// Seven self-signed certificates with the same name. By its name, each of them could be the
    /// issuer of the others.
    Clique,
    /// A leaf with a thousand subject alternative names.
    Names,
    /// A leaf with an extension of 28,000 bytes, so that the chain has almost the maximum
    /// length.
    Bytes,
}

fn hostile(ca: &TestCa, how: Hostile) -> Credentials {
    let named = |name: &str| Authority::root(&AuthoritySpec::new(name));
    let leaf = || Leaf::with_uri("spiffe://example.org/a");
    let root = named("example.org root");
    let forged: Vec<_> = (0..7).map(|_| named("example.org intermediate")).collect();
    let mut chain = forged[0].issue(leaf()).without_intermediates();
    match how {
        Hostile::Namesakes => {
            let certificates = forged.iter().map(|one| root.cross_sign(one));
            chain.chain.extend(certificates);
        }
        Hostile::Clique => chain
            .chain
            .extend(forged.iter().map(|one| one.der().clone())),
        Hostile::Names => {
            let leaf = (0..1000).fold(leaf(), |leaf, _| leaf.raw_name(0x82, b"a"));
            chain = forged[0].issue(leaf).without_intermediates();
            chain.chain.push(ca.intermediate().der().clone());
        }
        Hostile::Bytes => {
            let leaf = leaf().extension(&[1, 3, 6, 1, 4, 1, 99999, 1], false, &[0x05; 28_000]);
            chain = forged[0].issue(leaf).without_intermediates();
            chain.chain.push(ca.intermediate().der().clone());
        }
    }
    chain
}

#[divan::bench(args = [Hostile::Namesakes, Hostile::Clique, Hostile::Names, Hostile::Bytes])]
fn chain_hostile(bencher: Bencher<'_, '_>, how: Hostile) {
    let ca = TestCa::new("example.org");
    let trust = ClientTrust::new(vec![Arc::new(build(config(&ca, Vec::new())))]).unwrap();
    let caller = hostile(&ca, how);
    bencher.bench_local(|| {
        trust
            .verify(&caller.chain[0], &caller.chain[1..], now())
            .unwrap_err()
    });
}

/// The kind of handshake with which a caller connects a second time.
#[derive(Debug, Clone, Copy)]
enum Return {
    /// A full handshake in which the whole chain is verified.
    Unknown,
    /// A full handshake with a chain that is in the path cache.
    Known,
    /// A resumed handshake with a session ticket.
    Resumed,
}

/// Returns the TLS configurations of the server and of the client.
fn ends(how: Return) -> (Arc<ServerEntry>, Arc<ClientConfig>) {
    let ca = TestCa::new("example.org");
    let bundle = Arc::new(build(config(&ca, lists(&ca, 1))));
    // With the capacity 0, the path cache never contains a chain. Therefore every handshake
    // verifies the whole chain.
    let room = if matches!(how, Return::Unknown) {
        0
    } else {
        16
    };
    let trust = ClientTrust::new(vec![bundle])
        .unwrap()
        .with_cache(Arc::new(PathCache::new(room)));
    let server = ca.server(&["a.example.org"]);
    let now = i64::try_from(clock::unix_now()).unwrap();
    let credentials = Ours::from_pem(
        server.chain_pem().as_bytes(),
        server.key_pem().as_bytes(),
        now,
    );
    let policy = TicketPolicy {
        enabled: matches!(how, Return::Resumed),
        ..TicketPolicy::default()
    };
    let names = ServerNames::new(
        vec![ServerEntryConfig {
            names: Vec::new(),
            credentials: credentials.unwrap(),
            trust: Arc::new(trust),
            client_certificate: ClientCertificate::Required,
        }],
        &TicketSource::default().with(policy, None),
    )
    .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.root().der().clone()).unwrap();
    let caller = ca.client("/a");
    let mut client = ClientConfig::builder_with_provider(countersign_core::crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(caller.chain.clone(), caller.key())
        .unwrap();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    client.resumption = match how {
        Return::Resumed => Resumption::in_memory_sessions(4),
        _ => Resumption::disabled(),
    };
    let entry = names.default_entry().unwrap();
    (Arc::clone(entry), Arc::new(client))
}

/// Performs a handshake in memory. The loop ends when neither side has data to send, so that the
/// server's session ticket arrives too.
fn shake(server: &ServerEntry, client: &Arc<ClientConfig>) -> ServerConnection {
    let name = ServerName::try_from("a.example.org").unwrap();
    let mut here = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut there = ServerConnection::new(Arc::clone(server.tls())).unwrap();
    let mut wire = Vec::new();
    while here.wants_write() || there.wants_write() {
        wire.clear();
        while here.wants_write() {
            here.write_tls(&mut wire).unwrap();
        }
        let mut octets = wire.as_slice();
        while !octets.is_empty() {
            there.read_tls(&mut octets).unwrap();
            there.process_new_packets().unwrap();
        }
        wire.clear();
        while there.wants_write() {
            there.write_tls(&mut wire).unwrap();
        }
        let mut octets = wire.as_slice();
        while !octets.is_empty() {
            here.read_tls(&mut octets).unwrap();
            here.process_new_packets().unwrap();
        }
    }
    there
}

#[divan::bench(args = [Return::Unknown, Return::Known, Return::Resumed])]
fn handshake(bencher: Bencher<'_, '_>, how: Return) {
    let (server, client) = ends(how);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let once = || {
        let handshake = with_notes(async { Ok::<_, ()>(shake(&server, &client)) });
        let (connection, mut notes) = runtime.block_on(handshake);
        let connection = connection.unwrap();
        let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        if resumed {
            let chain = connection.peer_certificates().unwrap();
            server.admit_resumed(chain, &mut notes).unwrap();
        }
        assert!(notes.identity.is_some());
        resumed
    };
    once();
    let resumed = once();
    assert_eq!(resumed, matches!(how, Return::Resumed));
    bencher.bench_local(once);
}

#[divan::bench(sample_count = 10)]
fn load_100_000_entries(bencher: Bencher<'_, '_>) {
    let ca = TestCa::new("example.org");
    let lists = lists(&ca, 100_000);
    bencher
        .with_inputs(|| config(&ca, lists.clone()))
        .bench_local_values(build);
}

#[divan::bench(sample_count = 10)]
fn reload_the_same_100_000_entries(bencher: Bencher<'_, '_>) {
    let ca = TestCa::new("example.org");
    let lists = lists(&ca, 100_000);
    let before = build(config(&ca, lists.clone()));
    let now = i64::try_from(clock::unix_now()).unwrap();
    bencher
        .with_inputs(|| config(&ca, lists.clone()))
        .bench_local_values(|config| {
            TrustBundle::build_after(&config, now, Some(&before), Predecessors::Replaced).unwrap()
        });
}
