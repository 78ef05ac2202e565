//! NetworkManager keyfiles of `type=ip-tunnel` (nm-settings-keyfile(5)).

use std::fmt::Write as _;

use ipnet::IpNet;

use super::ini::{self, Section};
use super::tunnel_builder::TunnelBuilder;
use super::{Exported, FormatError, Imported, OutFile, Setting, Source, Unsupported};
use crate::tunnel::encap::Encap;
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::spec::TunnelSpec;

/// `NMIPTunnelMode`, as far as gretun makes such tunnels.
const MODES: [(u32, Mode); 8] = [
    (1, Mode::Ipip),
    (2, Mode::Gre),
    (3, Mode::Sit),
    (6, Mode::Ip6ip6),
    (7, Mode::Ipip6),
    (8, Mode::Ip6gre),
    (10, Mode::Gretap),
    (11, Mode::Ip6gretap),
];

/// `NM_IP_TUNNEL_FLAG_IP6_IGN_ENCAP_LIMIT`: packets carry no tunnel encapsulation limit.
const NO_ENCAP_LIMIT: u32 = 0x1;
/// `NM_IP_TUNNEL_FLAG_IP6_USE_ORIG_TCLASS`: the traffic class is that of the inner packet.
const INHERIT_CLASS: u32 = 0x2;

pub(super) fn read(sources: &[Source]) -> Result<Imported, FormatError> {
    let mut imported = Imported::default();
    for source in sources {
        let spec = read_file(source, &mut imported.unsupported)?;
        imported.specs.push(spec);
    }
    Ok(imported)
}

fn read_file(
    source: &Source,
    unsupported: &mut Vec<Unsupported>,
) -> Result<TunnelSpec, FormatError> {
    let sections = ini::read(source)?;
    let find = |section: &str, key: &'static str| {
        let mut sections = sections.iter().filter(|s| s.name == section);
        sections
            .find_map(|s| s.get(key))
            .ok_or(FormatError::Missing {
                place: source.name.clone(),
                key,
            })
    };
    let kind = find("connection", "type")?;
    if kind.value != "ip-tunnel" {
        return Err(kind.bad("ip-tunnel"));
    }
    let number = find("ip-tunnel", "mode")?;
    let mode = number.parse::<u32>("a mode's number")?;
    let mode = MODES.iter().find(|(known, _)| *known == mode);
    let mode = mode
        .ok_or_else(|| number.bad("the number of a kind of tunnel that gretun makes"))?
        .1;
    let name = find("connection", "interface-name")?;
    let mut builder = TunnelBuilder::new(&source.name, name.value, mode);
    if mode.outer() == Family::V6 {
        builder.options.ttl = InheritOrFixed::Inherit;
    }
    let mut has_limit = mode.outer() == Family::V6;
    for section in &sections {
        for entry in &section.entries {
            match section.name {
                "connection" => connection(*entry, unsupported)?,
                "ip-tunnel" => tunnel(&mut builder, *entry, &mut has_limit, unsupported)?,
                "ipv4" | "ipv6" => inner(&mut builder, section, *entry, unsupported)?,
                _ => unsupported.push(entry.unknown()),
            }
        }
    }
    if has_limit && !mode.is_gre() {
        unsupported.push(Unsupported {
            place: source.name.clone(),
            key: "flags".to_owned(),
            why: "the encapsulation limit in outer packets: gretun sends none".to_owned(),
        });
    }
    builder.finish(unsupported)
}

fn connection(entry: Setting<'_>, unsupported: &mut Vec<Unsupported>) -> Result<(), FormatError> {
    match entry.key {
        "type" | "interface-name" | "id" | "uuid" | "timestamp" => {}
        "autoconnect" if entry.switch()? => {}
        _ => unsupported.push(entry.unknown()),
    }
    Ok(())
}

fn tunnel(
    builder: &mut TunnelBuilder,
    entry: Setting<'_>,
    has_limit: &mut bool,
    unsupported: &mut Vec<Unsupported>,
) -> Result<(), FormatError> {
    let options = &mut builder.options;
    match entry.key {
        "mode" => {}
        "local" => options.local = entry.ip_or_any()?,
        "remote" => builder.remote = entry.ip_or_any()?,
        "parent" => options.dev = Some(entry.value.to_owned()),
        "input-key" => options.ikey = Some(entry.key_value()?),
        "output-key" => options.okey = Some(entry.key_value()?),
        "ttl" => options.ttl = entry.outer(0)?,
        "tos" => options.tos = entry.outer(1)?,
        "path-mtu-discovery" => options.pmtudisc = entry.switch()?,
        "mtu" => options.mtu = Some(entry.parse("a number")?).filter(|mtu| *mtu != 0),
        "flags" => {
            let flags = entry.parse::<u32>("a number")?;
            *has_limit &= flags & NO_ENCAP_LIMIT == 0;
            if flags & INHERIT_CLASS != 0 {
                options.tos = InheritOrFixed::Inherit;
            }
            let others = flags & !(NO_ENCAP_LIMIT | INHERIT_CLASS);
            if others != 0 {
                unsupported.push(entry.loss(format!("gretun has none of the flags {others:#x}")));
            }
        }
        "encapsulation-limit" => {
            unsupported.push(entry.loss("gretun's packets carry no such limit"))
        }
        _ => unsupported.push(entry.unknown()),
    }
    Ok(())
}

fn inner(
    builder: &mut TunnelBuilder,
    section: &Section<'_>,
    entry: Setting<'_>,
    unsupported: &mut Vec<Unsupported>,
) -> Result<(), FormatError> {
    let numbered = |prefix| {
        let digits = entry.key.strip_prefix(prefix);
        digits.is_some_and(|digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut parts = entry.value.split([',', ';']).map(str::trim);
    let first = Setting {
        value: parts.next().unwrap_or_default(),
        ..entry
    };
    if numbered("address") || entry.key == "addresses" {
        builder.add_address(first.net()?, None);
        if parts.any(|part| !part.is_empty()) {
            unsupported.push(entry.loss("only the first part, the address, is carried over"));
        }
    } else if numbered("route") || entry.key == "routes" {
        let gateway = parts.next().filter(|part| !part.is_empty());
        let gateway = gateway.map(|value| Setting { value, ..entry }.ip_or_any());
        builder.add_route(entry, first.net()?, gateway.transpose()?.flatten());
        if parts.any(|part| !part.is_empty()) {
            unsupported.push(entry.loss("the metric is lost: gretun's routes have none"));
        }
    } else {
        match (entry.key, entry.value) {
            // Nothing is asked for on a tunnel, whose far end sends no router advertisements and no DHCP.
            ("method", "manual" | "disabled" | "ignore" | "link-local") => {}
            ("method", method) => unsupported.push(entry.loss(format!(
                "gretun gives fixed addresses only, so {} gets none by {method}",
                section.name
            ))),
            ("addr-gen-mode", "default" | "stable-privacy" | "eui64" | "0" | "1" | "2" | "3") => {}
            _ => unsupported.push(entry.unknown()),
        }
    }
    Ok(())
}

pub(super) fn write(specs: &[TunnelSpec]) -> Exported {
    let mut exported = Exported::default();
    for spec in specs {
        exported.unsupported.extend(unsupported(spec));
        exported.files.push(OutFile {
            name: format!("{}.nmconnection", spec.name),
            text: text(spec),
        });
    }
    exported
}

fn unsupported(spec: &TunnelSpec) -> Vec<Unsupported> {
    let mut unsupported = Vec::new();
    let mut lose = |key, why: &str| unsupported.push(Unsupported::of_tunnel(spec, key, why));
    if spec.encap != Encap::None {
        lose(
            "encap",
            "NetworkManager has no UDP encapsulation: this end will not understand the far end",
        );
    }
    if ttl_is_lost(spec) {
        lose(
            "ttl",
            "NetworkManager takes a fixed one only with path MTU discovery: inherited now",
        );
    }
    if spec.mode.outer() == Family::V6 && spec.tos == InheritOrFixed::Inherit && spec.mode.is_gre()
    {
        lose(
            "tos",
            "NetworkManager cannot inherit the traffic class of this mode: 0 now",
        );
    }
    if spec.alt_name.is_some() {
        lose("alt-name", "NetworkManager gives no alternative names");
    }
    if spec.addresses.iter().any(|address| address.peer.is_some()) {
        lose(
            "peer-ip",
            "NetworkManager's tunnels have no point-to-point addresses: it is a route now",
        );
    }
    if !spec.snat.is_empty() {
        lose(
            "snat",
            "NetworkManager does not masquerade towards a network",
        );
    }
    unsupported
}

fn ttl_is_lost(spec: &TunnelSpec) -> bool {
    !spec.pmtudisc && spec.ttl != InheritOrFixed::Inherit
}

fn text(spec: &TunnelSpec) -> String {
    let mode = MODES.iter().find(|(_, mode)| *mode == spec.mode);
    let mut text = format!(
        "[connection]\nid={0}\ntype=ip-tunnel\ninterface-name={0}\n\n[ip-tunnel]\nmode={1}\nremote={2}\n",
        spec.name,
        mode.map_or(0, |(number, _)| *number),
        spec.remote
    );
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{key}={value}");
        }
    };
    add("local", spec.local.map(|ip| ip.to_string()));
    add("parent", spec.dev.clone());
    add("input-key", spec.ikey.map(|key| key.to_string()));
    add("output-key", spec.okey.map(|key| key.to_string()));
    add("mtu", spec.mtu.map(|mtu| mtu.to_string()));
    add(
        "path-mtu-discovery",
        (!spec.pmtudisc).then(|| "false".to_owned()),
    );
    match spec.ttl {
        InheritOrFixed::Fixed(ttl) if !ttl_is_lost(spec) => add("ttl", Some(ttl.to_string())),
        _ => {}
    }
    let is_ip6tnl = spec.mode.outer() == Family::V6 && !spec.mode.is_gre();
    match spec.tos {
        InheritOrFixed::Inherit if spec.mode.outer() == Family::V4 => {
            add("tos", Some("1".to_owned()))
        }
        InheritOrFixed::Inherit | InheritOrFixed::Fixed(0) => {}
        InheritOrFixed::Fixed(tos) => add("tos", Some(tos.to_string())),
    }
    if is_ip6tnl {
        let class = if spec.tos == InheritOrFixed::Inherit {
            INHERIT_CLASS
        } else {
            0
        };
        add("flags", Some((NO_ENCAP_LIMIT | class).to_string()));
    }
    for family in [Family::V4, Family::V6] {
        write_inner(&mut text, spec, family);
    }
    text
}

fn write_inner(text: &mut String, spec: &TunnelSpec, family: Family) {
    let (section, off) = match family {
        Family::V4 => ("ipv4", "disabled"),
        Family::V6 => ("ipv6", "ignore"),
    };
    let addresses = spec.addresses.iter();
    let addresses: Vec<_> = addresses
        .filter(|address| Family::of_net(address.net) == family)
        .collect();
    let method = if addresses.is_empty() { off } else { "manual" };
    let _ = write!(text, "\n[{section}]\nmethod={method}\n");
    for (i, address) in addresses.iter().enumerate() {
        let ip = match address.peer {
            Some(_) => IpNet::from(address.net.addr()),
            None => address.net,
        };
        let _ = writeln!(text, "address{}={ip}", i + 1);
    }
    let far_ends = addresses.iter().filter_map(|address| {
        let net = IpNet::new(address.peer?, address.net.prefix_len());
        net.ok().map(|net| net.trunc())
    });
    let routes = spec.routes.iter().copied();
    let routes = routes.filter(|net| Family::of_net(*net) == family);
    let gateway = addresses.iter().find_map(|address| address.peer);
    for (i, route) in far_ends.chain(routes).enumerate() {
        let _ = match gateway.filter(|gateway| spec.mode.is_ethernet() && !route.contains(gateway))
        {
            Some(gateway) => writeln!(text, "route{}={route},{gateway}", i + 1),
            None => writeln!(text, "route{}={route}", i + 1),
        };
    }
}
