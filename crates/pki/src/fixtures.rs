//! Makes test certificates (fixtures) with faults: at least one for each reason why a gateway
//! refuses a certificate.
//!
//! A separate authority below the output directory signs the certificates. So an authority in use
//! never signs a certificate with a fault. Each file is named after the gateway's reason code.
//! `manifest.json` contains the expected decisions. The table in `faults` lists all faults.

/// The table of all faults.
mod faults;

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::files::layout::Layout;
use super::fixtures::faults::{FAULTS, Fault, Making};
use super::revoking::RevocationTarget;
use super::signing::authority::random_serial;
use super::signing::date::date;
use super::signing::error::AuthorityError;
use super::signing::lifetime::Lifetime;
use super::signing::profile::{BACKDATING, CertificateProfile};
use super::signing::revoked::RevocationReason;
use super::signing::signatory::AuthorityName;
use super::store::key::{self, KeyProtection};
use super::store::{self, Audience, Existing};
use crate::clock;
use crate::identity::TrustDomain;
use crate::identity::text::hex;
use crate::reason::ReasonCode;

/// The lifetime of the test certificates and of their revocation lists.
const GOOD_FOR: Lifetime = Lifetime::days(365);
/// The file that marks an authority as made for fixtures, so that it may be replaced.
const MARK: &str = "FOR-TESTS-ONLY";

/// The content of `manifest.json`. All paths are relative to the directory of this file.
#[derive(Debug, Clone, Serialize)]
pub struct Manifest {
    /// The trust domain for which the gateway must be configured.
    pub trust_domain: String,
    /// The value for the key `roots` of the gateway's trust domain.
    pub roots: Vec<String>,
    /// The value for the key `crls` of the gateway's trust domain.
    pub crls: Vec<String>,
    /// The value for the key `revocation` of the gateway's trust domain.
    pub revocation: &'static str,
    /// The value for the key `identity_from` of the gateway's trust domain.
    pub identity_from: Vec<&'static str>,
    /// When the test certificates expire, in RFC 3339 format. The certificates must be made again
    /// then.
    pub valid_until: String,
    /// The descriptions of all test certificates.
    pub fixtures: Vec<Fixture>,
}

/// One test certificate, with the decision that the gateway must make about it.
#[derive(Debug, Clone, Serialize)]
pub struct Fixture {
    /// The path of the certificate file. It contains the leaf, then the intermediates that a peer
    /// sends.
    pub certificate: String,
    /// The path of the private key. `None` for the certificate with a weak key, whose private key
    /// is unknown.
    pub key: Option<String>,
    /// What is wrong with the certificate, in words.
    pub description: &'static str,
    /// The gateway's decision with the settings in the manifest.
    #[serde(flatten)]
    pub expected: Expected,
    /// The gateway's decision with `identity_from = ["dns"]`. Only present if it differs from
    /// `expected`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with_identity_from_dns: Option<Expected>,
}

/// A decision of the gateway about a certificate.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Expected {
    /// The reason code. `None` if the certificate is accepted.
    pub reason: Option<&'static str>,
    /// The TLS alert that ends the handshake. It does not depend on whether the gateway requires a
    /// client certificate, because a certificate that is presented must always be valid.
    pub tls_alert: Option<Alert>,
}

/// A TLS alert (RFC 8446 section 6).
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Alert {
    /// The number of the alert in TLS.
    pub number: u8,
    /// The name of the alert in TLS.
    pub name: &'static str,
}

impl From<Option<ReasonCode>> for Expected {
    fn from(reason: Option<ReasonCode>) -> Self {
        Self {
            reason: reason.map(ReasonCode::as_str),
            tls_alert: reason.and_then(ReasonCode::alert).map(|alert| Alert {
                number: alert.number(),
                name: alert.name(),
            }),
        }
    }
}

/// Makes all test certificates for a trust domain in the directory `out`.
///
/// # Errors
/// If files already exist and `overwrite` is false. If `out` contains an authority that was not
/// made for test certificates. If files cannot be written.
pub fn create(domain: &TrustDomain, out: &Path, overwrite: bool) -> Result<Manifest, PkiError> {
    let existing = if overwrite {
        Existing::Replace
    } else {
        Existing::Refuse
    };
    let manifest_path = out.join("manifest.json");
    if existing == Existing::Refuse {
        store::refuse_existing(&manifest_path)?;
    }
    let directory = out.join("ca");
    let mark = directory.join(MARK);
    let is_ours = mark.exists() || manifest_path.exists();
    if Layout::new(&directory).state().exists() && !is_ours {
        return Err(PkiError::NotOfFixtures(directory));
    }
    // The mark is written before the authority. If the run is killed, a run with `--force` finds
    // the mark and may replace the authority.
    store::create_directory(&directory)?;
    let words = b"This authority is for tests; pki fixtures --force replaces it.\n";
    store::write(&mark, words, Audience::Public, Existing::Replace)?;
    let make = if overwrite { Pki::replace } else { Pki::create };
    let mut workshop = Workshop {
        pki: make(&directory, domain, &KeyProtection::Plain)?,
        out: out.to_owned(),
        existing,
        now: clock::certificate_now(),
    };
    let fixtures = FAULTS
        .iter()
        .map(|fault| workshop.make(fault))
        .collect::<Result<Vec<_>, _>>()?;
    for name in AuthorityName::ALL {
        workshop.pki.sign_crls(name, Some(GOOD_FOR))?;
    }
    let manifest = Manifest {
        trust_domain: domain.to_string(),
        roots: vec!["ca/trust.pem".to_owned()],
        crls: AuthorityName::ALL
            .iter()
            .map(|name| format!("ca/crl/{}.crl", name.as_str()))
            .collect(),
        revocation: "hard",
        identity_from: vec!["spiffe"],
        valid_until: clock::rfc3339(workshop.now.saturating_add(GOOD_FOR.as_seconds())),
        fixtures,
    };
    let mut text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| PkiError::unreadable(&manifest_path, error))?;
    text.push('\n');
    // The manifest is written last, so every file that it names exists. If the run is killed
    // before, there is no manifest, and a run with `--force` makes all files again.
    store::write(&manifest_path, text.as_bytes(), Audience::Public, existing)?;
    Ok(manifest)
}

struct Workshop {
    pki: Pki,
    out: PathBuf,
    existing: Existing,
    now: i64,
}

/// An additional authority below the intermediate. It signs any certificate without checks.
struct Link {
    der: CertificateDer<'static>,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Workshop {
    fn make(&mut self, fault: &Fault) -> Result<Fixture, PkiError> {
        let certificate = format!("{}.pem", fault.file);
        let key_file = format!("{}.key", fault.file);
        let leaf_key = key::generate()?;
        let chain = self.chain(fault, &leaf_key)?;
        let has_key = !matches!(fault.making, Making::WithKey(_));
        if has_key {
            let path = self.out.join(&key_file);
            key::stage(&path, &leaf_key, &KeyProtection::Plain, self.existing)?.place()?;
        }
        let text: String = chain.iter().map(certificates::pem).collect();
        let path = self.out.join(&certificate);
        store::write(&path, text.as_bytes(), Audience::Public, self.existing)?;
        if matches!(fault.making, Making::Revoked) {
            let target = RevocationTarget::File(path);
            self.pki.revoke(&target, RevocationReason::KeyCompromise)?;
        }
        Ok(Fixture {
            certificate,
            key: has_key.then_some(key_file),
            description: fault.description,
            expected: fault.reason.into(),
            with_identity_from_dns: fault.with_dns.map(|reason| Some(reason).into()),
        })
    }

    /// Returns the certificates of the fixture that a peer presents, starting with the leaf.
    fn chain(
        &mut self,
        fault: &Fault,
        leaf_key: &KeyPair,
    ) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let path = self.pki.layout().certificate(self.pki.issuer());
        let intermediate = self.pki.authority(self.pki.issuer());
        let mut chain = vec![intermediate.der().clone()];
        let domain = self.pki.trust_domain().clone();
        let now = self.now;
        let signer = self.pki.signer()?;
        build(fault, leaf_key, &domain, now, signer.issuer(), &mut chain)
            .map_err(PkiError::authority(&path))?;
        Ok(chain)
    }
}

/// Makes the leaf with its fault, and inserts it at the start of `chain`. If the fault needs more
/// authorities between the leaf and the intermediate, inserts them too.
fn build(
    fault: &Fault,
    leaf_key: &KeyPair,
    domain: &TrustDomain,
    now: i64,
    issuer: &rcgen::Issuer<'static, KeyPair>,
    chain: &mut Vec<CertificateDer<'static>>,
) -> Result<(), AuthorityError> {
    let mut params = leaf_params(fault.file, domain, now)?;
    let sign = |params: &CertificateParams| -> Result<_, AuthorityError> {
        Ok(params.signed_by(leaf_key, issuer)?.der().clone())
    };
    let leaf = match fault.making {
        Making::Sound | Making::Revoked => sign(&params)?,
        Making::Altered(alter) => {
            alter(&mut params, domain, now)?;
            sign(&params)?
        }
        Making::WithoutIntermediate => {
            chain.clear();
            sign(&params)?
        }
        Making::WithKey(make) => params.signed_by(&make()?, issuer)?.der().clone(),
        Making::BelowAuthorities(count) => {
            let mut links: Vec<Link> = Vec::new();
            for _ in 0..count {
                let above = links.last().map_or(issuer, |link| &link.issuer);
                links.push(below(above, domain, now)?);
            }
            let above = links.last().map_or(issuer, |link| &link.issuer);
            let leaf = params.signed_by(leaf_key, above)?.der().clone();
            for link in links {
                chain.insert(0, link.der);
            }
            leaf
        }
    };
    chain.insert(0, leaf);
    Ok(())
}

/// Returns the content of a leaf without faults, before it is signed.
fn leaf_params(
    label: &str,
    domain: &TrustDomain,
    now: i64,
) -> Result<CertificateParams, AuthorityError> {
    let profile = CertificateProfile::PEER;
    let mut params = dated_params(now)?;
    params.is_ca = profile.basic_constraints();
    params.key_usages = profile.key_usages();
    params.extended_key_usages = profile.extended_key_usages();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, label);
    params.subject_alt_names = vec![faults::uri(&format!("spiffe://{domain}/fixtures/{label}"))?];
    Ok(params)
}

fn dated_params(now: i64) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    let until = now.saturating_add(GOOD_FOR.as_seconds());
    params.not_before = date(now.saturating_sub(BACKDATING)).ok_or(AuthorityError::Date)?;
    params.not_after = date(until).ok_or(AuthorityError::Date)?;
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Makes an authority and signs it with `above`, even if the path length constraint of `above`
/// forbids this.
fn below(
    above: &rcgen::Issuer<'static, KeyPair>,
    domain: &TrustDomain,
    now: i64,
) -> Result<Link, AuthorityError> {
    let mark = hex(&crate::crypto::random::<4>()?);
    let mut params = dated_params(now)?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = CertificateProfile::INTERMEDIATE.key_usages();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, format!("One too many {mark}"));
    params.subject_alt_names = vec![faults::uri(&format!("spiffe://{domain}"))?];
    let key = key::generate().map_err(Box::new)?;
    let der = params.signed_by(&key, above)?.der().clone();
    let issuer = rcgen::Issuer::from_ca_cert_der(&der, key)?;
    Ok(Link { der, issuer })
}
