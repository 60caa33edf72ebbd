//! `ShareKey`: identifies a caller or an address in counts of limited resources, for example
//! connections.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU64;
use std::sync::LazyLock;

use super::caller::CallerName;

/// Computes a hash with a secret key. Without the secret key, a caller could select a name that has
/// the same hash as the name of another caller.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Identifies one caller, or one address if there is no caller. It is a keyed hash of 64 bits and
/// is valid only in this process. All connections and certificates of one caller have the same
/// `ShareKey`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShareKey(NonZeroU64);

impl ShareKey {
    /// The same key for all callers. Used if a limit does not distinguish callers.
    pub const EVERYBODY: Self = Self(NonZeroU64::MAX);

    /// Returns the key of an authenticated caller. It does not depend on the credential.
    #[must_use]
    pub fn of_caller(caller: &CallerName) -> Self {
        Self::of_hash(HASHER.hash_one(("caller", caller)))
    }

    /// Returns the key of an address. All addresses of one network have the same key (see
    /// [`address_network`]).
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        Self::of_hash(HASHER.hash_one(("address", address_network(address))))
    }

    /// Returns the index of this key in a table with `count` rows. The same `count` always gives
    /// the same index. The index is computed from other bits of the key than the position in a
    /// [`ShareMap`]. So the keys of one row are spread over all positions of a map.
    pub(crate) const fn index(self, count: usize) -> usize {
        (self.0.get() >> 40) as u16 as usize % count
    }

    fn of_hash(hash: u64) -> Self {
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }
}

/// A map from [`ShareKey`] to a value. The map uses the key as hash, because the key is already a
/// keyed hash.
pub type ShareMap<V> = HashMap<ShareKey, V, BuildHasherDefault<KeyAsHash>>;

/// The hasher of a [`ShareMap`]: returns the key.
#[derive(Debug, Default)]
pub struct KeyAsHash(u64);

impl Hasher for KeyAsHash {
    fn write(&mut self, bytes: &[u8]) {
        // A `ShareKey` is hashed by `write_u64`. This method is called only for keys of other
        // types.
        self.0 = HASHER.hash_one((self.0, bytes));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Returns the network of an address, in which all addresses are counted together. For IPv4, it is
/// the address itself. For IPv6, it is the /64 network, because one host can use all addresses of
/// its /64 network (RFC 4291 section 2.5.4).
#[must_use]
pub fn address_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_map_uses_the_key_as_hash_and_spreads_the_keys_of_one_group() {
        let hash = |key: ShareKey| BuildHasherDefault::<KeyAsHash>::default().hash_one(key);
        let keys = (0..4096_u32).map(|n| ShareKey::of_address(Ipv4Addr::from_bits(n).into()));
        let group: Vec<_> = keys.filter(|key| key.index(16) == 3).collect();
        assert!((128..512).contains(&group.len()), "{} keys", group.len());
        assert!(group.iter().all(|key| hash(*key) == key.0.get()));
        let low: HashSet<u64> = group.iter().map(|key| hash(*key) % 16).collect();
        assert_eq!(low.len(), 16);
    }

    #[test]
    fn a_key_stands_for_one_caller_or_one_network() {
        let name = |text: &str| CallerName::Dns(text.into());
        assert_eq!(
            ShareKey::of_caller(&name("one.example.org")),
            ShareKey::of_caller(&name("one.example.org"))
        );
        assert_ne!(
            ShareKey::of_caller(&name("one.example.org")),
            ShareKey::of_caller(&name("two.example.org"))
        );
        let address = |text: &str| ShareKey::of_address(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("192.0.2.1"), address("::ffff:192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        // A caller whose name is an IP address must not have the same key as this address.
        let ip = "192.0.2.1".parse().unwrap();
        assert_ne!(
            ShareKey::of_caller(&CallerName::Ip(ip)),
            ShareKey::of_address(ip)
        );
    }
}
