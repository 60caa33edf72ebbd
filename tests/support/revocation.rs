//! The revocation lists of an authority, as files that a gateway watches.

use std::path::PathBuf;

use countersign_testkit::{Credentials, Crl, TestCa};

use super::{World, replace};

/// The lists of root and intermediate, which revoke nothing at first.
pub(crate) struct RevocationLists {
    root: PathBuf,
    /// That of the intermediate, which issues the callers' certificates.
    pub(crate) issuing: PathBuf,
}

impl RevocationLists {
    /// Writes them into the authority's directory.
    pub(crate) fn of(ca: &TestCa) -> Self {
        Self {
            root: ca.write("root.crl", Crl::new().signed_by(ca.root())),
            issuing: ca.write("issuing.crl", Crl::new().signed_by(ca.intermediate())),
        }
    }

    /// The line of a `[[trust_domain]]` that names them.
    pub(crate) fn setting(&self) -> String {
        format!("crls = [{:?}, {:?}]", self.root, self.issuing)
    }

    /// Replaces the intermediate's list.
    pub(crate) fn publish(&self, ca: &TestCa, list: Crl) {
        replace(&self.issuing, list.signed_by(ca.intermediate()));
    }

    /// Replaces the intermediate's list by a newer one with this certificate.
    pub(crate) fn revoke(&self, ca: &TestCa, caller: &Credentials) {
        self.publish(ca, Crl::new().number(2).revoke(caller.serial()));
    }
}

/// A gateway that checks revocation by the lists of its authority.
pub(crate) async fn revocable() -> (World, RevocationLists) {
    let ca = TestCa::new("example.org");
    let lists = RevocationLists::of(&ca);
    let trust = format!("{}\nrevocation = \"hard\"", lists.setting());
    let world = World::of(ca, |settings, ca, echo| {
        settings.trust(ca, &trust).everything_to(echo)
    })
    .await;
    (world, lists)
}
