//! Reads PROXY protocol headers (version 2). The reader must not read beyond the header, and
//! must return the address in the header.

use std::net::{IpAddr, SocketAddr};

use countersign_proxy::wire::proxy_protocol::read;

/// Returns the source address in an accepted header. Its position depends only on the address
/// family.
fn source(data: &[u8]) -> Option<SocketAddr> {
    let octets: IpAddr = match data[13] {
        0x11 => <[u8; 4]>::try_from(&data[16..20]).unwrap().into(),
        0x21 => <[u8; 16]>::try_from(&data[16..32]).unwrap().into(),
        _ => return None,
    };
    let port = if data[13] == 0x11 { 24 } else { 48 };
    let port = u16::from_be_bytes([data[port], data[port + 1]]);
    Some(SocketAddr::new(octets.to_canonical(), port))
}

/// The input is what a peer sends after the signature (the first 12 bytes) of a PROXY header.
/// The signature is added here, because random input would seldom contain it.
pub fn proxy_header(data: &[u8]) {
    let sent = [&b"\r\n\r\n\0\r\nQUIT\n"[..], data].concat();
    let mut rest = &sent[..];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let Ok(address) = runtime.block_on(read(&mut rest)) else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([sent[14], sent[15]]));
    assert_eq!(rest, &sent[16 + length..], "other octets remain");
    match sent[12] {
        0x20 => assert_eq!(address, None, "the balancer spoke for itself"),
        0x21 => assert_eq!(address, source(&sent)),
        other => panic!("command {other:#x} was accepted"),
    }
}
