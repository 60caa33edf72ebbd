//! The value of the authorityInfoAccess extension, which rcgen cannot write.

use crate::der::element;

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// The tag of a GeneralName that is a uniformResourceIdentifier (RFC 5280 section 4.2.1.6).
const URI: u8 = 0x86;
/// The OID of id-ad-caIssuers (1.3.6.1.5.5.7.48.2), DER content.
const CA_ISSUERS: [u8; 8] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02];

/// Returns the value of the authorityInfoAccess extension. `urls` are where the issuer's
/// certificate can be downloaded (RFC 5280 section 4.2.2.1).
pub(crate) fn authority_info_access(urls: &[String]) -> Vec<u8> {
    let descriptions: Vec<u8> = urls
        .iter()
        .flat_map(|url| {
            let method = element(OBJECT_IDENTIFIER, &[&CA_ISSUERS]);
            let location = element(URI, &[url.as_bytes()]);
            element(SEQUENCE, &[&method, &location])
        })
        .collect();
    element(SEQUENCE, &[&descriptions])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_descriptions_read_back() {
        use x509_parser::extensions::AuthorityInfoAccess;
        use x509_parser::prelude::FromDer as _;
        let urls = [
            "http://a.test/ca.der".to_owned(),
            "http://b.test/ca.der".to_owned(),
        ];
        let der = authority_info_access(&urls);
        let (rest, read) = AuthorityInfoAccess::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let read: Vec<String> = read
            .accessdescs
            .iter()
            .map(|access| format!("{} {}", access.access_method, access.access_location))
            .collect();
        assert_eq!(read.len(), 2);
        assert!(
            read[0].starts_with("1.3.6.1.5.5.7.48.2 ") && read[0].contains(&urls[0]),
            "{read:?}"
        );
        assert!(read[1].contains(&urls[1]), "{read:?}");
    }
}
