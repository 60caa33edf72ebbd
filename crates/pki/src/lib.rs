//! A private certificate authority: profiles, issuing, revocation lists, files.
//!
//! On top, parts of [`Pki`], which is an authority in a directory:
//!
//! - `bulk`: issues many leaves
//! - `renewing`: issues them again, with a new key
//! - `fixtures`: broken certificates for testers
//! - `rotating`: a new root and intermediate beside the present ones
//! - `creating`: makes an authority, from nothing or from an existing root
//! - `issuing`: issues one leaf
//! - `recording`: records certificates, and searches them
//! - `revoking`: revokes certificates
//! - `crls`: signs and publishes revocation lists
//! - `export`: certificates in the formats of other programs
//! - `inspect`: shows the content of files, with lints
//! - `directory`: opens an authority
//!
//! Below, from top to bottom; a folder imports only from those after it:
//!
//! - `files`: which file is where, and how several of them change together
//! - `records`: what an authority remembers: `pki.toml` and `inventory.db`
//! - `signing`: signs certificates and lists in memory; names, profiles, requests
//! - `lint`: what is wrong or unwise about a certificate or list
//! - `store`: exclusive, durable files; private keys
//!
//! For other commands of this program:
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
//! What the gateway would refuse is refused here with the gateway's reason.
//! This module must not know the configuration, the command line or the network.

use countersign_core::{
    clock, crypto, directory_lock, file_read, identity, kill_point, pem, reason, secret,
};

pub mod bulk;
pub mod creating;
mod crls;
pub mod directory;
pub mod export;
mod files;
pub mod fixtures;
pub mod inspect;
pub mod issuing;
pub mod lint;
mod recording;
pub mod records;
pub mod renewing;
pub mod revoking;
pub mod rotating;
pub mod signing;
pub mod store;

pub use bulk::BulkProgress;
pub use creating::{AuthorityOptions, ExistingRoot};
pub use crls::SignedCrl;
pub use directory::Pki;
pub use files::error::PkiError;
pub use files::layout::Layout;
pub use issuing::Issued;
pub use records::inventory::{Entry, Filter, InventoryError};
pub use records::state::StateError;
pub use renewing::{Remaining, Renewal};
pub use revoking::{Among, Revocation, RevocationTarget, Revoked, Status};
pub use rotating::{Retired, Rotation, RotationOptions};
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
