//! Commands of iproute2, as in scripts: `ip tunnel add`, `ip link add ... type gre`, addresses, routes, FOU ports, and the
//! nft commands by which gretun itself writes masquerading.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::tunnel_builder::{TunnelBuilder, Wrap};
use super::words::Words;
use super::{Exported, FormatError, Imported, OutFile, Setting, Source, Unsupported};
use crate::tunnel::commands;
use crate::tunnel::file::DEFAULT_SET;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::op::KernelOp;
use crate::tunnel::plan;
use crate::tunnel::spec::TunnelSpec;
use crate::tunnel::state::Observed;
use crate::tunnel::{nftables, snat};

/// The path MTU (Ethernet's) that is assumed if the MTU is to follow the path, because commands cannot follow it.
const ASSUMED_PATH: u32 = 1500;

/// The objects of `ip` that concern tunnels, in the order in which it completes abbreviations.
const OBJECTS: [&str; 5] = ["address", "route", "link", "tunnel", "fou"];

/// Returns whether a line is a command that this module reads.
pub(super) fn is_command(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or_default();
    matches!(first, "sudo" | "ip" | "/sbin/ip" | "/usr/sbin/ip")
        || OBJECTS.contains(&first) && matches!(words.next(), Some("add"))
}

/// The tunnels that the commands have created so far.
#[derive(Default)]
struct Reading {
    builders: Vec<TunnelBuilder>,
    ports: Vec<(String, Unsupported)>,
    unsupported: Vec<Unsupported>,
}

pub(super) fn read(sources: &[Source]) -> Result<Imported, FormatError> {
    let mut reading = Reading::default();
    for source in sources {
        for (i, text) in source.text.lines().enumerate() {
            let words = shlex::split(text).ok_or_else(|| FormatError::Syntax {
                file: source.name.clone(),
                line: i + 1,
                what: "a quote is not closed",
            })?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let at = Setting {
                file: &source.name,
                line: i + 1,
                key: text.trim(),
                value: "",
            };
            reading.line(at, &words)?;
        }
    }
    reading.finish()
}

impl Reading {
    fn line(&mut self, at: Setting<'_>, words: &[&str]) -> Result<(), FormatError> {
        let words = words.strip_prefix(&["sudo"]).unwrap_or(words);
        let (family, rest) = match words {
            [] => return Ok(()),
            ["ip" | "/sbin/ip" | "/usr/sbin/ip", "-4", rest @ ..] => (Some(Family::V4), rest),
            ["ip" | "/sbin/ip" | "/usr/sbin/ip", "-6", rest @ ..] => (Some(Family::V6), rest),
            ["ip" | "/sbin/ip" | "/usr/sbin/ip", rest @ ..] => (None, rest),
            ["nft", rest @ ..] => return self.nft(at, &rest.join(" ")),
            rest => (None, rest),
        };
        let [object, verb, rest @ ..] = rest else {
            self.unsupported
                .push(at.loss("not a command that gretun reads"));
            return Ok(());
        };
        let object = OBJECTS
            .iter()
            .find(|known| known.starts_with(object) && !object.is_empty());
        let is = |full: &str| full.starts_with(verb) && !verb.is_empty();
        let words = Words {
            at,
            words: rest.iter(),
        };
        match object {
            Some(&"tunnel") if is("add") => self.tunnel_add(words, family),
            Some(&"link") if is("add") => self.link_add(words),
            Some(&"link") if is("set") => self.link_set(words),
            Some(&"link") if is("property") => self.property(words),
            Some(&"address") if is("add") || is("replace") => self.address(words),
            Some(&"route") if is("add") || is("replace") => self.route(words, family),
            Some(&"fou") if is("add") => self.fou(words),
            _ => {
                self.unsupported
                    .push(at.loss("not a command that gretun reads"));
                Ok(())
            }
        }
    }

    fn tunnel_add(
        &mut self,
        mut words: Words<'_>,
        family: Option<Family>,
    ) -> Result<(), FormatError> {
        let all: Vec<&str> = words.words.clone().copied().collect();
        let at = words.at;
        let named = all.iter().position(|word| *word == "mode");
        let mode = named.and_then(|i| all.get(i + 1)).map(|value| Setting {
            key: "mode",
            value,
            ..at
        });
        let Some(mode) = mode else {
            return Err(at.bad("a command with mode"));
        };
        let mode = match (mode.value, family) {
            ("ip/ip" | "ipv4/ipv4", _) => Mode::Ipip,
            ("ipv6/ipv4" | "ipv6/ip", _) => Mode::Sit,
            ("gre/ip", _) => Mode::Gre,
            ("gre", Some(Family::V6)) | ("gre/ipv6", _) => Mode::Ip6gre,
            ("ipv6/ipv6", _) => Mode::Ip6ip6,
            ("ip/ipv6" | "ipv4/ipv6", _) => Mode::Ipip6,
            _ => mode.parse("a kind of tunnel that gretun makes")?,
        };
        let name = match words.next() {
            Some("name") => words.next(),
            first => first,
        };
        self.device(words, name, mode)
    }

    fn link_add(&mut self, mut words: Words<'_>) -> Result<(), FormatError> {
        let (mut name, mut mtu, mut kind) = (None, None, None);
        while let Some(word) = words.next() {
            match word {
                "name" | "dev" => name = Some(words.value(word)?.value),
                "mtu" => mtu = Some(words.value(word)?.parse("a number of bytes")?),
                "alias" => drop(words.value(word)?),
                "type" => {
                    kind = Some(words.value(word)?);
                    break;
                }
                _ if name.is_none() => name = Some(word),
                _ => self.unsupported.push(words.entry(word).unknown()),
            }
        }
        let Some(kind) = kind else {
            return Err(words.at.bad("a command with type"));
        };
        let all: Vec<&str> = words.words.clone().copied().collect();
        let named = all
            .iter()
            .position(|word| *word == "mode")
            .and_then(|i| all.get(i + 1));
        let mode = match (kind.value, named.copied()) {
            ("ip6tnl", Some("ip6ip6" | "ipv6/ipv6")) => Mode::Ip6ip6,
            ("ip6tnl", Some("ipip6" | "ip4ip6" | "ip/ipv6" | "ipv4/ipv6")) => Mode::Ipip6,
            ("ip6tnl", _) => return Err(kind.bad("a kind with mode ip6ip6 or ipip6")),
            _ => match kind.value.parse() {
                Ok(mode) => mode,
                Err(_) => {
                    self.unsupported
                        .push(kind.loss("gretun makes no such device"));
                    return Ok(());
                }
            },
        };
        self.device(words, name, mode)?;
        if let (Some(builder), Some(mtu)) = (self.builders.last_mut(), mtu) {
            builder.options.mtu = Some(mtu);
        }
        Ok(())
    }

    fn device(
        &mut self,
        mut words: Words<'_>,
        name: Option<&str>,
        mode: Mode,
    ) -> Result<(), FormatError> {
        let at = words.at;
        let name = name.ok_or_else(|| at.bad("a command with a name"))?;
        let mut builder = TunnelBuilder::new(format!("{}:{}", at.file, at.line), name, mode);
        let mut has_limit = mode.outer() == Family::V6;
        let checksum = commands::checksum_word(mode.outer());
        while let Some(word) = words.next() {
            let options = &mut builder.options;
            match word {
                "mode" => drop(words.value(word)?),
                "local" => options.local = words.value(word)?.ip_or_any()?,
                "remote" => builder.remote = words.value(word)?.ip_or_any()?,
                "dev" => options.dev = Some(words.value(word)?.value.to_owned()),
                "ttl" | "hoplimit" | "hlim" => options.ttl = words.value(word)?.outer(0)?,
                "tos" | "tclass" | "dsfield" => options.tos = words.value(word)?.outer(1)?,
                "key" => {
                    let key = Some(words.value(word)?.key_value()?);
                    (options.ikey, options.okey) = (key, key);
                }
                "ikey" => options.ikey = Some(words.value(word)?.key_value()?),
                "okey" => options.okey = Some(words.value(word)?.key_value()?),
                "pmtudisc" => options.pmtudisc = true,
                "nopmtudisc" => options.pmtudisc = false,
                "encaplimit" => {
                    let limit = words.value(word)?;
                    has_limit = false;
                    if limit.value != "none" {
                        self.unsupported
                            .push(limit.loss("gretun's packets carry no such limit"));
                    }
                }
                "encap" => {
                    let wrap = words.value(word)?;
                    builder.wrap = match wrap.value {
                        "none" => Wrap::None,
                        "fou" => Wrap::Fou,
                        "gue" => Wrap::Gue,
                        _ => return Err(wrap.bad("fou, gue or none")),
                    };
                }
                "encap-sport" => {
                    let port = words.value(word)?;
                    builder.sport = if port.value == "auto" {
                        0
                    } else {
                        port.parse("a port")?
                    };
                }
                "encap-dport" => builder.dport = Some(words.value(word)?.parse("a port")?),
                _ if word == checksum => builder.csum = true,
                _ if word.strip_prefix("no") == Some(checksum) => builder.csum = false,
                // The other family's: the kernel does not look at it.
                "encap-csum" | "noencap-csum" | "encap-udp6-csum" | "noencap-udp6-csum" => {}
                // gretun has this setting off, too.
                "nocsum" | "noseq" | "noicsum" | "noocsum" | "noiseq" | "nooseq"
                | "noencap-remcsum" => {}
                _ => self.unsupported.push(words.entry(word).unknown()),
            }
        }
        if has_limit {
            let loss = words
                .entry("encaplimit")
                .loss("4 by default in iproute2: gretun's packets carry none");
            self.unsupported.push(loss);
        }
        self.builders.push(builder);
        Ok(())
    }

    fn link_set(&mut self, mut words: Words<'_>) -> Result<(), FormatError> {
        let at = words.at;
        let mut device = None;
        let mut mtu = None;
        while let Some(word) = words.next() {
            match word {
                "dev" => device = Some(words.value(word)?.value),
                "mtu" => mtu = Some(words.value(word)?.parse("a number of bytes")?),
                // The alias is gretun's owner alias; all tunnels are up.
                "alias" => drop(words.value(word)?),
                "up" => {}
                _ if device.is_none() => device = Some(word),
                _ => self.unsupported.push(words.entry(word).unknown()),
            }
        }
        if let Some(builder) = self.builder(at, device)
            && mtu.is_some()
        {
            builder.options.mtu = mtu;
        }
        Ok(())
    }

    fn property(&mut self, mut words: Words<'_>) -> Result<(), FormatError> {
        let at = words.at;
        let (mut device, mut names) = (None, Vec::new());
        while let Some(word) = words.next() {
            match word {
                "add" => {}
                "dev" => device = Some(words.value(word)?.value),
                "altname" => names.push(words.value(word)?),
                _ => self.unsupported.push(words.entry(word).unknown()),
            }
        }
        for name in names {
            let more = name.loss("gretun gives one alternative name");
            match self.builder(at, device) {
                Some(builder) if builder.options.alt_name.is_none() => {
                    builder.options.alt_name = Some(name.value.to_owned());
                }
                Some(_) => self.unsupported.push(more),
                None => {}
            }
        }
        Ok(())
    }

    fn address(&mut self, mut words: Words<'_>) -> Result<(), FormatError> {
        let at = words.at;
        let (mut device, mut ip, mut peer) = (None, None, None);
        while let Some(word) = words.next() {
            match word {
                "dev" => device = Some(words.value(word)?.value),
                "peer" | "remote" => peer = Some(words.value(word)?.net()?),
                "local" => ip = Some(words.value(word)?.net()?),
                // Duplicate address detection, which finds nothing on a tunnel; and the default scope.
                "nodad" => {}
                "scope" if words.words.as_slice().first() == Some(&"global") => drop(words.next()),
                _ if ip.is_none() => {
                    ip = Some(
                        Setting {
                            key: "address",
                            value: word,
                            ..at
                        }
                        .net()?,
                    )
                }
                _ => self.unsupported.push(words.entry(word).unknown()),
            }
        }
        let ip = ip.ok_or_else(|| at.bad("a command with an address"))?;
        if let Some(builder) = self.builder(at, device) {
            builder.add_address(ip, peer);
        }
        Ok(())
    }

    fn route(&mut self, mut words: Words<'_>, family: Option<Family>) -> Result<(), FormatError> {
        let at = words.at;
        let (mut device, mut net, mut via) = (None, None, None);
        let mut unsupported = Vec::new();
        while let Some(word) = words.next() {
            match word {
                "dev" => device = Some(words.value(word)?.value),
                "via" => via = Some(words.value(word)?.ip()?),
                "proto" | "protocol" => {
                    let proto = words.value(word)?;
                    if proto.value != "static" {
                        unsupported.push(proto.loss("gretun's routes are of protocol static"));
                    }
                }
                "default" => {
                    net = Some(
                        if family == Some(Family::V6)
                            || via.is_some_and(|via: IpAddr| via.is_ipv6())
                        {
                            IpNet::V6(Ipv6Net::default())
                        } else {
                            IpNet::V4(Ipv4Net::default())
                        },
                    );
                }
                _ if net.is_none() => {
                    net = Some(
                        Setting {
                            key: "route",
                            value: word,
                            ..at
                        }
                        .net()?,
                    )
                }
                _ => unsupported.push(words.entry(word).unknown()),
            }
        }
        let net = net.ok_or_else(|| at.bad("a command with a network"))?;
        if let Some(builder) = self.builder(at, device) {
            let key = "route";
            builder.add_route(Setting { key, ..at }, net, via);
            self.unsupported.extend(unsupported);
        }
        Ok(())
    }

    fn fou(&mut self, mut words: Words<'_>) -> Result<(), FormatError> {
        let mut port = None;
        while let Some(word) = words.next() {
            match word {
                "port" => port = Some(words.value(word)?),
                // These follow from the tunnels that use the port.
                "ipproto" => drop(words.value(word)?),
                "gue" | "-6" | "-4" => {}
                _ => self.unsupported.push(words.entry(word).unknown()),
            }
        }
        let port = port.ok_or_else(|| words.at.bad("a command with port"))?;
        let number = port.parse::<u16>("a port")?;
        let why = "no tunnel of these commands receives on this port";
        self.ports.push((number.to_string(), port.loss(why)));
        Ok(())
    }

    /// Reads gretun's own masquerading: the table is always the same, only its elements differ.
    fn nft(&mut self, at: Setting<'_>, command: &str) -> Result<(), FormatError> {
        if snat::SCRIPT.lines().any(|line| line == command) {
            return Ok(());
        }
        let element = [snat::SETS.v4, snat::SETS.v6].iter().find_map(|set| {
            let rest =
                command.strip_prefix(&format!("add element inet {} {set} ", nftables::TABLE))?;
            let pair = rest.strip_prefix("{ \"")?.strip_suffix(" }")?;
            pair.split_once("\" . ")
        });
        let Some((device, network)) = element else {
            self.unsupported
                .push(at.loss("not masquerading as gretun writes it"));
            return Ok(());
        };
        let value = network;
        let network = Setting {
            key: "snat",
            value,
            ..at
        }
        .net()?;
        if let Some(builder) = self.builder(at, Some(device)) {
            builder.options.snat.push(network);
        }
        Ok(())
    }

    /// The tunnel of this name; a command about another device is lost.
    fn builder(&mut self, at: Setting<'_>, device: Option<&str>) -> Option<&mut TunnelBuilder> {
        let of_device = |builder: &TunnelBuilder| Some(builder.options.name.as_str()) == device;
        let found = self.builders.iter().rposition(of_device);
        if found.is_none() {
            self.unsupported
                .push(at.loss("is about no tunnel that these commands make"));
        }
        found.and_then(|i| self.builders.get_mut(i))
    }

    fn finish(mut self) -> Result<Imported, FormatError> {
        let mut specs = Vec::new();
        for builder in self.builders {
            specs.push(builder.finish(&mut self.unsupported)?);
        }
        for (port, loss) in self.ports {
            let used = specs
                .iter()
                .filter_map(|spec| spec.encap.listener(spec.mode));
            if !used.into_iter().any(|fou| fou.port.to_string() == port) {
                self.unsupported.push(loss);
            }
        }
        let unsupported = self.unsupported;
        Ok(Imported { specs, unsupported })
    }
}

pub(super) fn write(specs: &[TunnelSpec]) -> Result<Exported, FormatError> {
    let mut exported = Exported::default();
    let mut states = Vec::new();
    for spec in specs {
        let mtu = spec.mtu_over(ASSUMED_PATH);
        if spec.mtu.is_none() {
            let why =
                format!("{mtu}, for a path of {ASSUMED_PATH} bytes: commands cannot work it out");
            exported
                .unsupported
                .push(Unsupported::of_tunnel(spec, "mtu", why));
        }
        states.push(spec.state(mtu, String::new()));
    }
    let ops = plan::apply(&states, &Observed::default(), DEFAULT_SET)?;
    let commands = ops.iter().flat_map(KernelOp::commands);
    // Without the owner alias these tunnels belong to the person who runs the commands.
    let text = commands
        .map(|command| command.replace(" alias ''", "") + "\n")
        .collect();
    let name = "tunnels.sh".to_owned();
    exported.files.push(OutFile { name, text });
    Ok(exported)
}
