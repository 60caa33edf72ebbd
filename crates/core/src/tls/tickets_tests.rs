//! Tests of tickets without TLS connections. Each test sets the time itself.

use countersign_testkit::TestCa;
use rustls_pki_types::UnixTime;

use super::*;
use crate::trust::fixture;

fn trust(ca: &TestCa) -> Arc<ClientTrust> {
    Arc::new(fixture::trust(fixture::config(ca, &[])))
}

fn source(secret: Option<&[u8]>) -> TicketSource {
    let secret = secret.map(|secret| Secret::new(secret.to_vec()));
    TicketSource::default().with(TicketPolicy::default(), secret)
}

fn ticketer(source: &TicketSource, names: &[&str], trust: &Arc<ClientTrust>) -> Ticketer {
    let names: Vec<_> = names
        .iter()
        .map(|name| HostPattern::parse(name).unwrap())
        .collect();
    Ticketer::new(source.clone(), &names, ClientCertificate::Required, trust)
}

const NOW: u64 = 1_800_000_000;

fn session(version: Version) -> Session {
    Session {
        version,
        chain: ChainKey::from_bytes([7; 32]),
        proven_at: NOW,
        path_not_after: i64::try_from(NOW).unwrap() + 30 * 86_400,
    }
}

const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];
const ROTATION: u64 = 3600;

#[test]
fn a_ticket_counts_in_its_epoch_and_the_next_one() {
    let trust = trust(&TestCa::new("example.org"));
    for version in BOTH {
        let ours = ticketer(&source(None), &[], &trust);
        let begun = NOW - NOW % ROTATION;
        let ticket = ours.seal(&session(version), b"state", begun).unwrap();
        for later in [0, ROTATION - 1, ROTATION, 2 * ROTATION - 1] {
            let (read, state) = ours.open(&ticket, begun + later).unwrap();
            assert_eq!((read, &*state), (session(version), &b"state"[..]));
        }
        assert!(ours.open(&ticket, begun + 2 * ROTATION).is_none());
        // The secret of a past epoch is dropped. Setting the clock back does not restore it.
        assert!(ours.open(&ticket, begun).is_none(), "{version:?}");
    }
}

#[test]
fn a_shared_secret_opens_tickets_of_tls_1_3_alone() {
    let trust = trust(&TestCa::new("example.org"));
    let [one, two, other] = [[1; 32], [1; 32], [2; 32]]
        .map(|secret: [u8; 32]| ticketer(&source(Some(&secret)), &["a.example.org"], &trust));
    let ticket = one.seal(&session(Version::Tls13), b"state", NOW).unwrap();
    assert!(two.open(&ticket, NOW).is_some());
    // A replica whose clock is 30 seconds behind opens the ticket, too.
    assert!(two.open(&ticket, NOW - 30).is_some());
    assert!(other.open(&ticket, NOW).is_none());
    let ticket = one.seal(&session(Version::Tls12), b"state", NOW).unwrap();
    assert!(one.open(&ticket, NOW).is_some());
    assert!(two.open(&ticket, NOW).is_none());
}

#[test]
fn a_ticket_opens_only_where_it_was_made() {
    let (ca, other) = (TestCa::new("example.org"), TestCa::new("example.org"));
    let (trusted, others) = (trust(&ca), trust(&other));
    let source = source(None);
    let ours = ticketer(&source, &["a.example.org", "b.example.org"], &trusted);
    let ticket = ours.seal(&session(Version::Tls13), b"state", NOW).unwrap();
    // After a reload with the same names in another order, the tickets are still valid.
    let again = source.with(TicketPolicy::default(), None);
    let same = ticketer(&again, &["b.example.org", "a.example.org"], &trusted);
    assert!(same.open(&ticket, NOW).is_some());
    let entries = [
        ticketer(&source, &["a.example.org"], &trusted),
        ticketer(&source, &[], &trusted),
        ticketer(&source, &["a.example.org", "b.example.org"], &others),
        Ticketer::new(
            source.clone(),
            &["a.example.org", "b.example.org"].map(|name| HostPattern::parse(name).unwrap()),
            ClientCertificate::Optional,
            &trusted,
        ),
        ticketer(
            &TicketSource::default(),
            &["a.example.org", "b.example.org"],
            &trusted,
        ),
    ];
    for entry in entries {
        assert!(entry.open(&ticket, NOW).is_none());
    }
    for at in 0..ticket.len() {
        let mut altered = ticket.clone();
        altered[at] ^= 1;
        assert!(ours.open(&altered, NOW).is_none(), "octet {at}");
        assert!(ours.open(&ticket[..at], NOW).is_none(), "{at} octets");
    }
}

#[test]
fn resumption_ends_with_its_lineage_and_with_the_path() {
    let trust = trust(&TestCa::new("example.org"));
    let ours = ticketer(&source(None), &[], &trust);
    let max = TicketPolicy::default().max_age.as_secs();
    let old = |proven_at| Session {
        proven_at,
        ..session(Version::Tls13)
    };
    let ticket = ours.seal(&old(NOW - max + 10), b"state", NOW).unwrap();
    assert!(ours.open(&ticket, NOW + 9).is_some());
    assert!(ours.open(&ticket, NOW + 10).is_none());
    assert!(ours.seal(&old(NOW - max), b"state", NOW).is_none());
    // The time of the proof is in the future, because the clock of this host or of a replica was
    // wrong. The ticket is not opened.
    let ticket = ours.seal(&old(NOW + SKEW + 1), b"state", NOW).unwrap();
    assert!(ours.open(&ticket, NOW).is_none());
    let ended = Session {
        path_not_after: i64::try_from(NOW).unwrap(),
        ..session(Version::Tls13)
    };
    let ticket = ours.seal(&ended, b"state", NOW).unwrap();
    assert!(ours.open(&ticket, NOW).is_some());
    assert!(ours.open(&ticket, NOW + 1).is_none());
}

#[test]
fn refusing_a_chain_touches_no_other() {
    let trust = trust(&TestCa::new("example.org"));
    let ours = ticketer(&source(None), &[], &trust);
    let other = Session {
        chain: ChainKey::from_bytes([8; 32]),
        ..session(Version::Tls13)
    };
    let theirs = ours.seal(&session(Version::Tls13), b"state", NOW).unwrap();
    let others = ours.seal(&other, b"state", NOW).unwrap();
    ours.refuse(ChainKey::from_bytes([7; 32]));
    assert!(ours.open(&theirs, NOW).is_none());
    assert!(ours.open(&others, NOW).is_some());
    // The memory for refused chains is limited, even if many chains are refused.
    for number in 0..20_000_u32 {
        let mut chain = [9; 32];
        chain[..4].copy_from_slice(&number.to_be_bytes());
        ours.refuse(ChainKey::from_bytes(chain));
    }
    assert!(ours.refused.len() <= MAX_REFUSED);
    assert!(ours.open(&others, NOW).is_some());
}

#[test]
fn a_chain_known_to_have_ended_is_not_resumed() {
    let ca = TestCa::new("example.org");
    let trust = trust(&ca);
    let ours = ticketer(&source(None), &[], &trust);
    let caller = ca.client("/a");
    let now = clock::unix_now();
    let admitted = trust
        .admit(
            &caller.chain[0],
            &caller.chain[1..],
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
        )
        .unwrap();
    let session = Session {
        version: Version::Tls13,
        chain: admitted.chain,
        proven_at: now,
        path_not_after: i64::MAX,
    };
    let ticket = ours.seal(&session, b"state", now).unwrap();
    assert_eq!(trust.recall(&admitted.chain, 0), Recall::Unknown);
    assert!(ours.open(&ticket, now).is_some(), "nothing is known of it");
    let ends = admitted.identity.path_not_after();
    admitted.pending.unwrap().commit();
    assert!(ours.open(&ticket, now).is_some());
    assert_eq!(trust.recall(&admitted.chain, ends + 1), Recall::Ended);
}

#[test]
fn long_state_makes_no_ticket() {
    let trust = trust(&TestCa::new("example.org"));
    let ours = ticketer(&source(None), &[], &trust);
    let longest = vec![1; MAX_STATE];
    let ticket = ours.seal(&session(Version::Tls13), &longest, NOW).unwrap();
    assert!(ticket.len() <= MAX_TICKET);
    assert!(ours.open(&ticket, NOW).is_some());
    let longer = vec![1; MAX_STATE + 1];
    assert!(ours.seal(&session(Version::Tls13), &longer, NOW).is_none());
}
