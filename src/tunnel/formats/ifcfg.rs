//! Red Hat's `ifcfg-*` files of TYPE=GRE, IPIP and sit, with their `route-*` and `route6-*` files (initscripts,
//! `sysconfig.txt`). They are shell assignments; expansions are not evaluated.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::tunnel_builder::TunnelBuilder;
use super::{Exported, FormatError, Imported, OutFile, Setting, Source, Unsupported};
use crate::tunnel::encap::Encap;
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::spec::TunnelSpec;
use crate::tunnel::state::TunnelAddress;

pub(super) fn read(sources: &[Source]) -> Result<Imported, FormatError> {
    let is_route = |source: &&Source| {
        source.base().starts_with("route-") || source.base().starts_with("route6-")
    };
    let mut unsupported = Vec::new();
    let mut builders = Vec::new();
    for source in sources.iter().filter(|source| !is_route(source)) {
        builders.push(read_device(source, &mut unsupported)?);
    }
    for source in sources.iter().filter(is_route) {
        let device = source
            .base()
            .split_once('-')
            .map_or("", |(_, device)| device);
        let of_device = |builder: &&mut TunnelBuilder| builder.options.name == device;
        match builders.iter_mut().find(of_device) {
            Some(builder) => read_routes(source, builder, &mut unsupported)?,
            None => unsupported.push(Unsupported {
                place: source.name.clone(),
                key: device.to_owned(),
                why: "no ifcfg file of this device was given".to_owned(),
            }),
        }
    }
    let mut imported = Imported::default();
    for builder in builders {
        imported.specs.push(builder.finish(&mut unsupported)?);
    }
    imported.unsupported = unsupported;
    Ok(imported)
}

/// A line of shell, with its assignment.
struct Assignment {
    line: usize,
    key: String,
    value: String,
}

impl Assignment {
    fn entry<'a>(&'a self, source: &'a Source) -> Setting<'a> {
        Setting {
            file: &source.name,
            line: self.line,
            key: &self.key,
            value: &self.value,
        }
    }
}

fn assignments(source: &Source) -> Result<Vec<Assignment>, FormatError> {
    let mut found = Vec::new();
    for (i, text) in source.text.lines().enumerate() {
        let bad = |what| FormatError::Syntax {
            file: source.name.clone(),
            line: i + 1,
            what,
        };
        let words = shlex::split(text).ok_or_else(|| bad("a quote is not closed"))?;
        let words = words.into_iter().filter(|word| word != "export");
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| bad("not KEY=value"))?;
            found.push(Assignment {
                line: i + 1,
                key: key.to_owned(),
                value: value.to_owned(),
            });
        }
    }
    Ok(found)
}

fn read_device(
    source: &Source,
    unsupported: &mut Vec<Unsupported>,
) -> Result<TunnelBuilder, FormatError> {
    let assignments = assignments(source)?;
    let get = |key: &str| {
        let mut found = assignments.iter().rev();
        let found = found.find(|assignment| assignment.key == key && !assignment.value.is_empty());
        found.map(|assignment| assignment.entry(source))
    };
    let missing = |key| FormatError::Missing {
        place: source.name.clone(),
        key,
    };
    let kind = get("TYPE").ok_or_else(|| missing("TYPE"))?;
    let mode = match kind.value.to_ascii_lowercase().as_str() {
        "gre" => Mode::Gre,
        "gre6" | "ip6gre" => Mode::Ip6gre,
        "ipip" => Mode::Ipip,
        "ipip6" => Mode::Ipip6,
        "sit" => Mode::Sit,
        _ => return Err(kind.bad("GRE, GRE6, IPIP, IPIP6 or sit")),
    };
    let in_name = source.base().strip_prefix("ifcfg-");
    let name = get("DEVICE").map(|entry| entry.value).or(in_name);
    let name = name.ok_or_else(|| missing("DEVICE"))?;
    let mut builder = TunnelBuilder::new(&source.name, name, mode);
    let peer = get("PEER_INNER_IPADDR")
        .map(|entry| entry.net())
        .transpose()?;
    for assignment in assignments
        .iter()
        .filter(|assignment| !assignment.value.is_empty())
    {
        setting(&mut builder, assignment.entry(source), peer, unsupported)?;
    }
    Ok(builder)
}

fn setting(
    builder: &mut TunnelBuilder,
    entry: Setting<'_>,
    peer: Option<IpNet>,
    unsupported: &mut Vec<Unsupported>,
) -> Result<(), FormatError> {
    let options = &mut builder.options;
    match entry.key {
        "DEVICE" | "TYPE" | "NAME" | "PEER_INNER_IPADDR" | "DEVICETYPE" => {}
        "PEER_OUTER_IPADDR" | "IPV6TUNNELIPV4" => builder.remote = entry.ip_or_any()?,
        "MY_OUTER_IPADDR" | "IPV6TUNNELIPV4LOCAL" => options.local = entry.ip_or_any()?,
        "MY_INNER_IPADDR" => builder.add_address(entry.net()?, peer),
        "IPV6ADDR" | "IPV6ADDR_SECONDARIES" => {
            for value in entry.value.split_whitespace() {
                builder.add_address(Setting { value, ..entry }.net()?, None);
            }
        }
        "KEY" => {
            (options.ikey, options.okey) = (Some(entry.key_value()?), Some(entry.key_value()?))
        }
        "TTL" => options.ttl = entry.outer(0)?,
        "MTU" | "IPV6_MTU" => options.mtu = Some(entry.parse("a number of bytes")?),
        "BOOTPROTO" if matches!(entry.value, "none" | "static") => {}
        "ONBOOT" | "IPV6INIT" if entry.switch()? => {}
        "NM_CONTROLLED" if !entry.switch()? => {}
        _ => unsupported.push(entry.unknown()),
    }
    Ok(())
}

fn read_routes(
    source: &Source,
    builder: &mut TunnelBuilder,
    unsupported: &mut Vec<Unsupported>,
) -> Result<(), FormatError> {
    for (i, text) in source.text.lines().enumerate() {
        let text = text.split('#').next().unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        let Some((&network, rest)) = words.split_first() else {
            continue;
        };
        let entry = Setting {
            file: &source.name,
            line: i + 1,
            key: "route",
            value: network,
        };
        if network.contains('=') {
            unsupported.push(entry.loss(
                "give routes as the words of `ip route add`: ADDRESS0= and its like are not read",
            ));
            continue;
        }
        let mut gateway = None;
        let mut rest = rest.iter();
        while let Some(&word) = rest.next() {
            let value = rest.next().copied().unwrap_or_default();
            let word = Setting {
                key: word,
                value,
                ..entry
            };
            match word.key {
                "via" => gateway = Some(word.ip()?),
                "dev" if value == builder.options.name => {}
                _ => unsupported.push(word.unknown()),
            }
        }
        let network = match network {
            "default" if source.base().starts_with("route6-") => {
                IpNet::V6(ipnet::Ipv6Net::default())
            }
            "default" => IpNet::V4(ipnet::Ipv4Net::default()),
            _ => entry.net()?,
        };
        builder.add_route(entry, network, gateway);
    }
    Ok(())
}

pub(super) fn write(specs: &[TunnelSpec]) -> Exported {
    let mut exported = Exported::default();
    for spec in specs {
        let Some(kind) = kind(spec.mode) else {
            let why = format!("initscripts make no tunnel of mode {}: left out", spec.mode);
            exported
                .unsupported
                .push(Unsupported::of_tunnel(spec, "mode", why));
            continue;
        };
        exported.unsupported.extend(unsupported(spec));
        exported.files.push(OutFile {
            name: format!("ifcfg-{}", spec.name),
            text: device_text(spec, kind),
        });
        for (family, prefix) in [(Family::V4, "route"), (Family::V6, "route6")] {
            let routes = spec.routes.iter();
            let routes = routes.filter(|net| Family::of_net(**net) == family);
            let text: String = routes
                .map(|net| format!("{net} dev {}\n", spec.name))
                .collect();
            if !text.is_empty() {
                let name = format!("{prefix}-{}", spec.name);
                exported.files.push(OutFile { name, text });
            }
        }
    }
    exported
}

fn kind(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Gre => Some("GRE"),
        Mode::Ipip => Some("IPIP"),
        Mode::Sit => Some("sit"),
        _ => None,
    }
}

fn unsupported(spec: &TunnelSpec) -> Vec<Unsupported> {
    let mut unsupported = Vec::new();
    let mut lose = |key, why: &str| unsupported.push(Unsupported::of_tunnel(spec, key, why));
    if spec.ikey != spec.okey {
        lose(
            "key",
            "there is one KEY for both directions: none is written",
        );
    }
    if spec.mode == Mode::Sit && spec.ttl != InheritOrFixed::Inherit {
        lose("ttl", "ifup-sit sets none");
    }
    if spec.tos != InheritOrFixed::Fixed(0) {
        lose("tos", "initscripts set none");
    }
    if !spec.pmtudisc {
        lose("pmtudisc", "initscripts always leave path MTU discovery on");
    }
    if spec.dev.is_some() {
        lose("dev", "initscripts do not bind a tunnel to a device");
    }
    if spec.encap != Encap::None {
        lose(
            "encap",
            "initscripts have no UDP encapsulation: this end will not understand the far end",
        );
    }
    if spec.alt_name.is_some() {
        lose("alt-name", "initscripts give no alternative names");
    }
    if !spec.snat.is_empty() {
        lose("snat", "initscripts do not masquerade");
    }
    let v4 = spec
        .addresses
        .iter()
        .filter(|address| address.net.addr().is_ipv4());
    for address in v4.skip(1) {
        lose(
            "tunnel-ip",
            &format!("{}: initscripts give one IPv4 address", address.net),
        );
    }
    for address in &spec.addresses {
        if let Some(peer) = address.peer.filter(|peer| peer.is_ipv6()) {
            lose(
                "peer-ip",
                &format!("{peer}: initscripts have no IPv6 far ends"),
            );
        }
    }
    unsupported
}

fn device_text(spec: &TunnelSpec, kind: &str) -> String {
    let mut text = String::new();
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            // A value with anything but these would be read by the shell; a name has no quotes of its own.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
            let quote = if value.chars().all(plain) { "" } else { "'" };
            let _ = writeln!(text, "{key}={quote}{value}{quote}");
        }
    };
    add("DEVICE", Some(spec.name.clone()));
    add("TYPE", Some(kind.to_owned()));
    add("BOOTPROTO", Some("none".to_owned()));
    add("ONBOOT", Some("yes".to_owned()));
    let local = spec.local.map(|ip| ip.to_string());
    if spec.mode == Mode::Sit {
        add("IPV6TUNNELIPV4", Some(spec.remote.to_string()));
        add("IPV6TUNNELIPV4LOCAL", local);
    } else {
        add("PEER_OUTER_IPADDR", Some(spec.remote.to_string()));
        add("MY_OUTER_IPADDR", local);
        add(
            "KEY",
            spec.ikey
                .filter(|_| spec.ikey == spec.okey)
                .map(|key| key.to_string()),
        );
        add(
            "TTL",
            (spec.ttl != InheritOrFixed::Inherit).then(|| spec.ttl.to_string()),
        );
    }
    add("MTU", spec.mtu.map(|mtu| mtu.to_string()));
    let (v4, v6): (Vec<&TunnelAddress>, Vec<&TunnelAddress>) = spec
        .addresses
        .iter()
        .partition(|address| address.net.addr().is_ipv4());
    if let Some(address) = v4.first() {
        match address.peer {
            Some(peer) => {
                add("MY_INNER_IPADDR", Some(address.net.addr().to_string()));
                add(
                    "PEER_INNER_IPADDR",
                    Some(format!("{peer}/{}", address.net.prefix_len())),
                );
            }
            None => add("MY_INNER_IPADDR", Some(address.net.to_string())),
        }
    }
    if let Some((first, more)) = v6.split_first() {
        add("IPV6INIT", Some("yes".to_owned()));
        add("IPV6ADDR", Some(first.net.to_string()));
        let more: Vec<_> = more.iter().map(|address| address.net.to_string()).collect();
        add(
            "IPV6ADDR_SECONDARIES",
            Some(more.join(" ")).filter(|text| !text.is_empty()),
        );
    }
    text
}
