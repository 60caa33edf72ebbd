//! A private certificate authority: profiles, issuing, revocation lists, files.
//!
//! Most of these files are parts of [`Pki`], which is an authority in a directory:
//!
//! - `bulk`: issues many leaves
//! - `renewing`: issues leaves again, with a new key
//! - `fixtures`: test certificates with faults
//! - `rotating`: replaces root and intermediate, while the old ones stay trusted for a time
//! - `intermediate_request`: requests an intermediate from a root whose key is elsewhere
//! - `creating`: creates an authority, with a new root or an existing one
//! - `issuing`: issues one leaf
//! - `recording`: opens and searches the inventory of issued certificates
//! - `revoking`: revokes certificates
//! - `generation`: makes root and intermediate in memory
//! - `crls`: signs and publishes revocation lists
//! - `export`: certificates in the formats of other programs
//! - `inspect`: describes the content of files, with lints
//! - `signed_elsewhere`: reads and checks what a root elsewhere has signed
//! - `directory`: opens an authority
//!
//! Each folder imports only from folders below it in this list:
//!
//! - `files`: the paths of the files, and changes of several files in one transaction
//! - `records`: the records of an authority: `pki.toml` and `inventory.db`
//! - `signing`: signs certificates and revocation lists in memory; names, profiles, requests
//! - `lint`: rules that find errors and bad choices in certificates and revocation lists
//! - `store`: reads and writes single files durably; private keys
//!
//! Example for other crates of this program:
//!
//! ```no_run
//! # use std::path::Path;
//! # use countersign_core::identity::TrustDomain;
//! use countersign_pki::{IssueRequest, KeyProtection, Pki, SubjectNames, CertificateProfile};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let domain = TrustDomain::parse("example.org")?;
//! let mut pki = Pki::create(Path::new("certs"), &domain, &KeyProtection::Plain)?;
//! let names = SubjectNames::new().dns("localhost")?.ip_text("127.0.0.1")?;
//! let gateway = pki.issue(
//!     &IssueRequest::new("gateway".parse()?, names).profile(CertificateProfile::SERVER),
//! )?;
//! let names = SubjectNames::new().spiffe_text("/ns/shop/sa/checkout", &domain)?;
//! let caller = pki.issue(&IssueRequest::new("checkout".parse()?, names))?;
//! assert_eq!(caller.identity(), "spiffe://example.org/ns/shop/sa/checkout");
//! println!("{} {}", gateway.certificate.display(), pki.layout().trust().display());
//! # Ok(())
//! # }
//! ```
//!
//! The authority refuses to issue a certificate that the gateway would refuse, with the same reason
//! code. This crate must not use the configuration, the command line or the network.

use countersign_core::{
    clock, crypto, der, directory_lock, file_access, file_read, file_stamp, identity, kill_point,
    pem, reason, secret, trust,
};

pub mod bulk;
pub mod creating;
mod crls;
pub mod directory;
pub mod export;
mod files;
pub mod fixtures;
mod generation;
pub mod inspect;
mod intermediate_request;
pub mod issuing;
pub mod lint;
mod recording;
pub mod records;
pub mod renewing;
pub mod revoking;
mod root_lists;
pub mod rotating;
mod signed_elsewhere;
pub mod signing;
pub mod store;

pub use bulk::BulkProgress;
pub use creating::AuthorityOptions;
pub use crls::SignedCrl;
pub use directory::Pki;
pub use files::error::{PkiError, RootTask};
pub use files::layout::Layout;
pub use generation::{ExistingRoot, RootSource};
pub use intermediate_request::IntermediateRequest;
pub use issuing::Issued;
pub use records::inventory::{Entry, Filter, InventoryError};
pub use records::state::StateError;
pub use renewing::{Remaining, Renewal};
pub use revoking::{Among, Revocation, RevocationTarget, Revoked, Status};
pub use rotating::{Dependent, Retired, Rotation, RotationOptions};
pub use signed_elsewhere::SignedIntermediate;
pub use signing::authority::CertificateAuthority;
pub use signing::authority_certificate::AuthorityCertificate;
pub use signing::csr::{SigningRequest, SigningRequestError};
pub use signing::error::AuthorityError;
pub use signing::lifetime::Lifetime;
pub use signing::names::{RequestError, SubjectNames};
pub use signing::profile::{CertificateProfile, ProfileRules, Profiles, Usages};
pub use signing::request::IssueRequest;
pub use signing::revoked::{RevocationReason, RevokedCertificate};
pub use signing::signatory::{AuthorityName, Generation, Signatory};
pub use store::key::{KeyAlgorithm, KeyError, KeyProtection};
pub use store::{SafeName, StoreError};

#[cfg(test)]
mod kill_tests;
