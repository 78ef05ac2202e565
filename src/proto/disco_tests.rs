//! Message vectors were written out by hand from the published layout; the envelope's box by PyNaCl (libsodium).

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::proto::keys::DiscoSecret;

const TX: TxId = TxId([
    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b,
]);

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    HEXLOWER.decode(digits.as_bytes()).unwrap()
}

fn counting_up(from: u8) -> [u8; 32] {
    std::array::from_fn(|i| from + i as u8)
}

fn node_key() -> NodePublic {
    NodePublic::from_bytes(counting_up(0x60))
}

fn vectors() -> Vec<(Message, &'static str)> {
    vec![
        (
            Message::Ping {
                tx_id: TX,
                node_key: node_key(),
                padding: 0,
            },
            "01 00 101112131415161718191a1b
             606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f",
        ),
        (
            Message::Ping {
                tx_id: TX,
                node_key: node_key(),
                padding: 5,
            },
            "01 00 101112131415161718191a1b
             606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f 0000000000",
        ),
        (
            Message::Pong {
                tx_id: TX,
                src: "203.0.113.7:7777".parse().unwrap(),
            },
            "02 00 101112131415161718191a1b 00000000000000000000ffff cb007107 1e61",
        ),
        (
            Message::Pong {
                tx_id: TX,
                src: "[2001:db8::7]:65535".parse().unwrap(),
            },
            "02 00 101112131415161718191a1b 20010db8000000000000000000000007 ffff",
        ),
        (Message::CallMeMaybe { endpoints: vec![] }, "03 00"),
        (
            Message::CallMeMaybe {
                endpoints: vec![
                    "192.0.2.1:1".parse().unwrap(),
                    "[fd00::1]:256".parse().unwrap(),
                ],
            },
            "03 00 00000000000000000000ffff c0000201 0001
             fd000000000000000000000000000001 0100",
        ),
        (
            Message::Nominate {
                seq: 0x0102_0304,
                tx_id: TX,
            },
            "40 00 01020304 101112131415161718191a1b",
        ),
        (
            Message::Nominated { seq: 7, tx_id: TX },
            "41 00 00000007 101112131415161718191a1b",
        ),
        (
            Message::DataPing { tx_id: TX },
            "42 00 101112131415161718191a1b",
        ),
        (
            Message::DataPong { tx_id: TX },
            "43 00 101112131415161718191a1b",
        ),
        (
            Message::PortSearch(PortOffer {
                dependent: true,
                maybe_dependent: false,
                step: -2,
                first_port: 0x5678,
                seen: "192.0.2.1:4660".parse().unwrap(),
            }),
            "44 00 01 fffe 5678 00000000000000000000ffffc0000201 1234",
        ),
    ]
}

#[test]
fn messages_have_the_published_layout() {
    for (message, bytes) in vectors() {
        assert_eq!(
            HEXLOWER.encode(&message.encode()),
            HEXLOWER.encode(&hex(bytes)),
            "{message:?}"
        );
        assert_eq!(Message::decode(&hex(bytes)), Ok(message));
    }
}

#[test]
fn a_truncated_message_is_short_at_every_length() {
    for (message, bytes) in vectors() {
        let bytes = hex(bytes);
        let fixed = match message {
            Message::Ping { padding, .. } => bytes.len() - padding,
            Message::CallMeMaybe { .. } => 2,
            _ => bytes.len(),
        };
        for length in 0..fixed {
            assert_eq!(
                Message::decode(&bytes[..length]),
                Err(DecodeError::Short),
                "{message:?} {length}"
            );
        }
    }
}

#[test]
fn later_versions_may_append_fields() {
    for (message, bytes) in vectors() {
        if matches!(
            message,
            Message::Pong { .. } | Message::Nominate { .. } | Message::DataPong { .. }
        ) {
            let mut longer = hex(bytes);
            longer[1] = 1;
            longer.extend_from_slice(b"more");
            assert_eq!(Message::decode(&longer), Ok(message));
        }
    }
}

#[test]
fn odd_endpoint_lists_and_unknown_types_are_refused() {
    assert_eq!(
        Message::decode(&hex("03 00 00")),
        Err(DecodeError::Endpoints)
    );
    assert_eq!(Message::decode(&hex("03 01")), Err(DecodeError::Endpoints));
    assert_eq!(
        Message::decode(&hex("04 00")),
        Err(DecodeError::UnknownType(4))
    );
}

/// Sealed by PyNaCl: `crypto_box(message, nonce a0..b7, public of 41..60, secret 01..20)`.
const ENVELOPE: &str = "5453f09f92ac
    07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c
    a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7
    1b2a7ce67623d60a85d2821540038251
    07d9d9932f8c9398fc165b87e943e85bbfa573003829b0ddc0e2738d4325e9335d90ea7ef96d02cf450e66a05d17";

#[test]
fn the_envelope_is_a_nacl_box() {
    let alice = DiscoSecret::from_bytes(counting_up(0x01));
    let bob = DiscoSecret::from_bytes(counting_up(0x41));
    let nonce = std::array::from_fn(|i| 0xa0 + i as u8);
    let message = Message::Ping {
        tx_id: TX,
        node_key: node_key(),
        padding: 0,
    };

    let sealed = seal(
        &alice.shared(&bob.public()),
        &alice.public(),
        nonce,
        &message,
    );
    assert_eq!(HEXLOWER.encode(&sealed), HEXLOWER.encode(&hex(ENVELOPE)));

    let envelope = Envelope::parse(&sealed).unwrap();
    assert_eq!((envelope.sender, envelope.nonce), (alice.public(), nonce));
    assert_eq!(envelope.open(&bob.shared(&alice.public())), Ok(message));
}

#[test]
fn a_damaged_or_foreign_envelope_does_not_open() {
    let alice = DiscoSecret::from_bytes(counting_up(0x01));
    let bob = DiscoSecret::from_bytes(counting_up(0x41));
    let shared = bob.shared(&alice.public());
    let good = hex(ENVELOPE);
    for position in HEADER_LEN - NONCE_LEN..good.len() {
        let mut damaged = good.clone();
        damaged[position] ^= 1;
        assert_eq!(
            Envelope::parse(&damaged).unwrap().open(&shared),
            Err(DecodeError::NotForUs),
            "byte {position}"
        );
    }
    let carol = DiscoSecret::from_bytes([5; 32]);
    assert_eq!(
        Envelope::parse(&good)
            .unwrap()
            .open(&carol.shared(&alice.public())),
        Err(DecodeError::NotForUs)
    );
}

#[test]
fn a_truncated_envelope_is_refused_at_every_length() {
    let good = hex(ENVELOPE);
    for length in 0..MAGIC.len() {
        assert_eq!(Envelope::parse(&good[..length]), Err(DecodeError::NotDisco));
    }
    for length in MAGIC.len()..HEADER_LEN + SEAL_OVERHEAD {
        assert_eq!(Envelope::parse(&good[..length]), Err(DecodeError::Short));
    }
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.into(), port)),
        (any::<[u8; 16]>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port)),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    let tx_id = || any::<[u8; 12]>().prop_map(TxId);
    prop_oneof![
        (tx_id(), any::<[u8; 32]>(), 0..1500_usize).prop_map(|(tx_id, key, padding)| {
            Message::Ping {
                tx_id,
                node_key: NodePublic::from_bytes(key),
                padding,
            }
        }),
        (tx_id(), any_addr()).prop_map(|(tx_id, src)| Message::Pong { tx_id, src }),
        prop::collection::vec(any_addr(), 0..40)
            .prop_map(|endpoints| Message::CallMeMaybe { endpoints }),
        (any::<u32>(), tx_id()).prop_map(|(seq, tx_id)| Message::Nominate { seq, tx_id }),
        (any::<u32>(), tx_id()).prop_map(|(seq, tx_id)| Message::Nominated { seq, tx_id }),
        tx_id().prop_map(|tx_id| Message::DataPing { tx_id }),
        tx_id().prop_map(|tx_id| Message::DataPong { tx_id }),
    ]
}

proptest! {
    #[test]
    fn every_message_round_trips(message in any_message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn random_and_truncated_bytes_never_panic(message in any_message(), cut in 0..2000_usize, noise: Vec<u8>) {
        let mut bytes = message.encode();
        bytes.truncate(cut);
        let _ = Message::decode(&bytes);
        bytes.extend_from_slice(&noise);
        let _ = Message::decode(&bytes);
        let _ = Message::decode(&noise);
        let _ = Envelope::parse(&noise);
        let disguised = [&MAGIC[..], &noise].concat();
        if let Ok(envelope) = Envelope::parse(&disguised) {
            let secret = DiscoSecret::from_bytes([1; 32]);
            prop_assert!(envelope.open(&secret.shared(&envelope.sender)).is_err());
        }
    }
}
