//! Accepted and refused tunnels, key by key.

use super::*;
use crate::tunnel::tunnel_flags::{Text, TunnelTable};

fn options() -> TunnelOptions {
    let mut options = TunnelOptions::new("t0", Mode::Gre, "198.51.100.7".parse().unwrap());
    options.local = Some("192.0.2.1".parse().unwrap());
    options
}

fn key_of(change: impl FnOnce(&mut TunnelOptions)) -> Option<&'static str> {
    let mut options = options();
    change(&mut options);
    TunnelSpec::new(options).err().map(|error| error.key)
}

fn address(net: &str) -> TunnelAddress {
    TunnelAddress {
        net: net.parse().unwrap(),
        peer: None,
    }
}

#[test]
fn names_follow_the_kernels_rules() {
    for name in [
        "",
        "a/b",
        "a b",
        "a:b",
        "..",
        "sixteen-bytes-ab",
        "lo",
        "gre0",
        "-x",
        "gretun%d",
        "tün",
    ] {
        assert_eq!(
            key_of(|o| o.name = name.to_owned()),
            Some("name"),
            "{name:?}"
        );
    }
    for name in ["t0", "fifteen-bytes-a", "gretun0", "site.b_1"] {
        assert_eq!(key_of(|o| o.name = name.to_owned()), None, "{name:?}");
    }
    assert_eq!(key_of(|o| o.dev = Some("t0".to_owned())), Some("dev"));
}

#[test]
fn outer_addresses_are_hosts_of_the_modes_family() {
    let bad = [
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "2001:db8::1",
        "192.0.2.1",
    ];
    for ip in bad {
        assert_eq!(
            key_of(|o| o.remote = ip.parse().unwrap()),
            Some("remote"),
            "{ip}"
        );
    }
    let six = |o: &mut TunnelOptions, local: &str| {
        o.mode = Mode::Ip6gre;
        o.remote = "2001:db8::2".parse().unwrap();
        o.local = Some(local.parse().unwrap());
    };
    for ip in ["::1", "::", "ff02::1", "192.0.2.1", "fe80::1"] {
        assert_eq!(key_of(|o| six(o, ip)), Some("local"), "{ip}");
    }
    let bound = |o: &mut TunnelOptions| {
        six(o, "fe80::1");
        o.dev = Some("eth0".to_owned());
    };
    assert_eq!(key_of(bound), None);
}

#[test]
fn inner_addresses_are_hosts_that_the_mode_carries() {
    for net in [
        "10.0.0.0/30",
        "10.0.0.3/30",
        "fd00::/64",
        "127.0.0.1/8",
        "ff02::1/128",
        "0.0.0.0/0",
    ] {
        assert_eq!(
            key_of(|o| o.addresses = vec![address(net)]),
            Some("tunnel-ip"),
            "{net}"
        );
    }
    for net in [
        "10.0.0.0/31",
        "10.0.0.1/31",
        "10.0.0.7/32",
        "fd00::/127",
        "fd00::/128",
        "10.0.0.2/30",
    ] {
        assert_eq!(key_of(|o| o.addresses = vec![address(net)]), None, "{net}");
    }
    let twice = vec![address("10.0.0.1/30"), address("10.0.0.1/24")];
    assert_eq!(key_of(|o| o.addresses = twice), Some("tunnel-ip"));
    let in_ipip = |o: &mut TunnelOptions| {
        o.mode = Mode::Ipip;
        o.addresses = vec![address("fd00::1/64")];
    };
    assert_eq!(key_of(in_ipip), Some("tunnel-ip"));
    for peer in ["10.0.0.1", "fd00::2", "224.0.0.1", "127.0.0.1"] {
        let with_peer = |o: &mut TunnelOptions| {
            o.addresses = vec![TunnelAddress {
                peer: Some(peer.parse().unwrap()),
                ..address("10.0.0.1/32")
            }];
        };
        assert_eq!(key_of(with_peer), Some("peer-ip"), "{peer}");
    }
}

#[test]
fn networks_are_networks() {
    let nets =
        |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|n| n.parse().unwrap()).collect() };
    assert_eq!(key_of(|o| o.routes = nets(&["10.0.0.1/8"])), Some("route"));
    assert_eq!(
        key_of(|o| o.routes = nets(&["10.0.0.0/8", "10.0.0.0/8"])),
        Some("route")
    );
    assert_eq!(
        key_of(|o| o.routes = nets(&["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0"])),
        None
    );
    assert_eq!(
        key_of(|o| o.snat = nets(&["10.0.0.0/8", "10.1.0.0/16"])),
        Some("snat")
    );
    assert_eq!(key_of(|o| o.snat = nets(&["127.0.0.0/8"])), Some("snat"));
}

#[test]
fn header_fields_fit_the_mode() {
    assert_eq!(key_of(|o| o.ttl = InheritOrFixed::Fixed(0)), Some("ttl"));
    assert_eq!(key_of(|o| o.mtu = Some(575)), Some("mtu"));
    assert_eq!(key_of(|o| o.mtu = Some(65_536)), Some("mtu"));
    let six = |o: &mut TunnelOptions| {
        o.mtu = Some(1279);
        o.addresses = vec![address("fd00::1/64")];
    };
    assert_eq!(key_of(six), Some("mtu"));
    let key = |o: &mut TunnelOptions| {
        o.mode = Mode::Ipip;
        o.okey = Some(1);
    };
    assert_eq!(key_of(key), Some("okey"));
    let fragmented =
        |mode, ttl| move |o: &mut TunnelOptions| (o.mode, o.ttl, o.pmtudisc) = (mode, ttl, false);
    let fixed = InheritOrFixed::Fixed(64);
    assert_eq!(key_of(fragmented(Mode::Ipip, fixed)), Some("pmtudisc"));
    assert_eq!(
        key_of(fragmented(Mode::Ipip, InheritOrFixed::Inherit)),
        None
    );
    assert_eq!(key_of(fragmented(Mode::Gre, fixed)), None);
    let no_port = Encap::Fou(Udp {
        sport: 0,
        dport: 0,
        csum: true,
    });
    assert_eq!(key_of(|o| o.encap = no_port), Some("encap-dport"));
}

#[test]
fn the_mtu_is_what_is_left_of_the_path() {
    let udp = Udp {
        sport: 0,
        dport: 5555,
        csum: true,
    };
    let cases = [
        (Mode::Gre, Encap::None, false, 1476),
        (Mode::Gre, Encap::None, true, 1472),
        (Mode::Gre, Encap::Fou(udp), false, 1468),
        (Mode::Gre, Encap::Fou(udp), true, 1464),
        (Mode::Gre, Encap::Gue(udp), false, 1464),
        (Mode::Gretap, Encap::None, false, 1462),
        (Mode::Ipip, Encap::None, false, 1480),
        (Mode::Sit, Encap::Fou(udp), false, 1472),
        (Mode::Ip6gre, Encap::None, false, 1456),
        (Mode::Ip6gretap, Encap::None, true, 1438),
        (Mode::Ip6ip6, Encap::None, false, 1460),
        (Mode::Ipip6, Encap::Gue(udp), false, 1448),
    ];
    for (mode, encap, has_key, expected) in cases {
        assert_eq!(
            mtu::inner(1500, mode, encap, has_key),
            expected,
            "{mode} {}",
            encap.name()
        );
    }
    assert_eq!(mtu::inner(1492, Mode::Gre, Encap::None, false), 1468);
    assert_eq!(mtu::inner(0, Mode::Gre, Encap::None, false), mtu::MIN_IPV4);
}

#[test]
fn a_table_reads_numbers_and_texts_and_names_the_key_at_fault() {
    let table = TunnelTable {
        remote: Some("198.51.100.7".to_owned()),
        key: Some(Text("0.0.1.0".to_owned())),
        encap: Some("gue".to_owned()),
        encap_dport: Some(Text("5555".to_owned())),
        tunnel_ip: vec!["10.0.0.1/32".to_owned(), "fd00::1/64".to_owned()],
        peer_ip: vec!["10.0.0.2".to_owned()],
        ..TunnelTable::default()
    };
    let spec = table.spec("t0").unwrap();
    assert_eq!((spec.ikey, spec.okey), (Some(256), Some(256)));
    assert_eq!(spec.addresses[0].peer, Some("10.0.0.2".parse().unwrap()));
    assert_eq!(spec.encap.udp().unwrap().dport, 5555);
    assert!(spec.encap.udp().unwrap().csum);

    type Change = fn(&mut TunnelTable);
    let changes: [(Change, &str); 8] = [
        (|t| t.remote = None, "remote"),
        (|t| t.mode = Some("vxlan".to_owned()), "mode"),
        (|t| t.key = Some(Text("4294967296".to_owned())), "key"),
        (|t| t.okey = Some(Text("1".to_owned())), "key"),
        (|t| t.encap = None, "encap-dport"),
        (
            |t| t.encap_dport = Some(Text("65536".to_owned())),
            "encap-dport",
        ),
        (|t| t.peer_ip.push("10.0.0.3".to_owned()), "peer-ip"),
        (|t| t.mtu = Some(Text("-1".to_owned())), "mtu"),
    ];
    for (change, key) in changes {
        let mut table = table.clone();
        change(&mut table);
        assert_eq!(table.spec("t0").unwrap_err().key, key);
    }
}
