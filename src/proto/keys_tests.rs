//! Vectors were worked out with PyNaCl (libsodium) and Python's `hmac`, from the secrets below.

use proptest::prelude::*;

use super::*;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .unwrap()
        .try_into()
        .unwrap()
}

fn counting_up(from: u8) -> [u8; KEY_LEN] {
    std::array::from_fn(|i| from + i as u8)
}

fn alice() -> DiscoSecret {
    DiscoSecret::from_bytes(counting_up(0x01))
}

fn bob() -> DiscoSecret {
    DiscoSecret::from_bytes(counting_up(0x41))
}

#[test]
fn curve25519_public_keys_are_libsodiums() {
    assert_eq!(
        alice().public().to_string(),
        "discokey:07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c"
    );
    assert_eq!(
        bob().public().to_string(),
        "discokey:64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466"
    );
}

#[test]
fn ed25519_public_key_is_libsodiums() {
    assert_eq!(
        NodeSecret::from_bytes([7; 32]).public().to_string(),
        "nodekey:ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"
    );
}

#[test]
fn gre_key_is_the_documented_hkdf_and_the_same_on_both_sides() {
    // HKDF-SHA256 output: ccde3b29 64e23dff ...
    assert_eq!(alice().shared(&bob().public()).gre_key(), 0xccde_3b29);
    assert_eq!(bob().shared(&alice().public()).gre_key(), 0xccde_3b29);
}

#[test]
fn gre_key_skips_zero_words_and_is_never_zero() {
    assert_eq!(first_nonzero(&hex::<8>("0000000000000102")), 0x102);
    assert_eq!(first_nonzero(&[0; 32]), 1);
}

#[test]
fn a_low_order_peer_key_neither_panics_nor_gives_a_zero_key() {
    for low_order in [
        [0; 32],
        hex("0100000000000000000000000000000000000000000000000000000000000000"),
    ] {
        assert_ne!(
            alice()
                .shared(&DiscoPublic::from_bytes(low_order))
                .gre_key(),
            0
        );
    }
}

#[test]
fn a_box_opens_only_for_the_pair_that_sealed_it() {
    let nonce = [9; NONCE_LEN];
    let sealed = alice().shared(&bob().public()).seal(nonce, b"hello");
    assert_eq!(sealed.len(), 5 + SEAL_OVERHEAD);
    assert_eq!(
        bob()
            .shared(&alice().public())
            .open(nonce, &sealed)
            .as_deref(),
        Some(&b"hello"[..])
    );

    let mallory = DiscoSecret::from_bytes([3; 32]);
    assert_eq!(mallory.shared(&alice().public()).open(nonce, &sealed), None);
    assert_eq!(
        bob()
            .shared(&alice().public())
            .open([8; NONCE_LEN], &sealed),
        None
    );
}

#[test]
fn signatures_hold_for_one_message_and_one_key() {
    let secret = NodeSecret::from_bytes([7; 32]);
    let signature = secret.sign(b"message");
    assert!(secret.public().verify(b"message", &signature));
    assert!(!secret.public().verify(b"messagf", &signature));
    assert!(
        !NodeSecret::from_bytes([8; 32])
            .public()
            .verify(b"message", &signature)
    );
    let mut damaged = signature;
    damaged[63] ^= 0x80;
    assert!(!secret.public().verify(b"message", &damaged));
}

#[test]
fn a_key_that_is_no_point_or_weak_verifies_nothing() {
    let signature = NodeSecret::from_bytes([7; 32]).sign(b"message");
    for bytes in [
        [0xff; 32],
        [0; 32],
        hex("0100000000000000000000000000000000000000000000000000000000000000"),
    ] {
        assert!(!NodePublic::from_bytes(bytes).verify(b"message", &signature));
        assert!(!NodePublic::from_bytes(bytes).verify(b"message", &[0; 64]));
    }
}

#[test]
fn secrets_print_nothing_of_themselves() {
    let node = format!("{:?}", NodeSecret::from_bytes([0xab; 32]));
    let disco = format!("{:?}", DiscoSecret::from_bytes([0xab; 32]));
    let shared = format!("{:?}", alice().shared(&bob().public()));
    assert_eq!(
        (node.as_str(), disco.as_str(), shared.as_str()),
        ("NodeSecret(..)", "DiscoSecret(..)", "DiscoShared(..)")
    );
}

#[test]
fn secrets_survive_storage() {
    assert_eq!(*alice().to_bytes(), counting_up(0x01));
    assert_eq!(*NodeSecret::from_bytes([7; 32]).to_bytes(), [7; 32]);
}

#[test]
fn text_of_the_wrong_kind_or_length_is_refused() {
    let digits = "ab".repeat(32);
    assert_eq!(
        format!("discokey:{digits}").parse::<NodePublic>(),
        Err(KeyParseError::Prefix {
            expected: "nodekey:"
        })
    );
    for bad in [
        "nodekey:".to_owned(),
        format!("nodekey:{}", &digits[2..]),
        format!("nodekey:{digits}00"),
        format!("nodekey:{}zz", &digits[2..]),
        format!("nodekey:{digits} "),
    ] {
        assert_eq!(
            bad.parse::<NodePublic>(),
            Err(KeyParseError::Digits { prefix: "nodekey:" }),
            "{bad}"
        );
    }
    assert!(
        format!("nodekey:{}", digits.to_uppercase())
            .parse::<NodePublic>()
            .is_ok()
    );
}

proptest! {
    #[test]
    fn text_and_json_round_trip(bytes: [u8; 32]) {
        let node = NodePublic::from_bytes(bytes);
        prop_assert_eq!(node.to_string().parse(), Ok(node));
        let disco = DiscoPublic::from_bytes(bytes);
        let json = serde_json::to_string(&disco).unwrap();
        prop_assert_eq!(&json, &format!("\"{disco}\""));
        prop_assert_eq!(serde_json::from_str::<DiscoPublic>(&json).unwrap(), disco);
    }

    #[test]
    fn any_pair_agrees(one: [u8; 32], other: [u8; 32], nonce: [u8; NONCE_LEN], plain: Vec<u8>) {
        let (one, other) = (DiscoSecret::from_bytes(one), DiscoSecret::from_bytes(other));
        let (here, there) = (one.shared(&other.public()), other.shared(&one.public()));
        prop_assert_eq!(here.gre_key(), there.gre_key());
        prop_assert_ne!(here.gre_key(), 0);
        prop_assert_eq!(there.open(nonce, &here.seal(nonce, &plain)), Some(plain));
    }

    #[test]
    fn parsing_never_panics(text in ".{0,90}") {
        let _ = text.parse::<NodePublic>();
    }
}
