use proptest::prelude::*;

use super::*;
use crate::tunnel::encap::{Encap, Udp};
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::name::is_reserved;
use crate::tunnel::spec::TunnelOptions;
use crate::tunnel::state::TunnelAddress;

const READ: [Format; 5] = [
    Format::Toml,
    Format::Ip,
    Format::Networkd,
    Format::NetworkManager,
    Format::Ifcfg,
];

fn outer(inherit: bool) -> impl Strategy<Value = InheritOrFixed> {
    let fixed = (1u8..=127).prop_map(|value| InheritOrFixed::Fixed(value * 2));
    if inherit {
        prop_oneof![Just(InheritOrFixed::Inherit), fixed].boxed()
    } else {
        fixed.boxed()
    }
}

fn encap() -> impl Strategy<Value = Encap> {
    let udp = (any::<u16>(), 1u16.., any::<bool>()).prop_map(|(sport, dport, csum)| Udp {
        sport,
        dport,
        csum,
    });
    prop_oneof![
        2 => Just(Encap::None),
        1 => udp.clone().prop_map(Encap::Fou),
        1 => udp.prop_map(Encap::Gue),
    ]
}

prop_compose! {
    fn spec()(
        mode in prop::sample::select(&Mode::ALL[..]),
        name in "[a-z][a-z0-9_.$;-]{0,13}[a-z0-9]".prop_filter("reserved", |name| !is_reserved(name)),
        has_local in any::<bool>(),
        dev in prop::option::of("eth[0-9]"),
        keys in (any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>()),
        ttl in outer(true),
        tos in outer(true),
        pmtudisc in any::<bool>(),
        encap in encap(),
        mtu in 1280u32..9000,
        hosts in prop::collection::btree_set(2u8..250, 0..3),
        has_peer in any::<bool>(),
        routes in prop::collection::btree_set(1u8..250, 0..3),
        alt_name in prop::option::of("[a-z]{3,20}"),
        has_snat in any::<bool>(),
    ) -> TunnelSpec {
        let outer = mode.outer();
        let ip = |v4: &str, v6: &str| match outer {
            Family::V4 => v4.parse().expect("an address"),
            Family::V6 => v6.parse().expect("an address"),
        };
        let mut options = TunnelOptions::new(name, mode, ip("198.51.100.7", "2001:db8::7"));
        options.local = has_local.then(|| ip("192.0.2.1", "2001:db8::1"));
        options.dev = dev;
        options.alt_name = alt_name;
        (options.ttl, options.tos) = (ttl, tos);
        (options.encap, options.mtu) = (encap, Some(mtu));
        if mode.is_gre() {
            options.ikey = keys.0;
            options.okey = if keys.2 { keys.0 } else { keys.1 };
        }
        options.pmtudisc = pmtudisc || outer == Family::V6;
        options.pmtudisc |= options.fragments_with_fixed_ttl();
        for family in [Family::V4, Family::V6] {
            if !mode.carries(family) {
                continue;
            }
            let net = |host: u8, v4: &str, v6: &str| match family {
                Family::V4 => format!("10.255.0.{host}/{v4}").parse().expect("a network"),
                Family::V6 => format!("fd00::{host:x}/{v6}").parse().expect("a network"),
            };
            for (i, &host) in hosts.iter().enumerate() {
                let peer: ipnet::IpNet = net(254, "24", "64");
                let peer = (has_peer && i == 0).then(|| peer.addr());
                options.addresses.push(TunnelAddress { net: net(host, "24", "64"), peer });
            }
            for &route in &routes {
                options.routes.push(match family {
                    Family::V4 => format!("10.{route}.0.0/16").parse().expect("a network"),
                    Family::V6 => format!("fd{route:02x}:1::/48").parse().expect("a network"),
                });
            }
            if has_snat {
                options.snat = options.routes.clone();
            }
        }
        TunnelSpec::new(options).expect("a good tunnel")
    }
}

/// Writes and reads again.
fn round_trip(format: Format, spec: &TunnelSpec) -> (Vec<Unsupported>, Imported) {
    let exported = export(format, std::slice::from_ref(spec)).expect("can be written");
    let sources = exported.files.into_iter();
    let sources: Vec<_> = sources
        .map(|file| Source {
            name: format!("/etc/x/{}", file.name),
            text: file.text,
        })
        .collect();
    if sources.is_empty() {
        return (exported.unsupported, Imported::default());
    }
    let imported = import(format, &sources);
    let imported = imported.unwrap_or_else(|error| panic!("{error}: {sources:#?}"));
    (exported.unsupported, imported)
}

/// Families apart, in order: formats keep those, not how they are mixed.
fn sorted(spec: &TunnelSpec) -> TunnelOptions {
    let mut options = (**spec).clone();
    options
        .addresses
        .sort_by_key(|address| !address.net.addr().is_ipv4());
    options.routes.sort();
    options.snat.sort();
    options
}

proptest! {
    /// Every setting comes back, or was reported as unsupported.
    #[test]
    fn what_is_not_lost_comes_back(spec in spec()) {
        for format in READ {
            let (unsupported, imported) = round_trip(format, &spec);
            if unsupported.is_empty() {
                prop_assert_eq!(imported.specs.len(), 1, "{:?}", format);
                prop_assert_eq!(sorted(&imported.specs[0]), sorted(&spec), "{:?}", format);
                prop_assert_eq!(imported.unsupported, vec![], "{:?} loses what it wrote itself", format);
            }
        }
    }

    /// A loss names the only setting that is not as it was.
    #[test]
    fn only_what_is_said_is_lost(spec in spec()) {
        for format in READ {
            let (unsupported, imported) = round_trip(format, &spec);
            let lost = |key: &str| unsupported.iter().any(|loss| loss.key == key);
            let Some(read) = imported.specs.first() else {
                prop_assert!(lost("mode"), "{:?}", format);
                continue;
            };
            let (read, spec) = (sorted(read), sorted(&spec));
            prop_assert_eq!(&read.name, &spec.name);
            prop_assert_eq!(read.mode, spec.mode);
            prop_assert_eq!((read.local, read.remote), (spec.local, spec.remote));
            prop_assert_eq!(read.mtu, spec.mtu);
            prop_assert!(lost("dev") || read.dev == spec.dev, "{:?}", format);
            prop_assert!(lost("key") || (read.ikey, read.okey) == (spec.ikey, spec.okey), "{:?}", format);
            prop_assert!(lost("ttl") || read.ttl == spec.ttl, "{:?}", format);
            prop_assert!(lost("tos") || read.tos == spec.tos, "{:?}", format);
            prop_assert!(lost("pmtudisc") || read.pmtudisc == spec.pmtudisc, "{:?}", format);
            prop_assert!(lost("encap") || lost("encap-csum") || read.encap == spec.encap, "{:?}", format);
            prop_assert!(lost("tunnel-ip") || lost("peer-ip") || read.addresses == spec.addresses, "{:?}", format);
            prop_assert!(lost("peer-ip") || read.routes == spec.routes, "{:?}", format);
            prop_assert!(lost("snat") || read.snat == spec.snat, "{:?}", format);
            prop_assert!(lost("alt-name") || read.alt_name == spec.alt_name, "{:?}", format);
        }
    }

    #[test]
    fn random_text_is_never_a_panic(text in "(\\PC|\n){0,200}", name in "(ifcfg-|route-)?[a-z]{1,5}(\\.netdev|\\.network)?") {
        let source = Source { name, text };
        let _ = detect(&source);
        for format in READ {
            let _ = import(format, std::slice::from_ref(&source));
        }
    }

    #[test]
    fn random_words_of_the_formats_are_never_a_panic(
        lines in prop::collection::vec(prop::collection::vec(prop::sample::select(&[
            "ip", "-6", "link", "add", "tunnel", "type", "mode", "gre", "ip6tnl", "name", "a", "remote", "198.51.100.7", "::1", "dev",
            "key", "4294967296", "addr", "10.0.0.1/24", "peer", "route", "default", "via", "fou", "port", "encap", "gue", "nft", "mtu", "0",
            "[NetDev]", "[Tunnel]", "[Match]", "[ip-tunnel]", "[connection]", "Kind=gre", "Name=a", "Remote=192.0.2.9", "mode=2",
            "type=ip-tunnel", "interface-name=a", "remote=192.0.2.9", "TYPE=GRE", "PEER_OUTER_IPADDR=192.0.2.9", "DEVICE=a", "KEY=x", "'",
        ][..]), 0..6), 0..12),
        newline in any::<bool>(),
    ) {
        let lines: Vec<String> = lines.iter().map(|words| words.join(if newline { "\n" } else { " " })).collect();
        let source = Source { name: "x".to_owned(), text: lines.join("\n") };
        for format in READ {
            let _ = import(format, std::slice::from_ref(&source));
        }
    }
}

fn read(format: Format, files: &[(&str, &str)]) -> Imported {
    let files = files.iter();
    let sources: Vec<_> = files
        .map(|(name, text)| Source {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
        })
        .collect();
    assert_eq!(detect(&sources[0]), Some(format));
    import(format, &sources).expect("a good file")
}

#[test]
fn keyfiles_that_nmcli_wrote_are_read() {
    let imported = read(
        Format::NetworkManager,
        &[(
            "site-b.nmconnection",
            include_str!("fixtures/nmcli-1.42.4-gre.nmconnection"),
        )],
    );
    let spec = &imported.specs[0];
    assert_eq!((spec.mode, spec.name.as_str()), (Mode::Gre, "site-b"));
    assert_eq!((spec.ikey, spec.okey), (Some(42), Some(43)));
    assert_eq!(
        (spec.ttl, spec.tos),
        (InheritOrFixed::Fixed(64), InheritOrFixed::Fixed(16))
    );
    assert_eq!((spec.mtu, spec.dev.as_deref()), (Some(1400), Some("eth0")));
    assert_eq!(spec.addresses.len(), 2);
    assert_eq!(spec.routes.len(), 3);
    let unsupported: Vec<_> = imported
        .unsupported
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(unsupported.len(), 1, "{unsupported:?}");
    assert!(unsupported[0].contains("10.255.0.2"), "{unsupported:?}");

    let imported = read(
        Format::NetworkManager,
        &[(
            "t.nmconnection",
            include_str!("fixtures/nmcli-1.42.4-ip6ip6.nmconnection"),
        )],
    );
    assert_eq!(imported.specs[0].mode, Mode::Ip6ip6);
    assert_eq!(imported.specs[0].tos, InheritOrFixed::Inherit);
    let keys: Vec<_> = imported
        .unsupported
        .iter()
        .map(|loss| loss.key.as_str())
        .collect();
    assert_eq!(
        keys,
        ["method", "method", "flags"],
        "{:?}",
        imported.unsupported
    );
}

#[test]
fn red_hat_files_are_read_with_their_routes() {
    let imported = read(
        Format::Ifcfg,
        &[
            (
                "/etc/sysconfig/network-scripts/ifcfg-tun0",
                "# to the office\nDEVICE=tun0\nBOOTPROTO=none\nONBOOT=yes\nTYPE=GRE\nPEER_OUTER_IPADDR=\"198.51.100.7\"\n\
                 MY_OUTER_IPADDR=192.0.2.1\nMY_INNER_IPADDR=10.0.0.1\nPEER_INNER_IPADDR=10.0.0.2/30\nKEY=7 # both ends\n\
                 ZONE=trusted\n",
            ),
            (
                "/etc/sysconfig/network-scripts/route-tun0",
                "10.2.0.0/16 via 10.0.0.2 dev tun0\n",
            ),
        ],
    );
    let spec = &imported.specs[0];
    assert_eq!((spec.ikey, spec.ttl), (Some(7), InheritOrFixed::Inherit));
    assert_eq!(spec.addresses[0].to_string(), "10.0.0.1 peer 10.0.0.2/30");
    assert_eq!(spec.routes.len(), 1);
    let unsupported: Vec<_> = imported
        .unsupported
        .iter()
        .map(|loss| (loss.key.as_str(), loss.place.as_str()))
        .collect();
    assert_eq!(
        unsupported,
        [
            ("ZONE", "/etc/sysconfig/network-scripts/ifcfg-tun0:11"),
            ("route", "/etc/sysconfig/network-scripts/route-tun0:1"),
        ]
    );
}

#[test]
fn commands_are_read_as_people_write_them() {
    let imported = read(
        Format::Ip,
        &[(
            "tunnel.sh",
            "#!/bin/sh\nmodprobe ip_gre\nsudo ip tun add tun0 mode gre remote 198.51.100.7 local 192.0.2.1 ttl 255 csum\n\
             ip a add 10.0.0.1/30 dev tun0\nip l set tun0 up mtu 1400\nip r add 10.2.0.0/16 dev tun0\nip route add default via 192.0.2.254 dev eth0\n",
        )],
    );
    let spec = &imported.specs[0];
    assert_eq!(
        (spec.ttl, spec.mtu),
        (InheritOrFixed::Fixed(255), Some(1400))
    );
    assert_eq!((spec.addresses.len(), spec.routes.len()), (1, 1));
    let lines: Vec<_> = imported
        .unsupported
        .iter()
        .map(|loss| loss.place.as_str())
        .collect();
    assert_eq!(lines, ["tunnel.sh:2", "tunnel.sh:3", "tunnel.sh:7"]);
}

#[test]
fn a_tunnel_of_networkd_is_bound_by_the_file_of_its_device() {
    let imported = read(
        Format::Networkd,
        &[
            (
                "t.netdev",
                "[NetDev]\nName=t\nKind=sit\n[Tunnel]\nRemote=198.51.100.7\nISATAP=no\n",
            ),
            ("e.network", "[Match]\nName=eth0\n[Network]\nTunnel=t\n"),
        ],
    );
    assert_eq!(imported.specs[0].dev.as_deref(), Some("eth0"));
    let keys: Vec<_> = imported
        .unsupported
        .iter()
        .map(|loss| loss.key.as_str())
        .collect();
    assert_eq!(keys, ["ISATAP", "Name"]);
}

#[test]
fn path_mtu_discovery_is_on_where_it_has_to_be() {
    let text =
        "[NetDev]\nName=t\nKind=ipip\n[Tunnel]\nRemote=198.51.100.7\nTTL=64\nDiscoverPathMTU=no\n";
    let imported = read(Format::Networkd, &[("t.netdev", text)]);
    assert!(imported.specs[0].pmtudisc);
    let lost = imported
        .unsupported
        .iter()
        .filter(|loss| loss.key == "pmtudisc")
        .count();
    assert_eq!(lost, 1, "{:?}", imported.unsupported);
    let inherited = text.replace("TTL=64", "TTL=0");
    let imported = read(Format::Networkd, &[("t.netdev", &inherited)]);
    assert!(!imported.specs[0].pmtudisc);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let error = |name: &str, text: &str| {
        let source = Source {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        let format = detect(&source).expect("a known format");
        import(format, &[source])
            .expect_err("a bad file")
            .to_string()
    };
    assert_eq!(
        error("ifcfg-t", "TYPE=GRE\nPEER_OUTER_IPADDR=example.org\n"),
        "ifcfg-t:2: PEER_OUTER_IPADDR: \"example.org\" is not an IP address"
    );
    assert_eq!(
        error("t.netdev", "Name=t\n"),
        "t.netdev:1: a setting before the first [section]"
    );
    assert_eq!(
        error("t.netdev", "[NetDev]\nName=t\nKind=gre\n"),
        "t.netdev: tunnel t: remote: is missing"
    );
}

#[test]
fn numbers_are_written_as_numbers_and_texts_as_texts() {
    let mut options = TunnelOptions::new("site-b", Mode::Gre, [198, 51, 100, 7].into());
    options.ikey = Some(42);
    options.okey = Some(42);
    options.ttl = InheritOrFixed::Inherit;
    options.mtu = Some(1400);
    options.dev = Some("12".to_owned());
    options.routes = vec!["10.2.0.0/16".parse().expect("a network")];
    let spec = TunnelSpec::new(options).expect("a good tunnel");
    for (format, lines) in [
        (
            Format::Nix,
            [
                "services.gretun.tunnels.\"site-b\" = {",
                "key = 42;",
                "mtu = 1400;",
                "dev = \"12\";",
                "ttl = \"inherit\";",
                "route = [ \"10.2.0.0/16\" ];",
            ],
        ),
        (
            Format::Toml,
            [
                "[tunnels.site-b]",
                "key = 42",
                "mtu = 1400",
                "dev = \"12\"",
                "ttl = \"inherit\"",
                "route = [\"10.2.0.0/16\"]",
            ],
        ),
    ] {
        let exported = export(format, std::slice::from_ref(&spec)).expect("can be written");
        assert_eq!(exported.unsupported, []);
        let text = &exported.files[0].text;
        for line in lines {
            assert!(text.lines().any(|it| it.trim() == line), "{line}: {text}");
        }
    }
}

#[test]
fn a_tunnel_that_needs_its_local_end_written_says_so() {
    let checksum = Encap::Fou(Udp {
        sport: 0,
        dport: 5555,
        csum: true,
    });
    // With a remote of its family: whether commands, and whether networkd and NetworkManager have to be told.
    for (mode, remote, encap, by_commands, by_daemons) in [
        (Mode::Gre, "192.0.2.9", Encap::None, false, false),
        (Mode::Gre, "192.0.2.9", checksum, true, false),
        (Mode::Ip6gre, "2001:db8::9", Encap::None, true, true),
        (Mode::Ipip6, "2001:db8::9", Encap::None, true, true),
    ] {
        for local in [None, Some(())] {
            let remote = remote.parse().expect("an address");
            let mut options = TunnelOptions::new("t0", mode, remote);
            let here = match remote {
                std::net::IpAddr::V4(_) => "192.0.2.1",
                std::net::IpAddr::V6(_) => "2001:db8::1",
            };
            options.local = local.map(|()| here.parse().expect("an address"));
            options.encap = encap;
            let spec = [TunnelSpec::new(options).expect("a good tunnel")];
            for (format, expected) in [
                (Format::Ip, by_commands),
                (Format::Networkd, by_daemons),
                (Format::NetworkManager, by_daemons),
                (Format::Toml, false),
                (Format::Nix, false),
            ] {
                let unsupported = export(format, &spec).expect("can be written").unsupported;
                let is_said = unsupported.iter().any(|loss| loss.key == "local");
                assert_eq!(
                    is_said,
                    expected && local.is_none(),
                    "{mode} {format:?}: {unsupported:?}"
                );
            }
        }
    }
}
