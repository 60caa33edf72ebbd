//! `PathMember`: the facts about one certificate of a path that revocation checks and the deny list
//! need.

use std::sync::Arc;

use x509_parser::extensions::{DistributionPointName, GeneralName};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::error::PathError;
use crate::crypto;
use crate::identity::leaf::{rfc4514, significant};
use crate::reason::ReasonCode;

/// One certificate of a verified path, with the facts that are compared with revocation lists and
/// deny list entries.
#[derive(Debug, Clone)]
pub(crate) struct PathMember {
    /// The issuer's name, in DER.
    pub(crate) issuer: Box<[u8]>,
    /// The issuer's name as RFC 4514 text.
    pub(crate) issuer_text: Box<str>,
    /// The serial number without leading zero bytes.
    pub(crate) serial: Box<[u8]>,
    /// SHA-256 hash of the certificate's DER.
    pub(crate) thumbprint: [u8; 32],
    /// Whether the certificate is an intermediate. False for the leaf. A root is never a member.
    pub(crate) is_authority: bool,
    /// The names in cRLDistributionPoints that can be compared with the names in a revocation list.
    /// `None` if the certificate has no cRLDistributionPoints.
    pub(crate) distribution_points: Option<Box<[PointName]>>,
    /// The issuer's SubjectPublicKeyInfo, in DER.
    pub(crate) issuer_key: Arc<[u8]>,
    /// SHA-256 hash of `issuer_key`.
    pub(crate) issuer_key_hash: [u8; 32],
    /// Whether keyUsage allows the issuer to sign revocation lists.
    pub(crate) issuer_signs_crls: bool,
}

/// The facts about a certificate's issuer that its [`PathMember`] contains.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Issuer<'a> {
    /// The issuer's SubjectPublicKeyInfo, in DER.
    pub(crate) key: &'a [u8],
    /// Whether keyUsage allows the issuer to sign revocation lists.
    pub(crate) signs_crls: bool,
}

impl PathMember {
    /// Reads the facts from a certificate in DER. `issuer` is the certificate above it in the path.
    pub(crate) fn read(
        der: &[u8],
        is_authority: bool,
        issuer: Issuer<'_>,
    ) -> Result<Self, PathError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| {
            (
                ReasonCode::MalformedIdentity,
                "a certificate of the path cannot be read".to_owned(),
            )
        })?;
        Ok(Self {
            issuer: certificate.issuer().as_raw().into(),
            issuer_text: rfc4514(certificate.issuer()).into(),
            serial: significant(certificate.raw_serial()).into(),
            thumbprint: crypto::sha256(der),
            is_authority,
            distribution_points: distribution_points(&certificate),
            issuer_key: issuer.key.into(),
            issuer_key_hash: crypto::sha256(issuer.key),
            issuer_signs_crls: issuer.signs_crls,
        })
    }
}

/// A name of a CRL distribution point. Names of other types are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PointName {
    /// A URI of a revocation list.
    Uri(Box<str>),
    /// A directory name in DER.
    Directory(Box<[u8]>),
}

impl PointName {
    pub(crate) fn all_of(point: &DistributionPointName<'_>) -> Box<[Self]> {
        let DistributionPointName::FullName(names) = point else {
            return Box::default();
        };
        let compared = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(Self::Uri(Box::from(*uri))),
            GeneralName::DirectoryName(name) => Some(Self::Directory(name.as_raw().into())),
            _ => None,
        });
        compared.collect()
    }
}

/// Returns the names of the distribution points of a certificate. Ignores a distribution point with
/// `reasons` or with another CRL issuer, because revocation lists of these kinds are not supported.
fn distribution_points(certificate: &X509Certificate<'_>) -> Option<Box<[PointName]>> {
    let points = certificate.extensions().iter().find_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::CRLDistributionPoints(points) => Some(points),
            _ => None,
        }
    })?;
    let usable = points
        .points
        .iter()
        .filter(|point| point.reasons.is_none() && point.crl_issuer.is_none())
        .filter_map(|point| point.distribution_point.as_ref())
        .flat_map(PointName::all_of);
    Some(usable.collect())
}
