//! Own vectors were written out by hand from RFC 8489; two are the samples of RFC 5769.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

const TX: TxId = TxId([
    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b,
]);
/// The transaction id of RFC 5769.
const RFC_TX: TxId = TxId([
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
]);

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    HEXLOWER.decode(digits.as_bytes()).unwrap()
}

fn success(tx_id: TxId, mapped: &str) -> StunMessage {
    StunMessage::Success {
        tx_id,
        mapped: mapped.parse().unwrap(),
    }
}

#[test]
fn request_is_a_bare_header() {
    let bytes = hex("0001 0000 2112a442 101112131415161718191a1b");
    assert_eq!(binding_request(TX), bytes);
    assert_eq!(
        decode(&bytes),
        Ok(StunMessage::Request {
            tx_id: TX,
            unknown: vec![],
            change_port: false,
        })
    );
}

#[test]
fn a_change_of_port_is_asked_for_and_read() {
    let bytes = hex("0001 0008 2112a442 101112131415161718191a1b  0003 0004 00000002");
    assert_eq!(binding_request_change_port(TX), bytes);
    assert_eq!(
        decode(&bytes),
        Ok(StunMessage::Request {
            tx_id: TX,
            unknown: vec![],
            change_port: true
        })
    );
}

#[test]
fn what_only_a_full_rfc_5780_server_can_do_is_not_known_here() {
    // Change of address, PADDING, RESPONSE-PORT: the last would send answers to where nobody asked from.
    let cases = [
        ("0003 0004 00000004", 0x0003),
        ("0026 0004 00000000", 0x0026),
        ("0027 0004 04d20000", 0x0027),
    ];
    for (attribute, kind) in cases {
        let text = format!("0001 0008 2112a442 101112131415161718191a1b {attribute}");
        let Ok(StunMessage::Request { unknown, .. }) = decode(&hex(&text)) else {
            panic!("{attribute} is no request");
        };
        assert_eq!(unknown, [kind], "{attribute}");
    }
}

#[test]
fn success_over_ipv4() {
    // Port 7777 = 1e61, xor 2112; address cb007107, xor 2112a442.
    let bytes = hex("0101 000c 2112a442 101112131415161718191a1b  0020 0008 0001 3f73 ea12d545");
    assert_eq!(
        binding_success(TX, "203.0.113.7:7777".parse().unwrap()),
        bytes
    );
    assert_eq!(decode(&bytes), Ok(success(TX, "203.0.113.7:7777")));
}

#[test]
fn success_over_ipv6() {
    // Address 20010db8 00000000 00000000 00000007, xor cookie and transaction id.
    let bytes = hex("0101 0018 2112a442 101112131415161718191a1b
                     0020 0014 0002 3f73 0113a9fa 10111213 14151617 18191a1c");
    assert_eq!(
        binding_success(TX, "[2001:db8::7]:7777".parse().unwrap()),
        bytes
    );
    assert_eq!(decode(&bytes), Ok(success(TX, "[2001:db8::7]:7777")));
}

#[test]
fn rfc_5769_sample_ipv4_response() {
    let bytes = hex(
        "0101003c 2112a442 b7e7a701bc34d686fa87dfae 8022000b 7465737420766563746f7220
                     00200008 0001a147 e112a643 00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
                     80280004 c07d4c96",
    );
    assert_eq!(decode(&bytes), Ok(success(RFC_TX, "192.0.2.1:32853")));
}

#[test]
fn rfc_5769_sample_ipv6_response() {
    let bytes = hex(
        "01010048 2112a442 b7e7a701bc34d686fa87dfae 8022000b 7465737420766563746f7220
                     00200014 0002a147 0113a9faa5d3f179bc25f4b5bed2b9d9
                     00080014 a382954e4be67bf11784c97c8292c275bfe3ed41 80280004 c8fb0b4c",
    );
    assert_eq!(
        decode(&bytes),
        Ok(success(
            RFC_TX,
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853"
        ))
    );
}

#[test]
fn an_old_server_s_plain_address_counts() {
    let bytes = hex("0101 000c 2112a442 101112131415161718191a1b  0001 0008 0001 1e61 cb007107");
    assert_eq!(decode(&bytes), Ok(success(TX, "203.0.113.7:7777")));
}

#[test]
fn unknown_required_attributes_are_named_and_refused_by_name() {
    // CHANGE-REQUEST with a change of address is comprehension-required, 0xc001 is optional.
    let request =
        hex("0001 0010 2112a442 101112131415161718191a1b  0003 0004 00000006  c001 0004 00000000");
    assert_eq!(
        decode(&request),
        Ok(StunMessage::Request {
            tx_id: TX,
            unknown: vec![3],
            change_port: true,
        })
    );
    let answer = binding_unknown(TX, &[3]);
    assert_eq!(
        decode(&answer),
        Ok(StunMessage::Error {
            tx_id: TX,
            code: 420
        })
    );
    // UNKNOWN-ATTRIBUTES, one type, padded to four bytes.
    assert!(answer.ends_with(&hex("000a 0002 0003 0000")));
}

#[test]
fn the_longest_answer_fits() {
    let many: Vec<u16> = (1..1000).collect();
    let answer = binding_unknown(TX, &many);
    assert_eq!(
        decode(&answer),
        Ok(StunMessage::Error {
            tx_id: TX,
            code: 420
        })
    );
}

#[test]
fn what_is_not_a_binding_message_is_told_apart() {
    // An indication, another method (TURN's allocate), a success without an address.
    assert_eq!(
        decode(&hex("0011 0000 2112a442 101112131415161718191a1b")),
        Err(DecodeError::NotBinding)
    );
    assert_eq!(
        decode(&hex("0003 0000 2112a442 101112131415161718191a1b")),
        Err(DecodeError::NotBinding)
    );
    assert_eq!(
        decode(&hex("0101 0000 2112a442 101112131415161718191a1b")),
        Err(DecodeError::NoAddress)
    );
    // An attribute longer than the message.
    let overlong = hex("0101 0004 2112a442 101112131415161718191a1b 0020 0008");
    assert_eq!(decode(&overlong), Err(DecodeError::Malformed));
}

#[test]
fn other_traffic_is_not_stun() {
    let good = binding_request(TX);
    for length in 0..good.len() {
        assert!(!is_stun(&good[..length]), "{length}");
    }
    assert!(is_stun(&good));
    assert!(!is_stun(&[&good[..], &[0]].concat()));
    assert!(!is_stun(&crate::proto::disco::MAGIC.repeat(10)));
    let mut wrong_cookie = good.clone();
    wrong_cookie[7] ^= 1;
    assert!(!is_stun(&wrong_cookie));
    let mut high_bits = good;
    high_bits[0] |= 0x80;
    assert!(!is_stun(&high_bits));
}

proptest! {
    #[test]
    fn any_address_round_trips(tx: [u8; 12], v4: [u8; 4], v6: [u8; 16], port: u16) {
        let tx = TxId(tx);
        for mapped in [SocketAddr::new(v4.into(), port), SocketAddr::new(v6.into(), port)] {
            prop_assert_eq!(
                decode(&binding_success(tx, mapped)),
                Ok(StunMessage::Success { tx_id: tx, mapped })
            );
        }
    }

    /// Half of the cases carry a valid header, so that the attribute decoders of the library are reached.
    #[test]
    fn random_bytes_never_panic(kind in prop::sample::select(vec![0x0001_u16, 0x0101, 0x0111, 0x0011]),
                                attributes in attributes(), noise: Vec<u8>) {
        let _ = decode(&noise);
        let mut message = kind.to_be_bytes().to_vec();
        message.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
        message.extend_from_slice(&hex("2112a442 101112131415161718191a1b"));
        message.extend_from_slice(&attributes);
        let _ = decode(&message);
    }
}

/// Attributes of the types that the library knows, with random lengths and values.
fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![0..0x30_u16, 0x8000..0x8030_u16, any::<u16>()];
    let attribute = (kind, prop::collection::vec(any::<u8>(), 0..40), 0..8_u16);
    prop::collection::vec(attribute, 0..6).prop_map(|list| {
        let mut out = Vec::new();
        for (kind, value, lie) in list {
            let length = if lie == 0 { 0xffff } else { value.len() as u16 };
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&value);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    })
}
