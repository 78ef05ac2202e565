use super::*;

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn frame(buffer: &[u8]) -> Frame {
    Frame {
        length: buffer.len(),
        device: 7,
    }
}

/// Sums the UDP part with its pseudo header: all ones when the checksum is right (RFC 1071).
fn folded(packet: &[u8], addresses: std::ops::Range<usize>, udp: usize) -> u32 {
    let length = u32::try_from(packet.len() - udp).unwrap();
    let mut sum =
        sum_words(&packet[addresses]) + u32::from(UDP) + length + sum_words(&packet[udp..]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn what_is_sent_has_a_right_checksum_and_comes_back_as_it_was() {
    for data in [&b""[..], b"x", b"odd", b"even", &[0xff; 1400]] {
        let packet = packet_ipv4(v4("192.0.2.1"), 7777, v4("198.51.100.2"), 9, data).unwrap();
        assert_eq!(folded(&packet, 12..20, 20), 0xffff);
        let received = parse(frame(&packet), &packet).unwrap();
        assert_eq!(
            (received.local, received.from),
            (
                "198.51.100.2:9".parse().unwrap(),
                "192.0.2.1:7777".parse().unwrap()
            )
        );
        assert_eq!((received.data.as_slice(), received.device), (data, 7));

        let (from, to) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
        );
        let packet = packet_ipv6(from, 7777, to, 9, data).unwrap();
        assert_eq!(folded(&packet, 8..40, 40), 0xffff);
        let received = parse(frame(&packet), &packet).unwrap();
        assert_eq!(
            (received.local, received.from),
            (
                SocketAddr::new(to.into(), 9),
                "[2001:db8::1]:7777".parse().unwrap()
            )
        );
        assert_eq!(received.data, data);
    }
}

#[test]
fn link_padding_is_cut_off_and_header_options_are_skipped() {
    let mut packet = packet_ipv4(v4("192.0.2.1"), 1, v4("192.0.2.2"), 2, b"hi").unwrap();
    packet.extend([0; 18]);
    assert_eq!(parse(frame(&packet), &packet).unwrap().data, b"hi");
    packet[0] = 0x46;
    packet.splice(20..20, [1, 1, 1, 0]);
    assert_eq!(parse(frame(&packet), &packet).unwrap().data, b"hi");
}

#[test]
fn truncated_packets_are_dropped() {
    let v4_packet = packet_ipv4(v4("192.0.2.1"), 1, v4("192.0.2.2"), 2, b"data").unwrap();
    let v6_packet = packet_ipv6(
        "2001:db8::1".parse().unwrap(),
        1,
        "2001:db8::2".parse().unwrap(),
        2,
        b"data",
    )
    .unwrap();
    for packet in [v4_packet, v6_packet] {
        for length in 0..packet.len() {
            assert_eq!(
                parse(frame(&packet[..length]), &packet[..length]),
                None,
                "{length}"
            );
        }
    }
    // A UDP length shorter than its own header.
    let mut packet = packet_ipv4(v4("192.0.2.1"), 1, v4("192.0.2.2"), 2, b"data").unwrap();
    packet[24..26].copy_from_slice(&[0, 7]);
    assert_eq!(parse(frame(&packet), &packet), None);
}

#[test]
fn too_long_a_datagram_is_refused() {
    let error = packet_ipv4(v4("192.0.2.1"), 1, v4("192.0.2.2"), 2, &[0; 65_510]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
}

proptest::proptest! {
    #[test]
    fn any_bytes_parse_without_a_panic(bytes: Vec<u8>) {
        let _ = parse(frame(&bytes), &bytes);
    }
}
