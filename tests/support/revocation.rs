//! The CRLs of an authority, in files that a gateway watches.

use std::path::PathBuf;

use countersign_testkit::{Credentials, Crl, TestCa};

use super::{World, replace};

/// The files with the CRLs of root and intermediate. At first, the CRLs revoke nothing.
pub(crate) struct RevocationLists {
    root: PathBuf,
    /// The CRL of the intermediate, which issues the callers' certificates.
    pub(crate) issuing: PathBuf,
}

impl RevocationLists {
    /// Writes the CRLs into the authority's directory.
    pub(crate) fn of(ca: &TestCa) -> Self {
        Self {
            root: ca.write("root.crl", Crl::new().signed_by(ca.root())),
            issuing: ca.write("issuing.crl", Crl::new().signed_by(ca.intermediate())),
        }
    }

    /// Returns the `crls` line of a `[[trust_domain]]` table that names these files.
    pub(crate) fn setting(&self) -> String {
        format!("crls = [{:?}, {:?}]", self.root, self.issuing)
    }

    /// Replaces the CRL of the intermediate.
    pub(crate) fn publish(&self, ca: &TestCa, list: Crl) {
        replace(&self.issuing, list.signed_by(ca.intermediate()));
    }

    /// Replaces the CRL of the intermediate with a newer CRL that revokes this certificate.
    pub(crate) fn revoke(&self, ca: &TestCa, caller: &Credentials) {
        self.publish(ca, Crl::new().number(2).revoke(caller.serial()));
    }
}

/// Starts a gateway that checks revocation with the CRLs of its authority.
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
