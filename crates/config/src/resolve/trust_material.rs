//! The files of a trust domain: roots, intermediates and CRLs, as one unit of material.
//!
//! A load of material reads files again without a change of the configuration in service. If a file
//! cannot be used in such a load, its last good content stays in use. So an error in one file never
//! delays a revocation in another file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::context::Context;
use super::pem::{Found, material};
use super::summaries::{crl_summaries, root_summaries};
use super::{crl_fetch, pem};
use crate::crl_fetch::CrlSource;
use crate::crypto;
use crate::diagnostics::{Diagnostic, Span};
use crate::document::raw::Trust;
use crate::document::value::{At, Field, Words as _};
use crate::identity::{IdentityPattern, NameType, TrustDomain};
use crate::material::inventory::TrustDomainSummary;
use crate::trust::{
    BundleError, CrlRules, Predecessors, RevocationDepth, RevocationPosture, TrustBundle,
    TrustBundleConfig,
};

/// The settings of a trust domain, without the content of its files.
pub(super) struct DomainRules {
    pub(super) name: At<TrustDomain>,
    pub(super) posture: RevocationPosture,
    pub(super) depth: RevocationDepth,
    pub(super) grace: Duration,
    pub(super) crl_rules: CrlRules,
    pub(super) vouches_for: Vec<IdentityPattern>,
    pub(super) identity_from: Vec<NameType>,
}

/// The content of a trust domain's files, and the bundle that was built from it.
#[derive(Clone)]
pub(super) struct DomainMaterial {
    pub(super) bundle: Arc<TrustBundle>,
    roots: Vec<Found<CertificateDer<'static>>>,
    intermediates: Vec<Found<CertificateDer<'static>>>,
    /// The entries of `crls`, as they are written in the configuration.
    written_lists: Vec<String>,
}

impl DomainMaterial {
    /// Returns a digest of the unit's content: the bundle, the certificates, the bundle's alarms
    /// and the content that was fetched from `sources`. If the digest stays the same, a reload has
    /// not changed the unit.
    pub(super) fn digest(&self, sources: &[CrlSource]) -> [u8; 32] {
        let mut parts: Vec<Vec<u8>> = vec![self.bundle.digest().to_vec()];
        let certificates = self.roots.iter().chain(&self.intermediates);
        parts.extend(certificates.map(|found| found.value.to_vec()));
        parts.extend(
            self.bundle
                .alarms()
                .iter()
                .map(|alarm| alarm.clone().into_bytes()),
        );
        parts.extend(sources.iter().map(|source| source.in_use.to_vec()));
        let hashes: Vec<[u8; 32]> = parts.iter().map(|part| crypto::sha256(part)).collect();
        crypto::sha256(&hashes.concat())
    }
}

/// The content of a trust domain's files. A field is `None` if one of its files cannot be used.
pub(super) struct DomainFiles {
    roots: Option<Vec<Found<CertificateDer<'static>>>>,
    intermediates: Option<Vec<Found<CertificateDer<'static>>>>,
    lists: Option<Vec<Found<CertificateRevocationListDer<'static>>>>,
}

/// Reads roots, intermediates and CRLs. While the gateway runs, `before` contains the certificates
/// in service. They are used in place of files that cannot be used. CRLs that cannot be used are
/// left out, so that the other CRLs take effect.
pub(super) fn read_files(
    section: &Trust,
    before: Option<&DomainMaterial>,
    context: &mut Context<'_>,
) -> DomainFiles {
    let crls_only = context.units.crls_only;
    let certificates = |files: &[At<String>],
                        last_good: Option<&Vec<Found<CertificateDer<'static>>>>,
                        context: &mut Context<'_>| {
        if crls_only && let Some(last_good) = last_good {
            // The files are read only to record their stamps. So a later change of the files is
            // detected.
            let _ = context.part(|context| material(files, context, pem::certificates));
            return Some(last_good.clone());
        }
        match last_good.filter(|_| context.units.keep_last_good) {
            Some(last_good) => Some(certificates_or_last_good(files, last_good, context)),
            None => material(files, context, pem::certificates),
        }
    };
    let roots = match &section.roots {
        Field::Good(roots) => {
            certificates(&roots.value.0, before.map(|before| &before.roots), context)
        }
        _ => None,
    };
    let intermediates = match &section.intermediates {
        Field::Bad => None,
        files => certificates(
            files.items(),
            before.map(|before| &before.intermediates),
            context,
        ),
    };
    DomainFiles {
        roots,
        intermediates,
        lists: revocation_lists(section, context),
    }
}

/// Reads certificate files. For a file that cannot be used, takes the certificates that this file
/// had in `last_good`. So an operator can remove a root from one file even if another file has an
/// error.
fn certificates_or_last_good(
    files: &[At<String>],
    last_good: &[Found<CertificateDer<'static>>],
    context: &mut Context<'_>,
) -> Vec<Found<CertificateDer<'static>>> {
    let mut all = Vec::new();
    for written in files {
        let expand = |context: &mut Context<'_>| context.files.expand(written, context.diagnostics);
        let Some(paths) = context.part(expand) else {
            let of_entry = |found: &&Found<_>| found.place == written.place;
            all.extend(last_good.iter().filter(of_entry).cloned());
            continue;
        };
        for path in paths {
            match context.part(|context| pem::certificates(written, &path, context)) {
                Some(read) => all.extend(read.into_iter().map(|value| Found {
                    value,
                    path: path.clone(),
                    place: written.place.clone(),
                })),
                None => all.extend(last_good.iter().filter(|found| found.path == path).cloned()),
            }
        }
    }
    all
}

/// Reads the files of a trust domain and builds its bundle. `before` is the material in service.
pub(super) fn domain_material(
    section: &Trust,
    rules: &DomainRules,
    before: Option<&DomainMaterial>,
    context: &mut Context<'_>,
) -> Option<DomainMaterial> {
    let files = read_files(section, before, context);
    let (roots, intermediates, lists) = (files.roots?, files.intermediates?, files.lists?);
    let written_lists: Vec<String> = section
        .crls
        .items()
        .iter()
        .map(|written| written.value.clone())
        .collect();
    let mut config = rules.bundle_config();
    config.roots = values(&roots);
    config.intermediates = values(&intermediates);
    let (lists, copies) = crl_fetch::check_against_copies(lists, &config, context);
    let summary = TrustDomainSummary {
        name: rules.name.value.to_string(),
        roots: root_summaries(&roots),
        revocation_lists: crl_summaries(&lists, rules.posture, rules.crl_rules.max_age, context),
        revocation: rules.posture.word(),
        revocation_depth: rules.depth.word(),
        vouches_for: rules.vouches_for.iter().map(ToString::to_string).collect(),
        identity_from: rules
            .identity_from
            .iter()
            .map(|kind| kind.as_str())
            .collect(),
    };
    context.inventory.trust_domains.push(summary);
    let in_service = context.previous.and_then(|previous| {
        let mut bundles = previous.bundles.iter();
        bundles.find(|bundle| *bundle.name() == config.name)
    });
    // The CRLs are moved and not copied, because they may be large.
    let (values_of_lists, origins): (Vec<_>, Vec<_>) = lists.into_iter().map(Found::split).unzip();
    config.crls = values_of_lists;
    let mut parts = BundleParts {
        name: &rules.name.place,
        config,
        roots,
        intermediates,
        origins,
        // If the entries of `crls` are the same as before, a CRL in service stays in force even if
        // its file is missing now. If the entries have changed, CRLs that no entry names are
        // dropped.
        predecessors: match before {
            Some(before) if before.written_lists == written_lists => Predecessors::InForce,
            _ => Predecessors::Replaced,
        },
    };
    let earlier = in_service.map(|bundle| &**bundle).or(copies.as_ref());
    let bundle = parts.build(earlier, before, context)?;
    for alarm in bundle.alarms() {
        let remedy = remedy(alarm);
        let place = rules.name.place.clone();
        context.warn(Diagnostic::new(place, alarm.clone()).help(remedy));
    }
    Some(DomainMaterial {
        bundle: Arc::new(bundle),
        roots: parts.roots,
        intermediates: parts.intermediates,
        written_lists,
    })
}

/// Returns what an operator can do about an alarm of a bundle.
fn remedy(alarm: &str) -> &'static str {
    if alarm.starts_with("revocation list") {
        "fetch the current list from its issuer"
    } else if alarm.starts_with("intermediate") {
        "remove it, or have it issued anew: with a key of P-256, P-384, Ed25519 or RSA (2048 to 8192 \
         bits), and signed with SHA-256 or SHA-384"
    } else {
        "remove or replace the root certificate"
    }
}

/// What an operator can do if no root has a usable key.
const USABLE_ROOT: &str = "use an authority whose key is P-256, P-384, Ed25519 or RSA with 2048 to \
    8192 bits (rsaEncryption); a gateway built with the feature aws-lc-rs also supports P-521";

impl DomainRules {
    /// Returns the settings of a bundle. The lists of certificates and CRLs are empty.
    fn bundle_config(&self) -> TrustBundleConfig {
        TrustBundleConfig {
            name: self.name.value.clone(),
            roots: Vec::new(),
            intermediates: Vec::new(),
            crls: Vec::new(),
            posture: self.posture,
            depth: self.depth,
            grace: self.grace,
            crl_rules: self.crl_rules,
            vouches_for: self.vouches_for.clone(),
            identity_from: self.identity_from.clone(),
        }
    }
}

fn values(found: &[Found<CertificateDer<'static>>]) -> Vec<CertificateDer<'static>> {
    found.iter().map(|found| found.value.clone()).collect()
}

/// The input from which a bundle is built. Error messages take the names of files from the places
/// and origins.
struct BundleParts<'a> {
    name: &'a Span,
    config: TrustBundleConfig,
    roots: Vec<Found<CertificateDer<'static>>>,
    intermediates: Vec<Found<CertificateDer<'static>>>,
    /// The file and the place in the configuration of each CRL, in the same order as `config.crls`.
    origins: Vec<Found<()>>,
    predecessors: Predecessors,
}

impl BundleParts<'_> {
    /// Builds the bundle. In a load of material, leaves out CRLs that cannot be used. If the new
    /// roots cannot be used, uses the roots and intermediates of `before`, but not the roots that
    /// were removed ([`Self::keep_earlier_roots`]). So these errors never prevent other CRLs from
    /// taking effect.
    fn build(
        &mut self,
        earlier: Option<&TrustBundle>,
        before: Option<&DomainMaterial>,
        context: &mut Context<'_>,
    ) -> Option<TrustBundle> {
        let mut keeps_earlier_roots = false;
        loop {
            let build = match keeps_earlier_roots {
                false => TrustBundle::build_after,
                true => TrustBundle::build_refusing,
            };
            let built = build(&self.config, context.now, earlier, self.predecessors);
            let error = match built {
                Ok(bundle) => return Some(bundle),
                Err(error) => error,
            };
            let shown = self.show(&error);
            let last_good = before.filter(|_| context.units.keep_last_good);
            match (&error, last_good) {
                (BundleError::RevocationList { index, .. }, Some(_))
                    if (1..=self.config.crls.len()).contains(index) =>
                {
                    context.degraded.push(shown);
                    self.config.crls.remove(index - 1);
                    self.origins.remove(index - 1);
                }
                (
                    BundleError::Root { .. }
                    | BundleError::NoValidRoot { .. }
                    | BundleError::NoUsableRoot { .. },
                    Some(last_good),
                ) if !keeps_earlier_roots => {
                    context.degraded.push(shown);
                    keeps_earlier_roots = true;
                    self.keep_earlier_roots(last_good);
                }
                _ => {
                    context.error(shown);
                    return None;
                }
            }
        }
    }

    /// Uses the roots of `last_good` that the files still contain. If an operator removed a root,
    /// it must not stay trusted only because another root cannot be used. If the files contain none
    /// of the roots of `last_good`, the operator probably replaced all files by mistake. So all
    /// these roots stay trusted.
    fn keep_earlier_roots(&mut self, last_good: &DomainMaterial) {
        let is_still_there =
            |root: &&Found<CertificateDer<'static>>| self.config.roots.contains(&root.value);
        let mut kept: Vec<_> = (last_good.roots.iter())
            .filter(is_still_there)
            .cloned()
            .collect();
        if kept.is_empty() {
            kept.clone_from(&last_good.roots);
        }
        self.roots = kept;
        self.intermediates.clone_from(&last_good.intermediates);
        self.config.roots = values(&self.roots);
        self.config.intermediates = values(&self.intermediates);
    }

    fn show(&self, error: &BundleError) -> Diagnostic {
        let of = |files: Option<(&PathBuf, &Span)>, why: &str| match files {
            Some((path, place)) => {
                Diagnostic::new(place.clone(), format!("{}: {why}", path.display()))
                    .label("this file")
            }
            None => Diagnostic::new(self.name.clone(), why.to_owned()),
        };
        match error {
            BundleError::Root { index, why, .. } => of(
                self.roots
                    .get(index - 1)
                    .map(|root| (&root.path, &root.place)),
                &format!("a root certificate cannot be used: {why}"),
            )
            .help("name the certificate of a certificate authority"),
            BundleError::RevocationList { index, why, .. } => of(
                self.origins
                    .get(index - 1)
                    .map(|list| (&list.path, &list.place)),
                &format!("a revocation list cannot be used: {why}"),
            )
            .help(why.remedy()),
            BundleError::NoUsableRoot { .. } => of(None, &error.to_string()).help(USABLE_ROOT),
            BundleError::NoValidRoot { .. } => {
                of(None, &error.to_string()).help("give it a root certificate that is valid now")
            }
            BundleError::NoRevocationList { .. } => of(None, &error.to_string()).help(
                "name the revocation lists of its authorities in crls, or set revocation = \"off\"",
            ),
        }
    }
}

fn revocation_lists(
    section: &Trust,
    context: &mut Context<'_>,
) -> Option<Vec<Found<CertificateRevocationListDer<'static>>>> {
    let name = match &section.name {
        Field::Good(name) => Some(&name.value),
        _ => None,
    };
    let max_age = section.max_age.value().map(|age| age.get());
    let mut all = Some(Vec::new());
    for written in section.crls.items() {
        let found = match name {
            Some(name) if crl_fetch::is_url(written) => {
                context.part(|context| crl_fetch::lists(written, name, max_age, context))
            }
            None if crl_fetch::is_url(written) => None,
            _ => list_files(written, context),
        };
        match (found, &mut all) {
            (Some(found), Some(all)) => all.extend(found),
            // In a load of material, an entry that cannot be read is skipped. Its CRLs in service
            // stay in force.
            (None, Some(_)) if context.units.keep_last_good => {}
            _ => all = None,
        }
    }
    match &section.crls {
        Field::Bad => None,
        _ => all,
    }
}

/// Reads the CRLs in the files that one entry of `crls` names. In a load of material, skips files
/// that cannot be used, so that the other files take effect.
fn list_files(
    written: &At<String>,
    context: &mut Context<'_>,
) -> Option<Vec<Found<CertificateRevocationListDer<'static>>>> {
    let expand = |context: &mut Context<'_>| context.files.expand(written, context.diagnostics);
    let paths = context.part(expand)?;
    let mut all = Some(Vec::new());
    for path in paths {
        let lists = context.part(|context| pem::revocation_lists(written, &path, context));
        match (lists, &mut all) {
            (Some(lists), Some(all)) => all.extend(lists.into_iter().map(|value| Found {
                value,
                path: path.clone(),
                place: written.place.clone(),
            })),
            (None, Some(_)) if context.units.keep_last_good => {}
            _ => all = None,
        }
    }
    all
}
