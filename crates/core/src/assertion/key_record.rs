//! `KeyRecord`: the recorded facts about a key, without the key itself. The state of a key at a
//! given time is derived from these facts.
//!
//! All times are in seconds since the Unix epoch. The functions of this file read no clock and no
//! file, so that tests can check every state.

use serde::{Deserialize, Serialize};

use super::signing_key::SigningAlgorithm;

/// How long a key stays published after another key has replaced it, in seconds. This time is a
/// sum: the maximum lifetime of an assertion (300 s), the maximum clock difference (30 s), and the
/// time for which consumers cache the key set (1 h).
pub const RETIREMENT_SECONDS: u64 = 300 + 30 + 3600;

/// The recorded facts about one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The RFC 7638 thumbprint of the key. It is also the name of the key's file.
    pub kid: String,
    /// The signature algorithm.
    pub algorithm: SigningAlgorithm,
    /// When the key was created. It is published from then on.
    pub created: u64,
    /// When the key starts to sign.
    pub active_from: u64,
    /// When the expired key was retired and its private key was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<u64>,
    /// When the key was revoked and its private key was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
}

impl KeyRecord {
    /// Whether the private key still exists: the key is neither retired nor revoked.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.retired_at.is_none() && self.revoked_at.is_none()
    }
}

/// The state of a key at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// The key is published, but does not sign yet.
    Next,
    /// The key signs.
    Current,
    /// Another key has replaced this key. This key is still published.
    Retiring,
    /// Another key has replaced this key. Since then, so much time has passed that no consumer
    /// needs this key.
    Expired,
    /// The key was revoked and is never published again.
    Revoked,
}

impl KeyState {
    /// Returns the name of the state in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Retiring => "retiring",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// Whether the published key set contains keys in this state.
    #[must_use]
    pub const fn is_published(self) -> bool {
        matches!(self, Self::Next | Self::Current | Self::Retiring)
    }
}

/// Returns the state of `record` at `now`. `records` contains all records of the directory.
///
/// Keys of different algorithms do not affect each other: a key is replaced only by a later key of
/// the same algorithm. While the algorithm is changed, keys of both algorithms can therefore be
/// published.
#[must_use]
pub fn state(records: &[KeyRecord], record: &KeyRecord, now: u64) -> KeyState {
    if record.revoked_at.is_some() {
        return KeyState::Revoked;
    }
    if record.retired_at.is_some() || published_until(records, record).is_some_and(|end| end <= now)
    {
        return KeyState::Expired;
    }
    if record.active_from > now {
        return KeyState::Next;
    }
    match current(records, record.algorithm, now) {
        Some(current) if current.kid == record.kid => KeyState::Current,
        _ => KeyState::Retiring,
    }
}

/// Returns the key of `algorithm` that signs at `now`. This is the latest key whose `active_from`
/// has passed. If the `active_from` of all keys is in the future, because clocks differ, returns
/// the first key, which is already published.
#[must_use]
pub fn current(records: &[KeyRecord], algorithm: SigningAlgorithm, now: u64) -> Option<&KeyRecord> {
    let line = succession(records, algorithm);
    line.iter()
        .rev()
        .find(|record| record.active_from <= now)
        .or(line.first())
        .copied()
}

/// Returns the time at which a key leaves the published key set. Returns `None` if there is no
/// later key of its algorithm.
#[must_use]
pub fn published_until(records: &[KeyRecord], record: &KeyRecord) -> Option<u64> {
    succession(records, record.algorithm)
        .into_iter()
        .skip_while(|other| other.kid != record.kid)
        .nth(1)
        .map(|follower| follower.active_from.saturating_add(RETIREMENT_SECONDS))
}

/// Returns the usable keys of one algorithm, in the order in which they sign. The sort is stable:
/// if two keys have the same `active_from`, the newer key comes later.
#[must_use]
pub fn succession(records: &[KeyRecord], algorithm: SigningAlgorithm) -> Vec<&KeyRecord> {
    let mut line: Vec<&KeyRecord> = records
        .iter()
        .filter(|record| record.is_usable() && record.algorithm == algorithm)
        .collect();
    line.sort_by_key(|record| record.active_from);
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use KeyState::{Current, Expired, Next, Retiring, Revoked};
    use SigningAlgorithm::{EdDsa, Es256};

    fn record(kid: &str, algorithm: SigningAlgorithm, active_from: u64) -> KeyRecord {
        KeyRecord {
            kid: kid.to_owned(),
            algorithm,
            created: active_from.saturating_sub(3600),
            active_from,
            retired_at: None,
            revoked_at: None,
        }
    }

    fn states(records: &[KeyRecord], now: u64) -> Vec<KeyState> {
        records.iter().map(|one| state(records, one, now)).collect()
    }

    #[test]
    fn keys_pass_through_their_states_as_time_goes() {
        let mut records = vec![record("a", Es256, 10_000), record("b", Es256, 50_000)];
        assert_eq!(states(&records, 49_999), [Current, Next]);
        assert_eq!(states(&records, 50_000), [Retiring, Current]);
        assert_eq!(states(&records, 50_000 + 3929), [Retiring, Current]);
        assert_eq!(states(&records, 50_000 + 3930), [Expired, Current]);
        records[1].revoked_at = Some(51_000);
        assert_eq!(states(&records, 51_000), [Current, Revoked]);
        records[0].retired_at = Some(51_000);
        assert_eq!(states(&records, 51_000), [Expired, Revoked]);
    }

    #[test]
    fn the_first_key_signs_even_if_its_maker_was_ahead() {
        let records = [record("a", Es256, 10_000), record("b", Es256, 20_000)];
        assert_eq!(states(&records, 9_990), [Next, Next]);
        let current_kid = |now| current(&records, Es256, now).map(|one| &*one.kid);
        assert_eq!(current_kid(9_990), Some("a"));
        assert_eq!(current_kid(10_000), Some("a"));
        assert!(current(&records, EdDsa, 9_990).is_none());
        assert!(current(&[], Es256, 0).is_none());
    }

    #[test]
    fn algorithms_do_not_supersede_each_other() {
        let records = [record("a", Es256, 10_000), record("b", EdDsa, 20_000)];
        assert_eq!(states(&records, 15_000), [Current, Next]);
        assert_eq!(states(&records, 90_000), [Current, Current]);
    }

    #[test]
    fn of_two_keys_for_the_same_second_the_later_one_signs() {
        let records = [record("a", Es256, 10_000), record("b", Es256, 10_000)];
        assert_eq!(states(&records, 10_000), [Retiring, Current]);
    }

    proptest! {
        #[test]
        fn one_usable_key_of_each_kind_signs_at_any_time(
            moments in proptest::collection::vec(
                (0_u64..100_000, any::<bool>(), any::<bool>()),
                1..8,
            ),
            now in 0_u64..120_000,
        ) {
            let records: Vec<KeyRecord> = moments
                .iter()
                .enumerate()
                .map(|(index, (from, is_es256, is_revoked))| {
                    let algorithm = if *is_es256 { Es256 } else { EdDsa };
                    let mut one = record(&index.to_string(), algorithm, *from);
                    one.revoked_at = is_revoked.then_some(1);
                    one
                })
                .collect();
            for algorithm in SigningAlgorithm::ALL {
                let line = succession(&records, algorithm);
                let signing = current(&records, algorithm, now);
                prop_assert_eq!(signing.is_some(), !line.is_empty());
                prop_assert!(signing.is_none_or(KeyRecord::is_usable));
                // The signing key is always published.
                prop_assert!(signing.is_none_or(|one| state(&records, one, now).is_published()));
                let states: Vec<KeyState> =
                    line.iter().map(|one| state(&records, one, now)).collect();
                let current_keys = states.iter().filter(|one| **one == Current).count();
                let has_begun = line.iter().any(|one| one.active_from <= now);
                prop_assert_eq!(current_keys, usize::from(has_begun));
                // In signing order, expired keys come first, and next keys come last.
                let age = |state: &KeyState| [Expired, Retiring, Current, Next, Revoked]
                    .iter()
                    .position(|one| one == state);
                prop_assert!(states.is_sorted_by_key(age));
            }
        }
    }
}
