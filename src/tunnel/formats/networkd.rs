//! systemd-networkd's files: `.netdev` for devices and FOU ports, `.network` for addresses and routes
//! (systemd.netdev(5), systemd.network(5)).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::ini::{self, Section};
use super::tunnel_builder::{TunnelBuilder, Wrap};
use super::{Exported, FormatError, Imported, OutFile, Setting, Source, Unsupported};
use crate::tunnel::encap::{Encap, FouPort, Receives};
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::spec::TunnelSpec;

const GUE: &str = "GenericUDPEncapsulation";
const FOU: &str = "FooOverUDP";

/// The contents of the files, while they are read.
#[derive(Default)]
struct Reading<'a> {
    builders: Vec<TunnelBuilder>,
    /// Names of tunnels that wait for another device's file to ask for them.
    dependent: BTreeSet<String>,
    ports: Vec<Setting<'a>>,
    unsupported: Vec<Unsupported>,
}

pub(super) fn read(sources: &[Source]) -> Result<Imported, FormatError> {
    let mut files = Vec::new();
    for source in sources {
        files.push((source, ini::read(source)?));
    }
    let mut reading = Reading::default();
    let is_netdev = |sections: &[Section<'_>]| sections.iter().any(|s| s.name == "NetDev");
    for (source, sections) in files.iter().filter(|(_, sections)| is_netdev(sections)) {
        reading.netdev(source, sections)?;
    }
    for (source, sections) in files.iter().filter(|(_, sections)| !is_netdev(sections)) {
        reading.network(source, sections)?;
    }
    reading.finish()
}

impl<'a> Reading<'a> {
    fn netdev(&mut self, source: &Source, sections: &[Section<'a>]) -> Result<(), FormatError> {
        let find = |section: &str, key: &'static str| {
            let mut sections = sections.iter().filter(|s| s.name == section);
            sections.find_map(|s| s.get(key))
        };
        let missing = |key| FormatError::Missing {
            place: source.name.clone(),
            key,
        };
        let kind = find("NetDev", "Kind").ok_or_else(|| missing("Kind"))?;
        let name = find("NetDev", "Name").ok_or_else(|| missing("Name"))?;
        if kind.value == "fou" {
            return self.fou(source, sections);
        }
        let mode = match (kind.value, find("Tunnel", "Mode")) {
            ("ip6tnl", Some(mode)) => match mode.value {
                "ip6ip6" => Mode::Ip6ip6,
                "ipip6" => Mode::Ipip6,
                _ => return Err(mode.bad("ip6ip6 or ipip6")),
            },
            ("ip6tnl", None) => return Err(missing("Mode")),
            (kind_name, _) => match kind_name.parse() {
                Ok(mode) => mode,
                Err(_) => {
                    self.unsupported
                        .push(kind.loss("gretun makes no such device"));
                    return Ok(());
                }
            },
        };
        let mut builder = TunnelBuilder::new(&source.name, name.value, mode);
        let mut independent = false;
        // Without the setting outer IPv6 packets carry a limit, of GRE too.
        let mut has_limit = mode.outer() == Family::V6;
        for section in sections {
            for entry in &section.entries {
                match (section.name, entry.key) {
                    ("NetDev", "Name" | "Kind") | ("Tunnel", "Mode") => {}
                    ("NetDev", "MTUBytes") => {
                        builder.options.mtu = Some(entry.parse("a number of bytes")?)
                    }
                    ("Tunnel", "Independent") => independent = entry.switch()?,
                    ("Tunnel", "EncapsulationLimit") if entry.value == "none" => has_limit = false,
                    ("Tunnel", _) => tunnel(&mut builder, *entry, &mut self.unsupported)?,
                    _ => self.unsupported.push(entry.unknown()),
                }
            }
        }
        if has_limit {
            let why = "the encapsulation limit in outer packets: gretun sends none";
            self.unsupported.push(Unsupported {
                place: source.name.clone(),
                key: "EncapsulationLimit".to_owned(),
                why: why.to_owned(),
            });
        }
        if !independent {
            self.dependent.insert(name.value.to_owned());
        }
        self.builders.push(builder);
        Ok(())
    }

    fn fou(&mut self, source: &Source, sections: &[Section<'a>]) -> Result<(), FormatError> {
        let mut found = false;
        for section in sections {
            for entry in &section.entries {
                match (section.name, entry.key) {
                    ("NetDev", "Name" | "Kind") => {}
                    ("FooOverUDP", "Port") => {
                        entry.parse::<u16>("a port")?;
                        self.ports.push(*entry);
                        found = true;
                    }
                    // These follow from the tunnels that use the port.
                    ("FooOverUDP", "Encapsulation" | "Protocol") => {}
                    _ => self.unsupported.push(entry.unknown()),
                }
            }
        }
        if found {
            return Ok(());
        }
        Err(FormatError::Missing {
            place: source.name.clone(),
            key: "Port",
        })
    }

    fn network(&mut self, source: &Source, sections: &[Section<'a>]) -> Result<(), FormatError> {
        let names = sections.iter().filter(|s| s.name == "Match");
        let name = names.filter_map(|section| section.get("Name")).next_back();
        let Some(name) = name else {
            return Err(FormatError::Missing {
                place: source.name.clone(),
                key: "Name",
            });
        };
        for entry in sections
            .iter()
            .filter(|s| s.name == "Network")
            .flat_map(|s| &s.entries)
        {
            if entry.key == "Tunnel" {
                self.bind(*entry, name.value);
            }
        }
        let of_tunnel = |builder: &&mut TunnelBuilder| builder.options.name == name.value;
        let Some(builder) = self.builders.iter_mut().find(of_tunnel) else {
            self.unsupported
                .push(name.loss("is no tunnel of these files; its file is left out"));
            return Ok(());
        };
        for section in sections {
            match section.name {
                "Address" => address(builder, section, &mut self.unsupported)?,
                "Route" => route(builder, section, &mut self.unsupported)?,
                _ => {
                    for entry in &section.entries {
                        setting(builder, section.name, *entry, &mut self.unsupported)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `Tunnel=` in another device's file: the tunnel is bound to that device.
    fn bind(&mut self, entry: Setting<'_>, device: &str) {
        let of_tunnel = |builder: &&mut TunnelBuilder| builder.options.name == entry.value;
        match self.builders.iter_mut().find(of_tunnel) {
            Some(builder) if self.dependent.remove(entry.value) => {
                builder.options.dev = Some(device.to_owned());
            }
            Some(_) => {}
            None => self
                .unsupported
                .push(entry.loss("is no tunnel of these files")),
        }
    }

    fn finish(mut self) -> Result<Imported, FormatError> {
        for builder in &self.builders {
            if self.dependent.contains(&builder.options.name) {
                self.unsupported.push(Unsupported {
                    place: builder.place.clone(),
                    key: "Independent".to_owned(),
                    why: "bound to the device whose .network file has Tunnel=, which is not among these files: \
                          not bound to any now"
                        .to_owned(),
                });
            }
        }
        let mut specs = Vec::new();
        for builder in self.builders {
            specs.push(builder.finish(&mut self.unsupported)?);
        }
        for port in &self.ports {
            let used = specs
                .iter()
                .filter_map(|spec| spec.encap.listener(spec.mode));
            if !used
                .into_iter()
                .any(|fou| fou.port.to_string() == port.value)
            {
                self.unsupported
                    .push(port.loss("no tunnel of these files receives on this port"));
            }
        }
        let unsupported = self.unsupported;
        Ok(Imported { specs, unsupported })
    }
}

fn tunnel(
    builder: &mut TunnelBuilder,
    entry: Setting<'_>,
    unsupported: &mut Vec<Unsupported>,
) -> Result<(), FormatError> {
    let options = &mut builder.options;
    match entry.key {
        "Local" => options.local = entry.ip_or_any()?,
        "Remote" => builder.remote = entry.ip_or_any()?,
        "TTL" => options.ttl = entry.outer(0)?,
        "TOS" => options.tos = entry.outer(1)?,
        "DiscoverPathMTU" if options.mode.outer() == Family::V4 => {
            options.pmtudisc = entry.switch()?;
        }
        "Key" => {
            (options.ikey, options.okey) = (Some(entry.key_value()?), Some(entry.key_value()?))
        }
        "InputKey" => options.ikey = Some(entry.key_value()?),
        "OutputKey" => options.okey = Some(entry.key_value()?),
        "FooOverUDP" => {
            if !entry.switch()? {
                builder.wrap = Wrap::None;
            } else if builder.wrap == Wrap::None {
                builder.wrap = Wrap::Fou;
            }
        }
        "Encapsulation" => match entry.value {
            GUE => builder.wrap = Wrap::Gue,
            FOU => builder.wrap = Wrap::Fou,
            _ => return Err(entry.bad("FooOverUDP or GenericUDPEncapsulation")),
        },
        "FOUDestinationPort" => builder.dport = Some(entry.parse("a port")?),
        "FOUSourcePort" => builder.sport = entry.parse("a port")?,
        _ => unsupported.push(entry.unknown()),
    }
    Ok(())
}

fn address(
    builder: &mut TunnelBuilder,
    section: &Section<'_>,
    unsupported: &mut Vec<Unsupported>,
) -> Result<(), FormatError> {
    let peer = section.get("Peer");
    for entry in &section.entries {
        match entry.key {
            "Address" => {
                let ip = entry.net()?;
                let peer = peer.map(|peer| peer.net()).transpose()?;
                builder.add_address(ip, peer);
            }
            "Peer" => {}
            _ => unsupported.push(entry.unknown()),
        }
    }
    Ok(())
}

fn route(
    builder: &mut TunnelBuilder,
    section: &Section<'_>,
    unsupported: &mut Vec<Unsupported>,
) -> Result<(), FormatError> {
    let gateway = section
        .get("Gateway")
        .map(|gateway| gateway.ip())
        .transpose()?;
    for entry in &section.entries {
        match entry.key {
            "Destination" => builder.add_route(*entry, entry.net()?, gateway),
            "Gateway" => {}
            _ => unsupported.push(entry.unknown()),
        }
    }
    Ok(())
}

fn setting(
    builder: &mut TunnelBuilder,
    section: &str,
    entry: Setting<'_>,
    unsupported: &mut Vec<Unsupported>,
) -> Result<(), FormatError> {
    match (section, entry.key) {
        ("Match", "Name") | ("Network", "Tunnel") => {}
        ("Link", "MTUBytes") => builder.options.mtu = Some(entry.parse("a number of bytes")?),
        ("Network", "Address") => builder.add_address(entry.net()?, None),
        // Settings of networkd's own work; the tunnel does not depend on them.
        ("Link", "RequiredForOnline") => {}
        ("Network", "IPv6AcceptRA" | "DHCP") if !entry.switch().unwrap_or(true) => {}
        _ => unsupported.push(entry.unknown()),
    }
    Ok(())
}

pub(super) fn write(specs: &[TunnelSpec]) -> Exported {
    let mut exported = Exported::default();
    let mut ports = BTreeSet::new();
    for spec in specs {
        exported.unsupported.extend(unsupported(spec));
        if can_wrap(spec)
            && let Some(port) = spec.encap.listener(spec.mode)
            && ports.insert(port)
        {
            exported.files.push(OutFile {
                name: format!("40-gretun-udp{}.netdev", port.port),
                text: fou_text(port),
            });
        }
        exported.files.push(OutFile {
            name: format!("40-{}.netdev", spec.name),
            text: netdev_text(spec),
        });
        exported.files.push(OutFile {
            name: format!("40-{}.network", spec.name),
            text: network_text(spec),
        });
    }
    exported
}

/// networkd encapsulates over IPv4 only.
fn can_wrap(spec: &TunnelSpec) -> bool {
    spec.encap != Encap::None && spec.mode.outer() == Family::V4
}

fn unsupported(spec: &TunnelSpec) -> Vec<Unsupported> {
    let mut unsupported = Vec::new();
    let mut lose = |key, why: &str| unsupported.push(Unsupported::of_tunnel(spec, key, why));
    if spec.name.contains(['*', '?', '[', ']', '!']) {
        lose("name", "networkd reads it as a pattern");
    }
    if let Some(dev) = &spec.dev {
        let why = format!(
            "networkd binds a tunnel in the device's own file: put Tunnel={} into [Network] of the one for {dev}, and take \
             Independent= away",
            spec.name
        );
        lose("dev", &why);
    }
    if spec.mode.outer() == Family::V6 && spec.tos != InheritOrFixed::Fixed(0) {
        lose("tos", "networkd sets none over IPv6");
    }
    if spec.encap != Encap::None && !can_wrap(spec) {
        lose(
            "encap",
            "networkd has no UDP encapsulation over IPv6: this end will not understand the far end",
        );
    }
    if can_wrap(spec) && spec.encap.udp().is_some_and(|udp| udp.csum) {
        lose("encap-csum", "networkd sends UDP without checksums");
    }
    if spec.alt_name.is_some() {
        lose(
            "alt-name",
            "networkd gives alternative names in .link files only",
        );
    }
    if !spec.snat.is_empty() {
        lose("snat", "networkd does not masquerade towards a network");
    }
    unsupported
}

fn fou_text(port: FouPort) -> String {
    let mut text = format!(
        "[NetDev]\nName=gretun-udp{0}\nKind=fou\n\n[FooOverUDP]\nPort={0}\n",
        port.port
    );
    let _ = match port.receives {
        Receives::Protocol(protocol) => writeln!(text, "Protocol={protocol}"),
        Receives::Gue => writeln!(text, "Encapsulation={GUE}"),
    };
    text
}

fn netdev_text(spec: &TunnelSpec) -> String {
    let mut text = format!(
        "[NetDev]\nName={}\nKind={}\n",
        spec.name,
        spec.mode.link_kind()
    );
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{key}={value}");
        }
    };
    add("MTUBytes", spec.mtu.map(|mtu| mtu.to_string()));
    add("\n[Tunnel]\nIndependent", Some("yes".to_owned()));
    if spec.mode.link_kind() == "ip6tnl" {
        add("Mode", Some(spec.mode.to_string()));
    }
    if spec.mode.outer() == Family::V6 {
        add("EncapsulationLimit", Some("none".to_owned()));
    }
    add("Local", spec.local.map(|ip| ip.to_string()));
    add("Remote", Some(spec.remote.to_string()));
    add("InputKey", spec.ikey.map(|key| key.to_string()));
    add("OutputKey", spec.okey.map(|key| key.to_string()));
    let number = |value, inherit: u8| match value {
        InheritOrFixed::Inherit => inherit,
        InheritOrFixed::Fixed(value) => value,
    };
    add("TTL", Some(number(spec.ttl, 0).to_string()));
    if spec.mode.outer() == Family::V4 {
        add(
            "TOS",
            Some(number(spec.tos, 1).to_string()).filter(|tos| tos != "0"),
        );
        add("DiscoverPathMTU", (!spec.pmtudisc).then(|| "no".to_owned()));
    }
    if let Some(udp) = spec.encap.udp().filter(|_| can_wrap(spec)) {
        add("FooOverUDP", Some("yes".to_owned()));
        let wrap = if matches!(spec.encap, Encap::Gue(_)) {
            GUE
        } else {
            FOU
        };
        add("Encapsulation", Some(wrap.to_owned()));
        add("FOUDestinationPort", Some(udp.dport.to_string()));
        add(
            "FOUSourcePort",
            (udp.sport != 0).then(|| udp.sport.to_string()),
        );
    }
    text
}

fn network_text(spec: &TunnelSpec) -> String {
    let mut text = format!(
        "[Match]\nName={}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nIPv6AcceptRA=no\n",
        spec.name
    );
    for address in &spec.addresses {
        let _ = write!(text, "\n[Address]\nAddress={}\n", address.net);
        if let Some(peer) = address.peer {
            let _ = writeln!(text, "Peer={peer}/{}", address.net.prefix_len());
        }
    }
    // The gateways on Ethernet devices are the far ends' addresses, as where gretun makes the routes itself.
    for route in spec.state(0, String::new()).routes {
        let _ = write!(text, "\n[Route]\nDestination={}\n", route.network);
        if let Some(via) = route.via {
            let _ = writeln!(text, "Gateway={via}");
        }
    }
    text
}
