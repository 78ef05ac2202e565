use proptest::prelude::*;

use super::*;

fn echo(family: Family) -> Echo {
    Echo {
        family,
        id: 0x1234,
        sequence: 0x0102,
        token: *b"0123456789abcdef",
    }
}

/// Builds a host's answer: the request with another type.
fn reply(echo: &Echo) -> Vec<u8> {
    let mut packet = echo.request();
    packet[0] = match echo.family {
        Family::V4 => 0,
        Family::V6 => 129,
    };
    packet
}

#[test]
fn a_request_is_laid_out_as_the_rfcs_say() {
    let packet = echo(Family::V4).request();
    assert_eq!(packet.len(), 64);
    assert_eq!(packet[..2], [8, 0]);
    assert_eq!(packet[4..8], [0x12, 0x34, 0x01, 0x02]);
    assert_eq!(&packet[8..24], b"0123456789abcdef");
    assert!(packet[24..].iter().all(|&byte| byte == 0));
    let packet = echo(Family::V6).request();
    assert_eq!(packet[..4], [128, 0, 0, 0]);
}

#[test]
fn the_checksum_is_that_of_rfc_1071() {
    // Its section 3.
    assert_eq!(
        checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
        !0xddf2
    );
    assert_eq!(checksum(&[0xff]), 0x00ff);
    assert_eq!(checksum(&[]), 0xffff);
}

#[test]
fn only_the_reply_to_this_very_request_counts() {
    for family in [Family::V4, Family::V6] {
        let echo = echo(family);
        let good = reply(&echo);
        assert!(echo.is_answered_by(&good, true));
        assert!(
            !echo.is_answered_by(&echo.request(), true),
            "our own request"
        );
        for place in [0, 1, 4, 5, 6, 7, 8, 23] {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert!(!echo.is_answered_by(&bad, true), "byte {place}");
        }
        let mut other_id = good.clone();
        other_id[4] ^= 1;
        assert!(echo.is_answered_by(&other_id, false));
        assert!(!echo.is_answered_by(&good[..good.len() - 1], true));
    }
}

#[test]
fn the_message_is_found_behind_options() {
    let message = reply(&echo(Family::V4));
    for words in 5..=15_u8 {
        let mut packet = vec![0; usize::from(words) * 4];
        packet[0] = 0x40 | words;
        packet[9] = 1;
        packet.extend(&message);
        assert_eq!(message_in_ipv4(&packet), Some(&message[..]));
        packet[9] = 17;
        assert_eq!(message_in_ipv4(&packet), None);
    }
}

proptest! {
    #[test]
    fn a_packet_with_its_checksum_sums_up_to_nothing(id: u16, sequence: u16, token: [u8; TOKEN]) {
        let echo = Echo { family: Family::V4, id, sequence, token };
        prop_assert_eq!(checksum(&echo.request()), 0);
    }

    #[test]
    fn no_bytes_panic_and_none_are_taken_for_a_reply(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let echo = echo(Family::V4);
        let message = message_in_ipv4(&bytes).unwrap_or(&bytes);
        prop_assert!(!echo.is_answered_by(message, true));
    }
}
