//! Version 2 of the PROXY protocol. A load balancer in front of the gateway sends the address of
//! the caller whose connection it forwards.
//!
//! The gateway reads the header before TLS, and only from peers that the configuration lists. A
//! listed peer must send the header. Without this rule, the gateway would treat a balancer that
//! sends no header as the caller.
//!
//! The address is used in audit lines, rate limits and `Forwarded`. It proves no identity. The
//! gateway reads no bytes beyond the header.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The first bytes of every header (section 2.2 of the PROXY protocol).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The first byte of the signature. No TLS record and no HTTP request begins with it.
pub(super) const FIRST_BYTE: u8 = b'\r';
/// Length in bytes of the header's fixed part: signature, version and command, family, and length.
const FIXED: usize = 16;
/// Maximum length in bytes of the header's variable part: addresses and additional fields (TLVs).
const MAX_LENGTH: usize = 4096;
/// The type of the checksum field: PP2_TYPE_CRC32C (section 2.2.3).
const CHECKSUM: u8 = 3;

/// The reason why a PROXY header is rejected.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The peer closed the connection before it sent a byte.
    #[error("the peer closed at once")]
    Gone,
    /// The connection failed, or ended within the header.
    #[error("the PROXY header did not arrive: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not a valid header, or the header does not describe a TCP connection.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

/// Reads a PROXY header. Returns the address of the caller. Returns `None` if the balancer does not
/// know this address, or if the balancer itself is the caller, for example for a health check.
///
/// # Errors
/// Returns an error if no byte arrives, the stream fails, or the bytes are not a usable header.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = vec![0; FIXED];
    let count = stream.read(&mut header).await?;
    if count == 0 {
        return Err(HeaderError::Gone);
    }
    let rest = header.get_mut(count..).unwrap_or_default();
    stream.read_exact(rest).await?;
    let length = length(&header)?;
    header.resize(FIXED + length, 0);
    let rest = header.get_mut(FIXED..).unwrap_or_default();
    stream.read_exact(rest).await?;
    parse(&header)
}

/// Returns the number of header bytes that follow the fixed part.
fn length(fixed: &[u8]) -> Result<usize, HeaderError> {
    let (signature, rest) = fixed
        .split_first_chunk::<12>()
        .ok_or(HeaderError::Malformed("it is too short"))?;
    if *signature != SIGNATURE {
        return Err(HeaderError::Malformed("it is not one of version 2"));
    }
    let [_, _, high, low] = rest else {
        return Err(HeaderError::Malformed("it is too short"));
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX_LENGTH {
        return Err(HeaderError::Malformed("it is longer than 4 KiB"));
    }
    Ok(length)
}

/// Parses a complete header.
fn parse(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let (fixed, body) = header
        .split_at_checked(FIXED)
        .ok_or(HeaderError::Malformed("it is too short"))?;
    if length(fixed)? != body.len() {
        return Err(HeaderError::Malformed("its length is wrong"));
    }
    let (command, family) = match fixed {
        [.., command, family, _, _] => (*command, *family),
        _ => return Err(HeaderError::Malformed("it is too short")),
    };
    match command {
        // Command LOCAL: the balancer itself is the caller. The rest of the header must be ignored.
        0x20 => return Ok(None),
        0x21 => {}
        0x22..=0x2f => return Err(HeaderError::Malformed("its command is unknown")),
        _ => return Err(HeaderError::Malformed("its version is not 2")),
    }
    let (source, fields) = match family {
        // Family UNSPEC: the balancer does not know the caller's address.
        0x00 => (None, body),
        // TCP over IPv4: source address, destination address, and the ports of both.
        0x11 => {
            let (places, fields) = body
                .split_first_chunk::<12>()
                .ok_or(HeaderError::Malformed("its addresses are cut off"))?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *places;
            let address = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
            let port = u16::from_be_bytes([high, low]);
            (Some(SocketAddr::new(address, port)), fields)
        }
        // TCP over IPv6: source address, destination address, and the ports of both.
        0x21 => {
            let (places, fields) = body
                .split_first_chunk::<36>()
                .ok_or(HeaderError::Malformed("its addresses are cut off"))?;
            let address: [u8; 16] = places
                .first_chunk()
                .copied()
                .ok_or(HeaderError::Malformed("its addresses are cut off"))?;
            let port = match places {
                [.., high, low, _, _] => u16::from_be_bytes([*high, *low]),
            };
            let address = IpAddr::V6(Ipv6Addr::from(address)).to_canonical();
            (Some(SocketAddr::new(address, port)), fields)
        }
        _ => return Err(HeaderError::Malformed("it is not about a TCP connection")),
    };
    check_fields(header, fields)?;
    if source.is_some_and(|source| source.ip().is_unspecified() || source.ip().is_multicast()) {
        return Err(HeaderError::Malformed("its source is nobody's address"));
    }
    Ok(source)
}

/// Checks that the additional fields (TLVs) fill the header exactly, and that the checksum is
/// correct if there is one.
fn check_fields(header: &[u8], mut fields: &[u8]) -> Result<(), HeaderError> {
    let cut_off = || HeaderError::Malformed("an additional field is cut off");
    let mut is_checked = false;
    while let Some((kind, rest)) = fields.split_first() {
        let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(cut_off)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, rest) = rest.split_at_checked(length).ok_or_else(cut_off)?;
        if *kind == CHECKSUM {
            // Only one checksum is allowed, because each checksum costs a pass over the whole
            // header.
            if std::mem::replace(&mut is_checked, true) {
                return Err(HeaderError::Malformed("it has two checksums"));
            }
            let wanted: [u8; 4] = value
                .try_into()
                .map_err(|_| HeaderError::Malformed("its checksum has another length"))?;
            let from = header.len() - rest.len() - wanted.len();
            if checksum(header, from..from + wanted.len()) != u32::from_be_bytes(wanted) {
                return Err(HeaderError::Malformed("its checksum is wrong"));
            }
        }
        fields = rest;
    }
    Ok(())
}

/// Computes CRC-32C (RFC 3720 appendix B.4). The bytes in the range `zeros`, where the checksum
/// itself is, count as zero.
fn checksum(bytes: &[u8], zeros: std::ops::Range<usize>) -> u32 {
    let mut crc = u32::MAX;
    for (position, byte) in bytes.iter().enumerate() {
        crc ^= if zeros.contains(&position) {
            0
        } else {
            u32::from(*byte)
        };
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    fn places(source: SocketAddr) -> (u8, Vec<u8>) {
        let (family, mut body) = match source.ip() {
            IpAddr::V4(address) => (0x11, [address.octets(), [10, 0, 0, 1]].concat()),
            IpAddr::V6(address) => (0x21, [address.octets(), [1; 16]].concat()),
        };
        body.extend(source.port().to_be_bytes());
        body.extend(443_u16.to_be_bytes());
        (family, body)
    }

    fn field(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut field = vec![kind];
        field.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        field.extend(value);
        field
    }

    #[test]
    fn checksums_are_those_of_castagnoli() {
        // The test values of RFC 3720 appendix B.4.
        assert_eq!(checksum(&[0; 32], 0..0), 0x8a91_36aa);
        assert_eq!(checksum(&[0xff; 32], 0..0), 0x62a8_ab43);
        assert_eq!(checksum(b"123456789", 0..0), 0xe306_9283);
    }

    #[test]
    fn headers_are_read() {
        for source in ["192.0.2.1:5", "[2001:db8::1]:65535"] {
            let source: SocketAddr = source.parse().unwrap();
            let (family, body) = places(source);
            assert_eq!(parse(&header(0x21, family, &body)).unwrap(), Some(source));
            let more = [body, field(4, b"padding"), field(0xee, b"")].concat();
            assert_eq!(parse(&header(0x21, family, &more)).unwrap(), Some(source));
            assert_eq!(parse(&header(0x20, family, &more)).unwrap(), None);
        }
        assert_eq!(parse(&header(0x20, 0, b"what ever")).unwrap(), None);
        assert_eq!(parse(&header(0x21, 0, b"")).unwrap(), None);
        let mapped = places("[::ffff:192.0.2.1]:5".parse().unwrap());
        assert_eq!(
            parse(&header(0x21, mapped.0, &mapped.1)).unwrap(),
            Some("192.0.2.1:5".parse().unwrap())
        );
    }

    #[test]
    fn a_checksum_has_to_be_right() {
        let (family, body) = places("192.0.2.1:5".parse().unwrap());
        let with = |value: &[u8]| {
            let body = [body.clone(), field(CHECKSUM, value), field(4, b"x")].concat();
            header(0x21, family, &body)
        };
        let zeros = with(&[0; 4]);
        let right = checksum(&zeros, 0..0).to_be_bytes();
        assert!(parse(&with(&right)).is_ok());
        assert!(parse(&zeros).is_err());
        assert!(parse(&with(&right[..3])).is_err());
        // A header with two checksums, both of which are correct.
        let twice = |one: [u8; 4], other: [u8; 4]| {
            let fields = [field(CHECKSUM, &one), field(CHECKSUM, &other)].concat();
            header(0x21, family, &[body.clone(), fields].concat())
        };
        let second = checksum(&twice([0; 4], [0; 4]), 0..0).to_be_bytes();
        let first = checksum(&twice([0; 4], second), 0..0).to_be_bytes();
        let error = parse(&twice(first, second)).unwrap_err();
        assert!(error.to_string().contains("two checksums"), "{error}");
    }

    #[test]
    fn anything_else_is_refused() {
        let (family, body) = places("192.0.2.1:5".parse().unwrap());
        let nobody = places("0.0.0.0:5".parse().unwrap());
        for (wrong, what) in [
            (header(0x11, family, &body), "version 1"),
            (header(0x31, family, &body), "version 3"),
            (header(0x22, family, &body), "command 2"),
            (header(0x21, 0x12, &body), "UDP"),
            (header(0x21, 0x31, &[0; 216]), "a Unix socket"),
            (header(0x21, 0x21, &body), "IPv6 with addresses of IPv4"),
            (header(0x21, family, &body[..11]), "cut off"),
            (
                header(0x21, family, &[&body[..], &[4]].concat()),
                "half a field",
            ),
            (
                header(0x21, family, &[&body[..], &[4, 0, 2, 1]].concat()),
                "half a value",
            ),
            (header(0x21, family, &[0; MAX_LENGTH + 1]), "too long"),
            (header(0x21, nobody.0, &nobody.1), "nobody"),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 5 443\r\n".to_vec(), "text"),
            (vec![0x16, 3, 1, 0, 5], "TLS"),
            (Vec::new(), "nothing"),
        ] {
            assert!(parse(&wrong).is_err(), "{what}");
        }
    }

    fn read_all(bytes: &[u8]) -> (Result<Option<SocketAddr>, HeaderError>, usize) {
        let mut rest = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let read = runtime.block_on(read(&mut rest));
        (read, bytes.len() - rest.len())
    }

    proptest! {
        #[test]
        fn what_follows_is_left_alone(a: [u8; 16], v4: bool, port: u16, more in prop::collection::vec(any::<u8>(), 0..64)) {
            let address = if v4 {
                IpAddr::from([a[0] % 223 + 1, a[1], a[2], a[3]])
            } else {
                IpAddr::from([[0x20, 1], [a[2], a[3]]].concat().into_iter().chain(a[4..].iter().copied()).collect::<Vec<_>>().try_into().map(|bytes: [u8; 16]| bytes).unwrap())
            };
            let source = SocketAddr::new(address, port);
            let (family, body) = places(source);
            let header = header(0x21, family, &body);
            let (found, taken) = read_all(&[&header[..], &more].concat());
            prop_assert_eq!(found.unwrap(), Some(source));
            prop_assert_eq!(taken, header.len());
        }

        #[test]
        fn no_prefix_is_a_header(cut in 0_usize..28, flip in 0_usize..96) {
            let (family, body) = places("192.0.2.1:5".parse().unwrap());
            let whole = header(0x21, family, &body);
            prop_assert!(read_all(&whole[..cut]).0.is_err());
            let mut flipped = whole.clone();
            flipped[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(read_all(&flipped).0.is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), signed: bool) {
            let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { bytes };
            let (_, taken) = read_all(&bytes);
            prop_assert!(taken <= FIXED + MAX_LENGTH);
            let _ = parse(&bytes);
        }
    }
}
