//! DER structures that rcgen cannot write.

/// Encodes one DER element: tag, definite length (X.690 section 10.1), content.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => der.push(short),
        _ => {
            let octets = length.to_be_bytes();
            let significant = crate::identity::leaf::significant(&octets);
            // A length has at most eight bytes, so `try_from` never fails.
            der.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
            der.extend_from_slice(significant);
        }
    }
    der.extend_from_slice(content);
    der
}

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
            let mut description = element(OBJECT_IDENTIFIER, &CA_ISSUERS);
            description.extend(element(URI, url.as_bytes()));
            element(SEQUENCE, &description)
        })
        .collect();
    element(SEQUENCE, &descriptions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        for (length, header) in [
            (0, vec![4, 0]),
            (127, vec![4, 127]),
            (128, vec![4, 0x81, 128]),
            (255, vec![4, 0x81, 255]),
            (256, vec![4, 0x82, 1, 0]),
            (70_000, vec![4, 0x83, 1, 0x11, 0x70]),
        ] {
            let der = element(4, &vec![0; length]);
            assert!(der.starts_with(&header), "{length}");
            assert_eq!(der.len(), header.len() + length);
        }
    }

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
