use proptest::prelude::*;

use super::*;

/// Builds a server's response.
pub fn encode(response: &Response) -> Vec<u8> {
    let mut bytes = vec![VERSION, RESPONSE, 0, response.result.0];
    bytes.extend(response.lifetime.to_be_bytes());
    bytes.extend(response.epoch.to_be_bytes());
    bytes.extend([0; 12]);
    if let Body::Map(mapping) = &response.body {
        bytes[1] |= OPCODE_MAP;
        bytes.extend(mapping.nonce);
        bytes.extend([UDP, 0, 0, 0]);
        bytes.extend(mapping.internal_port.to_be_bytes());
        let external = mapping.external;
        let port = external.map_or(0, |it| it.port());
        let ip = external.map_or(Ipv6Addr::LOCALHOST, |it| it.ip().to_ipv6_mapped());
        bytes.extend(port.to_be_bytes());
        bytes.extend(ip.octets());
    }
    bytes
}

/// Reads a request as a server does.
pub fn decode_request(bytes: &[u8]) -> Option<MapRequest> {
    let bytes = bytes.first_chunk::<MAP_LEN>()?;
    if bytes[..2] != [VERSION, OPCODE_MAP] || bytes[36] != UDP {
        return None;
    }
    let mut client = [0; 16];
    client.copy_from_slice(&bytes[8..24]);
    let Mapping {
        nonce,
        internal_port,
        external,
    } = mapping(bytes).ok()?;
    Some(MapRequest {
        client: Ipv6Addr::from(client).to_ipv4_mapped()?,
        nonce,
        internal_port,
        suggested: external?,
        lifetime: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    })
}

/// RFC 6887 figures 2 and 9, field by field.
#[test]
fn a_map_request_has_the_layout_of_the_rfc() {
    let request = MapRequest {
        client: Ipv4Addr::new(192, 168, 1, 2),
        nonce: *b"twelve bytes",
        internal_port: 0x1e61,
        suggested: SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), 0x9c40),
        lifetime: 7200,
    };
    let expected: Vec<u8> = [
        &[2, 1, 0, 0, 0x00, 0x00, 0x1c, 0x20][..],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2],
        b"twelve bytes",
        &[17, 0, 0, 0, 0x1e, 0x61, 0x9c, 0x40],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9],
    ]
    .concat();
    assert_eq!(request.encode()[..], expected);
}

/// Section 11.1: no suggestion is the unspecified address of the family, as IPv4-mapped `::ffff:0.0.0.0`.
#[test]
fn no_suggestion_is_the_mapped_unspecified_address() {
    let request = MapRequest {
        client: Ipv4Addr::new(10, 0, 0, 2),
        nonce: [0; 12],
        internal_port: 7777,
        suggested: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        lifetime: 0,
    };
    let external: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(request.encode()[44..], external);
}

#[test]
fn an_announce_request_is_a_header() {
    let request = announce(Ipv4Addr::new(192, 168, 1, 2));
    let expected = [
        &[2, 0, 0, 0, 0, 0, 0, 0][..],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2],
    ];
    assert_eq!(request[..], expected.concat());
}

/// RFC 6887 figures 3 and 10.
#[test]
fn a_map_response_is_read_by_the_layout_of_the_rfc() {
    let bytes = [
        &[
            2, 0x81, 0, 0, 0x00, 0x00, 0x00, 0x78, 0x00, 0x00, 0x01, 0x04,
        ][..],
        &[0; 12],
        b"twelve bytes",
        &[17, 0, 0, 0, 0x1e, 0x61, 0x9c, 0x40],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9],
    ]
    .concat();
    let response = Response::decode(&bytes).unwrap();
    let expected = Response {
        result: ResultCode::SUCCESS,
        lifetime: 120,
        epoch: 260,
        body: Body::Map(Mapping {
            nonce: *b"twelve bytes",
            internal_port: 0x1e61,
            external: Some("203.0.113.9:40000".parse().unwrap()),
        }),
    };
    assert_eq!(response, expected);
}

#[test]
fn what_is_no_answer_is_told_apart() {
    let decode = Response::decode;
    let own = MapRequest {
        client: Ipv4Addr::LOCALHOST,
        nonce: [1; 12],
        internal_port: 1,
        suggested: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1),
        lifetime: 1,
    };
    assert_eq!(decode(&own.encode()), Err(DecodeError::Request));
    let nat_pmp = [0, 129, 0, 1, 0, 0, 0, 9];
    assert_eq!(decode(&nat_pmp), Err(DecodeError::Length(8)));
    let mut bytes = own.encode();
    bytes[1] |= RESPONSE;
    assert!(decode(&bytes).is_ok());
    assert_eq!(decode(&bytes[..56]), Err(DecodeError::Length(56)));
    assert_eq!(decode(&bytes[..59]), Err(DecodeError::Length(59)));
    assert_eq!(decode(&[0; 1104]), Err(DecodeError::Length(1104)));
    bytes[36] = 6;
    assert_eq!(decode(&bytes), Err(DecodeError::Protocol(6)));
    bytes[1] = RESPONSE | 2;
    assert_eq!(decode(&bytes), Err(DecodeError::Opcode(2)));
    bytes[0] = 3;
    assert_eq!(decode(&bytes), Err(DecodeError::Version(3)));
}

prop_compose! {
    fn external()(ip: u32, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(ip.into(), port)
    }
}

proptest! {
    #[test]
    fn every_request_is_what_a_server_reads(
        client: u32, nonce: Nonce, internal_port: u16, suggested in external(), lifetime: u32,
    ) {
        let client = client.into();
        let request = MapRequest { client, nonce, internal_port, suggested, lifetime };
        prop_assert_eq!(decode_request(&request.encode()), Some(request));
    }

    #[test]
    fn every_answer_is_what_the_server_sent(
        result: u8, lifetime: u32, epoch: u32, nonce: Nonce, internal_port: u16,
        external in proptest::option::of(external()), announce: bool, options in 0_usize..8,
    ) {
        let mapping = Mapping { nonce, internal_port, external };
        let body = if announce { Body::Announce } else { Body::Map(mapping) };
        let response = Response { result: ResultCode(result), lifetime, epoch, body };
        let mut bytes = encode(&response);
        // Options, which follow, are skipped.
        bytes.extend(vec![0; 4 * options]);
        prop_assert_eq!(Response::decode(&bytes), Ok(response));
    }

    #[test]
    fn no_datagram_is_too_strange(bytes: Vec<u8>) {
        let _ = Response::decode(&bytes);
    }
}
