//! `PathError`: why a certificate path, or one certificate of it, is refused.

use crate::reason::ReasonCode;

/// The reason code of a refusal, and a sentence with details.
pub type PathError = (ReasonCode, String);

/// Describes an error of webpki about a certificate. webpki's own messages are only the names of
/// the errors in its source code.
pub(crate) const fn in_words(error: &webpki::Error) -> &'static str {
    use webpki::Error;
    match error {
        Error::BadDerTime => "one of its times is malformed",
        Error::EmptyEkuExtension => "its extended key usage is empty",
        Error::ExtensionValueInvalid => "an extension occurs twice, or is malformed",
        Error::InvalidCertValidity => "it expires before it begins",
        Error::InvalidNetworkMaskConstraint => "a name constraint has a network mask with gaps",
        Error::InvalidSerialNumber => "its serial number is malformed",
        Error::MalformedDnsIdentifier => "a DNS name in it is malformed",
        Error::MalformedExtensions => "one of its extensions is malformed",
        Error::MalformedNameConstraint => "a name constraint is malformed",
        Error::MaximumNameConstraintComparisonsExceeded => {
            "it has too many names, or an issuer too many name constraints"
        }
        Error::SignatureAlgorithmMismatch => "it names two different signature algorithms",
        Error::UnsupportedCertVersion => "it is not a certificate of version 3",
        Error::UnsupportedCriticalExtension => "it has a critical extension that is not supported",
        _ => "its encoding is malformed",
    }
}
