//! Issues leaves: checks the request, signs the certificate, and writes the files.
//!
//! A part of [`Pki`]. The files are first written to temporary files, so an error such as a full
//! disk comes before anything is recorded. Then the inventory records the certificate. After that,
//! the files are renamed to their final paths.

use std::path::PathBuf;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use rcgen::{KeyPair, PublicKeyData, SubjectPublicKeyInfo};

use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::files::layout::Scope;
use super::files::own::refuse_own;
use super::files::transaction::Transaction;
use super::records::inventory::{Cause, NewEntry};
use super::records::state::State;
use super::signed_elsewhere::verify_for;
use super::signing::authority::{CertificateAuthority, SignedCertificate};
use super::signing::authority_certificate::AuthorityCertificate;
use super::signing::csr::SigningRequest;
use super::signing::error::AuthorityError;
use super::signing::names::RequestError;
use super::signing::profile::{CertificateProfile, Usages};
use super::signing::request::IssueRequest;
use super::signing::signatory::AuthorityName;
use super::store::key::{self, KeyProtection};
use super::store::{self, Audience, Existing};
use crate::clock;
use crate::file_access;
use crate::trust::PathPurpose;

/// A leaf that was issued, with the paths of its files.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The path `PREFIX.pem`: the leaf, then the intermediate.
    pub certificate: PathBuf,
    /// The path `PREFIX.key`. The file was not written if the leaf keeps the key that the file
    /// already contains, or if the leaf was issued for a PKCS#10 request.
    pub key: PathBuf,
    /// The names in printed form, for example `spiffe://example.org/a` or `dns:a`.
    pub names: Vec<String>,
    /// The profile under which the leaf was issued.
    pub profile: CertificateProfile,
    /// What the leaf may be used for: TLS clients, TLS servers, or both.
    pub usages: Usages,
    /// The serial number in lower-case hexadecimal.
    pub serial: String,
    /// The SHA-256 hash of the certificate in base64url (`x5t#S256`).
    pub thumbprint: String,
    /// notBefore in seconds since the Unix epoch.
    pub not_before: i64,
    /// notAfter in seconds since the Unix epoch.
    pub not_after: i64,
    /// Sentences about differences between the request and the certificate, for example a shorter
    /// lifetime.
    pub notes: Vec<String>,
}

impl Issued {
    /// Returns the first name of the leaf, which identifies its holder.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// Where the key of a new leaf comes from.
pub(super) enum LeafKey<'a> {
    New,
    /// The key that is already in the leaf's key file.
    Kept(&'a KeyPair),
    /// The key of a PKCS#10 request. Only the public key is known here.
    Requested(&'a SubjectPublicKeyInfo),
}

impl Pki {
    /// Makes all checks of a request that do not need the authority's private key. Returns the
    /// profile under which the leaf will be issued.
    ///
    /// # Errors
    /// If the gateway would refuse the leaf, or if the intermediate is revoked. If a file of the
    /// leaf already exists, or belongs to an authority.
    pub fn check(&self, request: &IssueRequest) -> Result<CertificateProfile, PkiError> {
        self.check_with(request, true)
    }

    /// Same as [`Pki::check`], but the key file may exist, because the leaf gets no new key.
    ///
    /// # Errors
    /// Same as [`Pki::check`].
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
        let (certificate, key) = self.layout().leaf_files(request)?;
        refuse_own(&certificate)?;
        refuse_own(&key)?;
        if !request.overwrite {
            if makes_key {
                store::refuse_existing(&key)?;
            }
            store::refuse_existing(&certificate)?;
        }
        Ok(profile)
    }

    /// Checks the names of a request together with its profile. Returns the profile under which the
    /// leaf will be issued.
    ///
    /// # Errors
    /// If the gateway would refuse the leaf, or if the operator's profile does not allow a name.
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
    /// If the gateway would refuse the leaf, the authority cannot sign, or files already exist or
    /// cannot be written.
    pub fn issue(&mut self, request: &IssueRequest) -> Result<Issued, PkiError> {
        self.issue_with(request, LeafKey::New, Cause::Issue)
    }

    /// Signs a certificate for the key of the PKCS#10 request `signing`. The profile decides the
    /// rest of the certificate. The names are those in `request`, which usually come from
    /// [`SigningRequest::names`].
    ///
    /// # Errors
    /// Same as [`Pki::issue`].
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
        self.check_constraints(&signed, &profile)?;
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

    /// If the root or the intermediate has name constraints, verifies the new leaf as gateways do.
    /// Authorities that other programs have made can have name constraints.
    pub(super) fn check_constraints(
        &self,
        signed: &SignedCertificate,
        profile: &CertificateProfile,
    ) -> Result<(), PkiError> {
        let intermediate = self.intermediate.as_ref();
        if !self.root.has_name_constraints()
            && !intermediate.is_some_and(AuthorityCertificate::has_name_constraints)
        {
            return Ok(());
        }
        let purpose = match profile.usages() {
            Some(usages) if !usages.client => PathPurpose::Server,
            _ => PathPurpose::Client,
        };
        let path = intermediate.map(|authority| authority.der().clone());
        let path = path.into_iter().collect();
        let now = clock::certificate_now();
        verify_for(&self.root, path, None, &signed.der, purpose, now)
            .map_err(|(reason, detail)| RequestError::new(reason, detail).into())
    }

    /// Returns the inventory entry for a leaf that was just signed.
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

    /// Returns the chain that the holder of the leaf presents in TLS, as PEM: the leaf, then the
    /// intermediate if there is one.
    pub(super) fn chain(&self, signed: &SignedCertificate) -> String {
        let mut chain = certificates::pem(&signed.der);
        if let Some(intermediate) = &self.intermediate {
            chain.push_str(&certificates::pem(intermediate.der()));
        }
        chain
    }

    /// Writes the key and the certificate to temporary files, records the certificate, and renames
    /// the files to their final paths.
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
        let places = [file_access::parent(&certificate_path).to_owned()];
        let mut change = Transaction::begin(self.layout(), Scope::Leaves, &places, &lock)?;
        // The key file is renamed first. So a program that waits for the certificate also finds the
        // key.
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

/// Returns sentences about differences between the request and the signed certificate.
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
