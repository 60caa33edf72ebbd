//! Tests of the key ring and its directory: which key signs at which time, revocation, invalid
//! files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use countersign_verify::jose::{CompactJws, JwkSet, MAX_TOKEN_BYTES, base64url_encode};
use tempfile::TempDir;

use super::super::key_directory::{
    MAX_KEYS, MIN_PUBLISH_AHEAD, PUBLISH_AHEAD, add, generate, jwks, list, revoke,
};
use super::super::key_record::{KeyState, RETIREMENT_SECONDS};
use super::*;
use SigningAlgorithm::{EdDsa, Es256};

const START: u64 = 1_770_000_000;
const HOUR: u64 = 3600;

fn directory() -> (TempDir, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("certs/signing");
    (root, path)
}

fn new_key(path: &Path, now: u64) -> String {
    add(path, None, PUBLISH_AHEAD, now).unwrap().record.kid
}

fn current(ring: &SigningKeyRing, now: u64) -> &str {
    ring.current(now).unwrap().kid()
}

fn published(ring: &SigningKeyRing, now: u64) -> Vec<String> {
    ring.published(now)
        .map(|key| key.kid().to_owned())
        .collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn the_first_key_signs_at_once_and_a_second_takes_over_without_reload() {
    let (_root, path) = directory();
    let first = new_key(&path, START);
    let second = new_key(&path, START + 10);
    let ring = SigningKeyRing::load(&path, Es256).unwrap();
    assert!(ring.warnings().is_empty());
    let takeover = START + 10 + HOUR;
    assert_eq!(current(&ring, START), first);
    assert_eq!(current(&ring, takeover - 1), first);
    assert_eq!(current(&ring, takeover), second);
    assert_eq!(published(&ring, START + 10), [&*first, &*second]);
    let end = takeover + RETIREMENT_SECONDS;
    assert_eq!(published(&ring, end - 1), [&*first, &*second]);
    assert_eq!(published(&ring, end), [&*second]);
    assert_eq!(published(&ring, u64::MAX), [&*second]);
}

#[test]
fn files_are_private_and_named_after_their_keys() {
    let (root, path) = directory();
    let kid = new_key(&path, START);
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&root.path().join("certs")) & 0o700, 0o700);
    let key_file = path.join(format!("{kid}.key"));
    assert_eq!(mode(&key_file), 0o600);
    assert_eq!(mode(&path.join("ring.json")), 0o600);
    let pem = fs::read_to_string(&key_file).unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert!(
        !fs::read_to_string(path.join("ring.json"))
            .unwrap()
            .contains("PRIVATE")
    );

    fs::set_permissions(&key_file, Permissions::from_mode(0o640)).unwrap();
    let ring = SigningKeyRing::load(&path, Es256).unwrap();
    assert_eq!(ring.warnings().len(), 1);
    assert!(ring.warnings()[0].contains(&kid) && ring.warnings()[0].contains("0640"));
}

#[test]
fn every_key_set_verifies_what_the_ring_signs_and_holds_no_private_member() {
    for algorithm in SigningAlgorithm::ALL {
        let (_root, path) = directory();
        generate(&path, algorithm, START).unwrap();
        generate(&path, algorithm, START).unwrap();
        let ring = SigningKeyRing::load(&path, algorithm).unwrap();
        for now in [START, START + HOUR, START + 3 * HOUR] {
            let text = ring.jwks(now);
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            for jwk in document["keys"].as_array().unwrap() {
                for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
                    assert!(jwk.get(private).is_none());
                }
            }
            assert_eq!(jwks(&path, now).unwrap(), document);
            let set = JwkSet::from_json(text.as_bytes()).unwrap();
            assert!(set.refused().is_empty());
            let key = ring.current(now).unwrap();
            let input = format!("{}.{}", key.header_base64url(), base64url_encode(b"{}"));
            let signature = key.sign(input.as_bytes()).unwrap();
            let token = format!("{input}.{}", base64url_encode(&signature));
            let jws = CompactJws::parse(&token, MAX_TOKEN_BYTES).unwrap();
            jws.verify(set.key_for(jws.header()).unwrap()).unwrap();
        }
    }
}

#[test]
fn an_empty_directory_and_a_wrong_algorithm_name_the_command_that_helps() {
    let (_root, path) = directory();
    let command = format!("keys generate --dir {} --algorithm EdDSA", path.display());
    let error = SigningKeyRing::load(&path, EdDsa).unwrap_err();
    assert!(matches!(error, KeyRingError::NoKeys { .. }));
    assert!(error.to_string().contains(&command), "{error}");
    generate(&path, Es256, START).unwrap();
    let error = SigningKeyRing::load(&path, EdDsa).unwrap_err();
    assert!(matches!(error, KeyRingError::OtherAlgorithm { .. }));
    assert!(error.to_string().contains(&command), "{error}");
}

#[test]
fn a_key_of_another_algorithm_is_published_but_does_not_sign() {
    let (_root, path) = directory();
    let first = generate(&path, Es256, START).unwrap().record.kid;
    let second = generate(&path, EdDsa, START).unwrap();
    assert_eq!(second.record.active_from, START + HOUR);
    let ring = SigningKeyRing::load(&path, Es256).unwrap();
    let later = START + 100 * HOUR;
    assert_eq!(current(&ring, later), first);
    assert_eq!(published(&ring, later), [&*first, &*second.record.kid]);
    let ring = SigningKeyRing::load(&path, EdDsa).unwrap();
    assert_eq!(current(&ring, later), second.record.kid);
    // Without an algorithm, `add` uses the algorithm of the newest key.
    assert_eq!(
        add(&path, None, PUBLISH_AHEAD, START)
            .unwrap()
            .record
            .algorithm,
        EdDsa
    );
}

#[test]
fn bad_files_are_refused_by_name() {
    let (_root, path) = directory();
    let kid = new_key(&path, START);
    let other = {
        let (_root, other) = directory();
        let kid = new_key(&other, START);
        fs::read(other.join(format!("{kid}.key"))).unwrap()
    };
    let edwards = {
        let (_root, other) = directory();
        let kid = generate(&other, EdDsa, START).unwrap().record.kid;
        fs::read(other.join(format!("{kid}.key"))).unwrap()
    };
    let key_file = path.join(format!("{kid}.key"));
    let good = fs::read(&key_file).unwrap();
    let half = good[..good.len() / 2].to_vec();
    for content in [b"".to_vec(), b"rubbish".to_vec(), half, other, edwards] {
        fs::write(&key_file, content).unwrap();
        let error = SigningKeyRing::load(&path, Es256).unwrap_err();
        assert!(matches!(error, KeyRingError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(&key_file.display().to_string()));
    }
    fs::remove_file(&key_file).unwrap();
    let error = SigningKeyRing::load(&path, Es256).unwrap_err();
    assert!(matches!(error, KeyRingError::Io { .. }), "{error}");
    assert!(error.to_string().contains(&key_file.display().to_string()));
    fs::write(&key_file, &good).unwrap();
    assert!(SigningKeyRing::load(&path, Es256).is_ok());
}

#[test]
fn bad_rings_are_refused_by_name() {
    let (_root, path) = directory();
    let kid = new_key(&path, START);
    let ring_file = path.join("ring.json");
    let good = fs::read_to_string(&ring_file).unwrap();
    let record =
        format!(r#"{{"kid":"{kid}","algorithm":"ES256","created":{START},"active_from":{START}}}"#);
    let named = |kid: &str| {
        format!(
            r#"{{"version":1,"keys":[{{"kid":"{kid}","algorithm":"ES256","created":1,"active_from":1}}]}}"#
        )
    };
    for content in [
        String::new(),
        "[]".to_owned(),
        good.replace("\"version\": 1", "\"version\": 2"),
        good.replace("\"version\"", "\"extra\": 1, \"version\""),
        good.replace("ES256", "HS256"),
        good.chars().take(good.len() / 2).collect(),
        named("../../../../../../../../../../../etc/passwd"),
        named(""),
        format!(r#"{{"version":1,"keys":[{record},{record}]}}"#),
        "x".repeat(2 * 1024 * 1024),
    ] {
        fs::write(&ring_file, &content).unwrap();
        let error = SigningKeyRing::load(&path, Es256).unwrap_err();
        assert!(matches!(error, KeyRingError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("ring.json"), "{error}");
        assert!(add(&path, None, PUBLISH_AHEAD, START).is_err());
        assert_eq!(fs::read_to_string(&ring_file).unwrap(), content);
    }
    fs::write(&ring_file, r#"{"version":1,"keys":[]}"#).unwrap();
    assert!(matches!(
        SigningKeyRing::load(&path, Es256).unwrap_err(),
        KeyRingError::NoKeys { .. }
    ));
}

#[test]
fn a_key_is_never_published_too_late() {
    let (_root, path) = directory();
    for seconds in [0, 899, 367 * 86_400] {
        assert!(matches!(
            add(&path, None, Duration::from_secs(seconds), START),
            Err(KeyRingError::PublishAhead)
        ));
    }
    assert!(!path.exists());
    new_key(&path, START);
    let second = add(&path, None, MIN_PUBLISH_AHEAD, START).unwrap();
    assert_eq!(second.state, KeyState::Next);
    assert_eq!(second.record.active_from, START + 900);
}

#[test]
fn expired_keys_lose_their_private_half_at_the_next_change_and_never_return() {
    let (_root, path) = directory();
    let first = new_key(&path, START);
    let second = new_key(&path, START);
    let late = START + HOUR + RETIREMENT_SECONDS;
    let third = new_key(&path, late);
    assert!(!path.join(format!("{first}.key")).exists());
    let states = |now| {
        list(&path, now)
            .unwrap()
            .into_iter()
            .map(|key| key.state)
            .collect::<Vec<_>>()
    };
    use KeyState::{Current, Expired, Next, Retiring, Revoked};
    assert_eq!(states(late), [Expired, Current, Next]);
    revoke(&path, &second, false, late + HOUR).unwrap();
    assert_eq!(states(late + HOUR), [Expired, Revoked, Current]);
    let ring = SigningKeyRing::load(&path, Es256).unwrap();
    assert_eq!(published(&ring, late + HOUR), [&*third]);
    new_key(&path, late + HOUR);
    assert_eq!(
        states(late + 2 * HOUR),
        [Expired, Revoked, Retiring, Current]
    );
}

#[test]
fn the_only_key_is_revoked_only_by_force() {
    let (_root, path) = directory();
    let kid = new_key(&path, START);
    let error = revoke(&path, &kid, false, START).unwrap_err();
    assert!(matches!(error, KeyRingError::OnlyKey { .. }));
    assert!(SigningKeyRing::load(&path, Es256).is_ok());
    revoke(&path, &kid, true, START).unwrap();
    assert!(!path.join(format!("{kid}.key")).exists());
    assert!(SigningKeyRing::load(&path, Es256).is_err());
    // Revoking a key again succeeds, and does not change the time of its revocation.
    revoke(&path, &kid, false, START + 5).unwrap();
    assert_eq!(
        list(&path, START + 9).unwrap()[0].record.revoked_at,
        Some(START)
    );
    assert!(matches!(
        revoke(&path, &"x".repeat(43), true, START),
        Err(KeyRingError::UnknownKey { .. })
    ));
    // If all earlier keys are revoked, a new key signs immediately.
    let kid = new_key(&path, START + 10);
    let ring = SigningKeyRing::load(&path, Es256).unwrap();
    assert_eq!(current(&ring, START + 10), kid);
}

#[test]
fn after_revoking_the_current_key_a_known_one_signs() {
    // When the first key is revoked, the second key signs, because consumers know it already.
    let (_root, path) = directory();
    let first = new_key(&path, START);
    let second = new_key(&path, START);
    let revoked = revoke(&path, &first, false, START + 900).unwrap();
    assert_eq!(revoked.successor, Some(second.clone()));
    let ring = SigningKeyRing::load(&path, Es256).unwrap();
    assert_eq!(current(&ring, START + 900), second);
    assert_eq!(published(&ring, START + 900), [&*second]);

    // When the third key is revoked, the fourth key has been published for a minute only. The
    // second key signs again, because it is still in the published key set.
    let third = new_key(&path, START + 900);
    let takeover = START + 900 + HOUR;
    let fourth = new_key(&path, takeover);
    let revoked = revoke(&path, &third, false, takeover + 60).unwrap();
    assert_eq!(revoked.successor, Some(second.clone()));
    let ring = SigningKeyRing::load(&path, Es256).unwrap();
    assert_eq!(current(&ring, takeover + 60), second);
    assert_eq!(current(&ring, takeover + HOUR), fourth);

    // Revoking a key that does not sign does not change which key signs.
    let revoked = revoke(&path, &fourth, false, takeover + 61).unwrap();
    assert_eq!(revoked.successor, None);
}

#[test]
fn there_is_a_bound_on_keys_in_use() {
    let (_root, path) = directory();
    for _ in 0..MAX_KEYS {
        generate(&path, EdDsa, START).unwrap();
    }
    assert!(matches!(
        generate(&path, EdDsa, START),
        Err(KeyRingError::TooManyKeys(_))
    ));
}

#[test]
fn changes_at_the_same_time_are_all_kept() {
    let (_root, path) = directory();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| new_key(&path, START));
        }
    });
    let keys = list(&path, START).unwrap();
    assert_eq!(keys.len(), 6);
    let current = keys.iter().filter(|key| key.state == KeyState::Current);
    assert_eq!(current.count(), 1);
    assert!(SigningKeyRing::load(&path, Es256).is_ok());
}
