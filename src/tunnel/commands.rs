//! Operations as the commands that a person would type: iproute2, and nft for address translation.

use ipnet::IpNet;

use super::encap::{FouPort, Receives};
use super::header_fields::InheritOrFixed;
use super::mode::{Family, Mode};
use super::mtu;
use super::op::KernelOp;
use super::state::{LinkConfig, TunnelRoute};
use super::{nftables, snat, sources};

pub(super) fn of(op: &KernelOp) -> Vec<String> {
    let one = |command| vec![command];
    match op {
        KernelOp::AddFou(port) => one(fou("add", *port)),
        KernelOp::DeleteFou(port) => one(fou("del", *port)),
        KernelOp::AddLink(link) => vec![
            format!(
                "ip link add name {} mtu {} type {}",
                link.name,
                link.mtu,
                parameters(link)
            ),
            settings(link, if link.up { " up" } else { "" }),
        ],
        KernelOp::ChangeLink { from, to } => change(from, to),
        KernelOp::DeleteLink(tunnel) => one(format!("ip link del dev {}", tunnel.link.name)),
        KernelOp::AddAltName { link, name } => one(format!(
            "ip link property add dev {link} altname {}",
            quote(name)
        )),
        KernelOp::DeleteAltName { link, name } => one(format!(
            "ip link property del dev {link} altname {}",
            quote(name)
        )),
        KernelOp::AddAddress { link, address } => one(format!("ip addr add {address} dev {link}")),
        KernelOp::DeleteAddress { link, address } => {
            one(format!("ip addr del {address} dev {link}"))
        }
        KernelOp::AddRoute { link, route } => one(ip_route("add", link, route)),
        KernelOp::DeleteRoute { link, route } => one(ip_route("del", link, route)),
        KernelOp::AddSnat { link, network } => {
            let mut lines: Vec<String> = snat::SCRIPT.lines().map(nft).collect();
            lines.push(nft(&snat::SETS.command("add", link, *network)));
            lines
        }
        KernelOp::DeleteSnat { link, network } => {
            let (list, delete) = (
                format!("nft list table inet {}", nftables::TABLE),
                format!("nft delete table inet {}", nftables::TABLE),
            );
            vec![
                nft(&snat::SETS.command("delete", link, *network)),
                format!("{list} | grep -q elements || {delete}"),
            ]
        }
        KernelOp::AddSource { link, network } => {
            let mut lines: Vec<String> = sources::SCRIPT.lines().map(nft).collect();
            lines.push(nft(&sources::SETS.command("add", link, *network)));
            lines
        }
        KernelOp::DeleteSource { link, network } => {
            one(nft(&sources::SETS.command("delete", link, *network)))
        }
    }
}

/// iproute2 leaves unmentioned settings as they are.
fn change(from: &LinkConfig, to: &LinkConfig) -> Vec<String> {
    let name = &to.name;
    let detour = mtu::detour(to.mode, to.mtu);
    let mut commands = Vec::new();
    if detour.is_some() && from.mtu != to.mtu {
        commands.push(format!("ip link set dev {name} mtu {}", to.mtu));
    }
    let mut change = format!(
        "ip link change dev {name} mtu {} type {}",
        detour.unwrap_or(to.mtu),
        parameters(to)
    );
    for (word, is_gone) in [
        (" noikey", from.ikey.is_some() && to.ikey.is_none()),
        (" nookey", from.okey.is_some() && to.okey.is_none()),
        (
            " noencap",
            from.encap.udp().is_some() && to.encap.udp().is_none(),
        ),
    ] {
        if is_gone {
            change.push_str(word);
        }
    }
    commands.push(change);
    let state = match (from.up, to.up) {
        (false, true) => " up",
        (true, false) => " down",
        _ => "",
    };
    commands.push(settings(to, &format!(" mtu {}{state}", to.mtu)));
    commands
}

fn nft(line: &str) -> String {
    format!("nft '{line}'")
}

fn fou(verb: &str, port: FouPort) -> String {
    let receives = match port.receives {
        Receives::Gue if verb == "add" => " gue".to_owned(),
        Receives::Protocol(protocol) if verb == "add" => format!(" ipproto {protocol}"),
        _ => String::new(),
    };
    let family = match port.family {
        Family::V4 => "",
        Family::V6 => " -6",
    };
    format!("ip fou {verb} port {}{receives}{family}", port.port)
}

fn ip_route(verb: &str, link: &str, route: &TunnelRoute) -> String {
    let family = match route.network {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip -6",
    };
    format!("{family} route {verb} {route} dev {link} proto static")
}

fn settings(link: &LinkConfig, more: &str) -> String {
    let alias = link.alias.as_deref().unwrap_or_default();
    let group = match link.checks_sources {
        true => format!(" group {}", sources::GROUP),
        false => String::new(),
    };
    format!(
        "ip link set dev {} alias {}{group}{more}",
        link.name,
        quote(alias)
    )
}

/// Everything after `type`, which is the same for making and changing.
fn parameters(link: &LinkConfig) -> String {
    let mut words = vec![link.mode.link_kind().to_owned()];
    let mut add = |key: &str, value: String| words.extend([key.to_owned(), value]);
    match link.mode {
        Mode::Ip6ip6 | Mode::Ipip6 | Mode::Ipip => add("mode", link.mode.to_string()),
        Mode::Sit => add("mode", "ip6ip".to_owned()),
        _ => {}
    }
    let any = |ip: Option<std::net::IpAddr>| ip.map_or("any".to_owned(), |ip| ip.to_string());
    add("local", any(link.local));
    add("remote", any(link.remote));
    if let Some(dev) = &link.dev {
        add("dev", dev.clone());
    }
    match link.mode.outer() {
        Family::V4 => {
            add("ttl", link.ttl.to_string());
            // iproute2 reads the type of service as hexadecimal, whatever it looks like.
            let tos = match link.tos {
                InheritOrFixed::Inherit => "inherit".to_owned(),
                InheritOrFixed::Fixed(tos) => format!("0x{tos:02x}"),
            };
            add("tos", tos);
        }
        Family::V6 => {
            let hop_limit = match link.ttl {
                InheritOrFixed::Inherit => "0".to_owned(),
                InheritOrFixed::Fixed(limit) => limit.to_string(),
            };
            add("hoplimit", hop_limit);
            let class = match link.tos {
                InheritOrFixed::Inherit => "inherit".to_owned(),
                InheritOrFixed::Fixed(class) => format!("0x{class:02x}"),
            };
            add("tclass", class);
            add("encaplimit", "none".to_owned());
        }
    }
    if let Some(key) = link.ikey {
        add("ikey", key.to_string());
    }
    if let Some(key) = link.okey {
        add("okey", key.to_string());
    }
    if link.mode.outer() == Family::V4 {
        words.push(
            if link.pmtudisc {
                "pmtudisc"
            } else {
                "nopmtudisc"
            }
            .to_owned(),
        );
    }
    words.extend(encap(link));
    words.join(" ")
}

/// The word for the checksum of outer UDP, which the kernel keeps apart by family (TUNNEL_ENCAP_FLAG_CSUM and CSUM6).
pub(super) fn checksum_word(outer: Family) -> &'static str {
    match outer {
        Family::V4 => "encap-csum",
        Family::V6 => "encap-udp6-csum",
    }
}

fn encap(link: &LinkConfig) -> Vec<String> {
    let Some(udp) = link.encap.udp() else {
        return Vec::new();
    };
    let sport = match udp.sport {
        0 => "auto".to_owned(),
        port => port.to_string(),
    };
    let no = if udp.csum { "" } else { "no" };
    let checksum = format!("{no}{}", checksum_word(link.mode.outer()));
    let mut words = vec!["encap".to_owned(), link.encap.name().to_owned()];
    words.extend(["encap-sport".to_owned(), sport]);
    words.extend(["encap-dport".to_owned(), udp.dport.to_string(), checksum]);
    words
}

/// Quotes a word for the shell where it needs it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
