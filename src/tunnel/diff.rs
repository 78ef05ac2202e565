//! Lists the differences between two links, for people.

use std::fmt::Display;

use super::encap::Encap;
use super::state::LinkConfig;

/// `ttl 64 -> 32, mtu 1476 -> 1400`.
pub(super) fn of_links(from: &LinkConfig, to: &LinkConfig) -> String {
    let key = |key: Option<u32>| key.map_or("none".to_owned(), |key| key.to_string());
    let ip = |ip: Option<std::net::IpAddr>| ip.map_or("any".to_owned(), |ip| ip.to_string());
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let state = |up: bool| if up { "up" } else { "down" };
    let mut changes = Changes::default();
    changes.add("mode", from.mode, to.mode);
    changes.add("local", ip(from.local), ip(to.local));
    changes.add("remote", ip(from.remote), ip(to.remote));
    changes.add("dev", text(&from.dev), text(&to.dev));
    changes.add("ikey", key(from.ikey), key(to.ikey));
    changes.add("okey", key(from.okey), key(to.okey));
    changes.add("ttl", from.ttl, to.ttl);
    changes.add("tos", from.tos, to.tos);
    changes.add("pmtudisc", from.pmtudisc, to.pmtudisc);
    changes.add("encap", encap(from.encap), encap(to.encap));
    changes.add("mtu", from.mtu, to.mtu);
    changes.add("state", state(from.up), state(to.up));
    changes.add("owner", text(&from.alias), text(&to.alias));
    changes.0.join(", ")
}

fn encap(encap: Encap) -> String {
    match encap.udp() {
        None => encap.name().to_owned(),
        Some(udp) => format!(
            "{} {}:{}{}",
            encap.name(),
            udp.sport,
            udp.dport,
            if udp.csum { " csum" } else { "" }
        ),
    }
}

#[derive(Default)]
struct Changes(Vec<String>);

impl Changes {
    fn add<T: Display>(&mut self, key: &str, from: T, to: T) {
        let (from, to) = (from.to_string(), to.to_string());
        if from != to {
            self.0.push(format!("{key} {from} -> {to}"));
        }
    }
}
