//! Issuing leaves: from a checked request to files in their places.
//!
//! A part of [`Pki`]. Everything that can fail for want of space or rights is
//! done before the certificate is recorded, and it is recorded before it is put
//! in its place.

use std::path::PathBuf;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use rcgen::{KeyPair, PublicKeyData, SubjectPublicKeyInfo};

use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::files::layout::Scope;
use super::files::transaction::Transaction;
use super::records::inventory::{Cause, NewEntry};
use super::records::state::State;
use super::signing::authority::{CertificateAuthority, SignedCertificate};
use super::signing::csr::SigningRequest;
use super::signing::error::AuthorityError;
use super::signing::profile::{CertificateProfile, Usages};
use super::signing::request::IssueRequest;
use super::signing::signatory::AuthorityName;
use super::store::key::{self, KeyProtection};
use super::store::{self, Audience, Existing};
use crate::clock;

/// A leaf that was issued, and the paths of its files.
#[derive(Debug, Clone)]
pub struct Issued {
    /// `PREFIX.pem`: the leaf, then the intermediate.
    pub certificate: PathBuf,
    /// `PREFIX.key`; not written if the key stays as it is, or stays with the
    /// requester.
    pub key: PathBuf,
    /// The names in printed form, for example `spiffe://example.org/a` or `dns:a`.
    pub names: Vec<String>,
    /// The profile it was issued under.
    pub profile: CertificateProfile,
    /// The permitted usages.
    pub usages: Usages,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// `x5t#S256`: SHA-256 of the certificate in base64url.
    pub thumbprint: String,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// Differences from the request, in sentences.
    pub notes: Vec<String>,
}

impl Issued {
    /// Returns the first name, which identifies the holder.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// The origin of a leaf's key.
pub(super) enum LeafKey<'a> {
    New,
    /// The key is in its file already.
    Kept(&'a KeyPair),
    /// The private key is with the requester. Only the public key is known.
    Requested(&'a SubjectPublicKeyInfo),
}

impl Pki {
    /// Checks a request as far as that is possible without the private key, and
    /// gives the profile it will be issued under.
    ///
    /// # Errors
    /// When the gateway would refuse such a leaf, the intermediate is revoked,
    /// or files are there already.
    pub fn check(&self, request: &IssueRequest) -> Result<CertificateProfile, PkiError> {
        self.check_with(request, true)
    }

    /// Like [`Pki::check`], for a key that is not made here.
    ///
    /// # Errors
    /// As [`Pki::check`].
    pub fn check_signing(&self, request: &IssueRequest) -> Result<CertificateProfile, PkiError> {
        self.check_with(request, false)
    }

    fn check_with(
        &self,
        request: &IssueRequest,
        makes_key: bool,
    ) -> Result<CertificateProfile, PkiError> {
        let profile = self.check_names(request)?;
        self.check_intermediate(&self.states.read(&self.layout().state())?)?;
        if !request.overwrite {
            let (certificate, key) = self.layout().leaf_files(request)?;
            if makes_key {
                store::refuse_existing(&key)?;
            }
            store::refuse_existing(&certificate)?;
        }
        Ok(profile)
    }

    /// Checks a request's names and gives the profile it will be issued under.
    ///
    /// # Errors
    /// When the gateway would refuse such a leaf.
    pub fn check_names(&self, request: &IssueRequest) -> Result<CertificateProfile, PkiError> {
        let asked = match &request.profile {
            Some(asked) => asked.clone(),
            None => request.names.natural_profile(),
        };
        let asked = self.profiles.in_place_of(asked);
        let profile = request.names.check(&asked, self.trust_domain())?;
        let profile = self.profiles.in_place_of(profile);
        profile.check_names(&request.names)?;
        Ok(profile)
    }

    pub(super) fn check_intermediate(&self, state: &State) -> Result<(), PkiError> {
        let Some(intermediate) = &self.intermediate else {
            return Ok(());
        };
        let root = self.present(AuthorityName::Root);
        if state.is_revoked(root, &intermediate.facts().serial_hex()) {
            return Err(PkiError::IntermediateRevoked(
                self.layout().certificate(AuthorityName::Intermediate),
            ));
        }
        Ok(())
    }

    /// Issues a leaf with a new key.
    ///
    /// # Errors
    /// When the gateway would refuse such a leaf, the authority cannot sign, or
    /// files are there already or cannot be written.
    pub fn issue(&mut self, request: &IssueRequest) -> Result<Issued, PkiError> {
        self.issue_with(request, LeafKey::New, Cause::Issue)
    }

    /// Signs the certificate that a PKCS#10 request asks for, as far as the profile allows it. The
    /// names are those of `request`, usually [`SigningRequest::names`].
    ///
    /// # Errors
    /// As [`Pki::issue`].
    pub fn sign(
        &mut self,
        signing: &SigningRequest,
        request: &IssueRequest,
    ) -> Result<Issued, PkiError> {
        let mut issued = self.issue_with(request, LeafKey::Requested(&signing.key), Cause::Sign)?;
        if !signing.ignored().is_empty() {
            issued.notes.push(format!(
                "the request also asked for: {}; the profile decides that, not the requester",
                signing.ignored().join(", ")
            ));
        }
        Ok(issued)
    }

    pub(super) fn issue_with(
        &mut self,
        request: &IssueRequest,
        source: LeafKey<'_>,
        cause: Cause,
    ) -> Result<Issued, PkiError> {
        let (profile, new_key) = match source {
            LeafKey::New => {
                let profile = self.check(request)?;
                let key = key::generate_for(profile.new_key_type())?;
                (profile, Some(key))
            }
            LeafKey::Kept(key) => {
                let profile = self.check_signing(request)?;
                profile.check_key(&key.subject_public_key_info())?;
                (profile, None)
            }
            LeafKey::Requested(key) => {
                let profile = self.check_signing(request)?;
                profile.check_key(&key.subject_public_key_info())?;
                (profile, None)
            }
        };
        let signer_path = self.layout().certificate(self.issuer());
        let signer = self.signer()?;
        let signed = match (&source, &new_key) {
            (_, Some(key)) => sign(signer, key, request, &profile),
            (LeafKey::Kept(key), _) => sign(signer, *key, request, &profile),
            (LeafKey::Requested(key), _) => sign(signer, *key, request, &profile),
            (LeafKey::New, None) => Err(AuthorityError::KeyMismatch),
        }
        .map_err(PkiError::authority(&signer_path))?;
        let (certificate, key) = self.layout().leaf_files(request)?;
        let record = self.entry_for(&signed, request, &profile, cause)?;
        self.deliver(&signed, new_key.as_ref(), request, &record)?;
        Ok(Issued {
            notes: notes(&signed, request, &profile),
            certificate,
            key,
            names: record.names,
            usages: profile.usages().unwrap_or_default(),
            profile,
            serial: record.serial,
            thumbprint: record.thumbprint,
            not_before: record.not_before,
            not_after: record.not_after,
        })
    }

    /// Returns the inventory entry of a leaf.
    pub(super) fn entry_for(
        &self,
        signed: &SignedCertificate,
        request: &IssueRequest,
        profile: &CertificateProfile,
        cause: Cause,
    ) -> Result<NewEntry, PkiError> {
        let (certificate, _) = self.layout().leaf_files(request)?;
        let parent = self.authority(self.issuer());
        Ok(NewEntry {
            serial: signed.facts.serial_hex(),
            issuer_key: parent.key_identifier_hex(),
            issuer: signed.facts.issuer.clone(),
            parent: Base64UrlUnpadded::encode_string(&parent.facts().thumbprint),
            profile: profile.name().to_owned(),
            names: request.names.iter().map(ToString::to_string).collect(),
            not_before: signed.facts.not_before,
            not_after: signed.facts.not_after,
            thumbprint: Base64UrlUnpadded::encode_string(&signed.facts.thumbprint),
            certificate: std::path::absolute(&certificate).unwrap_or(certificate),
            issued_at: clock::certificate_now(),
            cause,
        })
    }

    /// Returns the chain that a peer presents: the leaf, then the intermediate if there is one.
    pub(super) fn chain(&self, signed: &SignedCertificate) -> String {
        let mut chain = certificates::pem(&signed.der);
        if let Some(intermediate) = &self.intermediate {
            chain.push_str(&certificates::pem(intermediate.der()));
        }
        chain
    }

    /// Puts key and certificate in place, recorded before either can be used.
    fn deliver(
        &self,
        signed: &SignedCertificate,
        leaf_key: Option<&KeyPair>,
        request: &IssueRequest,
        record: &NewEntry,
    ) -> Result<(), PkiError> {
        let (certificate_path, key_path) = self.layout().leaf_files(request)?;
        let existing = if request.overwrite {
            Existing::Replace
        } else {
            Existing::Refuse
        };
        let chain = self.chain(signed);
        let mut inventory = self.inventory()?;
        let lock = self.layout().lock_for_leaves()?;
        self.current_state()?;
        let places = [store::parent(&certificate_path).to_owned()];
        let mut change = Transaction::begin(self.layout(), Scope::Leaves, &places, &lock)?;
        // The key first: a program that waits for the certificate finds its key.
        if let Some(key) = leaf_key {
            let pem = key::to_pem(key, &KeyProtection::Plain)?;
            change.stage(&key_path, pem.as_bytes(), Audience::Owner, existing)?;
        }
        let chain = chain.as_bytes();
        change.stage(&certificate_path, chain, Audience::Public, existing)?;
        change.commit_recorded(&mut inventory, std::slice::from_ref(record))
    }
}

pub(super) fn sign(
    signer: &CertificateAuthority,
    key: &impl PublicKeyData,
    request: &IssueRequest,
    profile: &CertificateProfile,
) -> Result<SignedCertificate, AuthorityError> {
    signer.sign_leaf(
        key,
        &request.names,
        request.label.as_str(),
        profile,
        request.lifetime,
        clock::certificate_now(),
    )
}

/// Lists the differences from the request.
fn notes(
    signed: &SignedCertificate,
    request: &IssueRequest,
    profile: &CertificateProfile,
) -> Vec<String> {
    let mut notes = Vec::new();
    if signed.cut {
        notes.push(format!(
            "the lifetime was cut to the end of its issuer, {}",
            clock::rfc3339(signed.facts.not_after)
        ));
    }
    let asked = request.profile.as_ref().map(CertificateProfile::usages);
    if asked.is_some_and(|asked| asked != profile.usages()) {
        notes.push(format!(
            "issued under profile {profile}: a certificate with a SPIFFE ID carries both usages \
             (X509-SVID section 4.4)"
        ));
    }
    notes
}
