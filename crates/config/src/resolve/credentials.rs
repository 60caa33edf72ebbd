//! The gateway's own certificates and private keys: reads them, and checks for which host names the
//! certificates are valid.

use std::net::IpAddr;

use super::context::Context;
use super::pem;
use crate::diagnostics::Diagnostic;
use crate::document::Document;
use crate::document::raw::Listener;
use crate::document::value::{At, Field};
use crate::identity::LeafFacts;
use crate::identity::pattern::HostPattern;
use crate::material::units::UnitKey;
use crate::tls::{CertificateOwner, Credentials, CredentialsError, OwnCertificate};

/// Reads the certificate and the private key of `[listener]`. If both keys are absent and there is
/// a `[[server_name]]`, returns `None` without an error. The gateway then serves only the names of
/// `[[server_name]]` sections.
pub(super) fn default_credentials(
    section: &Listener,
    document: &Document,
    context: &mut Context<'_>,
) -> Option<Credentials> {
    let (missing, present) = match (
        section.certificate.is_absent(),
        section.private_key.is_absent(),
    ) {
        (false, false) => {
            return credentials(
                &CertificateOwner::Listener,
                &section.certificate,
                &section.private_key,
                context,
            );
        }
        (true, true) if document.has("server_name") => return None,
        (true, false) => ("certificate", "private_key"),
        (false, true) => ("private_key", "certificate"),
        (true, true) => {
            context.error(
                Diagnostic::new(section.place.clone(), "[listener] has no `certificate`")
                    .label("`certificate` and `private_key` are missing here")
                    .help("add both; without them only [[server_name]] entries can be served"),
            );
            return None;
        }
    };
    context.error(
        Diagnostic::new(
            section.place.clone(),
            format!("[listener] has a `{present}` and no `{missing}`"),
        )
        .label(format!("`{missing}` is missing here"))
        .help(format!("add `{missing}`")),
    );
    None
}

/// Reads a certificate chain and its private key as one unit of material. Each error names the file
/// that is wrong.
pub(super) fn credentials(
    owner: &CertificateOwner,
    certificate: &Field<String>,
    private_key: &Field<String>,
    context: &mut Context<'_>,
) -> Option<Credentials> {
    let (certificate, private_key) = (certificate.at()?, private_key.at()?);
    let key = UnitKey::new(format_args!("certificate of {owner}"));
    let credentials = context.unit(key, |context| read(certificate, private_key, context))?;
    let file = context.files.locate(&certificate.value);
    for own in OwnCertificate::all_of(owner, &file, &credentials) {
        if !context.own_certificates.contains(&own) {
            context.own_certificates.push(own);
        }
    }
    Some(credentials)
}

fn read(
    certificate: &At<String>,
    private_key: &At<String>,
    context: &mut Context<'_>,
) -> Option<Credentials> {
    let chain_path = context.files.locate(&certificate.value);
    let key_path = context.files.locate(&private_key.value);
    let chain = context
        .files
        .read(certificate, &chain_path, context.diagnostics);
    let key = context
        .files
        .read_private(private_key, &key_path, context.diagnostics);
    let (chain, key) = (chain?, key?);
    let error = match Credentials::from_pem(&chain, key.expose(), context.now) {
        Ok(credentials) => return Some(credentials),
        Err(error) => error,
    };
    let of_certificate = |what: &str| pem::about(certificate, &chain_path, what);
    let of_key = |what: &str| pem::about(private_key, &key_path, what);
    let shown = match &error {
        CredentialsError::CertificateFile(error) => pem::damaged(certificate, &chain_path, error),
        CredentialsError::Certificate(why) => of_certificate(&format!(
            "is no certificate chain: {why}"
        ))
        .help("name a PEM file with the server's certificate first, then its intermediates"),
        CredentialsError::KeyFile(error) => pem::damaged(private_key, &key_path, error),
        CredentialsError::Key(why) => of_key(&format!("holds no usable private key: {why}"))
            .help("name a PEM file with the private key of the certificate"),
        CredentialsError::Mismatch => {
            of_key(&format!("does not belong to {}", chain_path.display()))
                .label("this key")
                .also(certificate.place.clone(), "is not of this certificate")
                .help("name the key the certificate was issued for; the server's certificate comes first in its file")
        }
        CredentialsError::NotValid(why) => {
            of_certificate(&format!("cannot be used now: {why}"))
                .help("renew the certificate, or set the clock")
        }
    };
    context.error(shown);
    None
}

/// Whether a certificate is valid for a host name, an address or a wildcard name.
pub(super) fn covers(facts: &LeafFacts, host: &str) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        return facts.sans.ip.contains(&address);
    }
    facts.sans.dns.iter().any(|san| {
        HostPattern::parse(san).is_ok_and(|san| san.to_string() == host || san.matches(host))
    })
}
