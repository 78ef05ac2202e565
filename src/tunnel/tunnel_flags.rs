//! A tunnel as people write it: the flags of `create`, and the keys of a `[tunnels.NAME]` table. Both have the same names
//! and are read by the same code.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::encap::{Encap, Udp};
use super::header_fields::parse_key;
use super::mode::Mode;
use super::mtu;
use super::spec::{IP_ADDRESS, Problem, SpecError, TunnelOptions, TunnelSpec};
use super::state::TunnelAddress;

/// The options of a tunnel, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TunnelTable {
    /// Our outer address; that of the route to the far end if not given
    #[arg(long, value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The far end's outer address
    #[arg(long, value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Kind of tunnel: gre, ip6gre, gretap, ip6gretap, ipip, sit, ip6ip6, ipip6 [default: gre, or ip6gre to an IPv6 remote]
    #[arg(long, value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Device that outer packets must leave through
    #[arg(long, value_name = "DEV")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// GRE key for both directions: a number, or four as 0.0.0.42
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Text>,
    /// GRE key of received packets
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ikey: Option<Text>,
    /// GRE key of sent packets
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub okey: Option<Text>,
    /// Time to live of outer packets, 1-255 or "inherit" [default: 64]
    #[arg(long, value_name = "TTL", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Text>,
    /// Type of service of outer packets, 0-255 or "inherit" [default: 0]
    #[arg(long, value_name = "TOS", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos: Option<Text>,
    /// Do not fragment outer IPv4 packets [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", overrides_with = "no_pmtudisc")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pmtudisc: Option<bool>,
    /// Let outer IPv4 packets be fragmented
    #[arg(long, overrides_with = "pmtudisc")]
    #[serde(skip)]
    pub no_pmtudisc: bool,
    /// Inner address with prefix length; repeatable
    #[arg(long, value_name = "CIDR")]
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tunnel_ip: Vec<String>,
    /// The far end's inner address, which makes the device point to point; one for each IP version
    #[arg(long, value_name = "IP")]
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peer_ip: Vec<String>,
    /// Network to reach through the tunnel; repeatable
    #[arg(long, value_name = "CIDR")]
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub route: Vec<String>,
    /// Network towards which the tunnel's traffic is masqueraded, so that its hosts need no route back; repeatable
    #[arg(long, value_name = "CIDR")]
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub snat: Vec<String>,
    /// Largest inner packet; 0 works it out from the path [default: 0]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Text>,
    /// UDP around the tunnel: none, fou, gue [default: none]
    #[arg(long, value_name = "ENCAP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap: Option<String>,
    /// UDP source port; 0 takes one for each flow [default: 0]
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap_sport: Option<Text>,
    /// UDP destination port
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap_dport: Option<Text>,
    /// Fill in the UDP checksum [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap_csum: Option<bool>,
}

impl TunnelTable {
    /// The tunnel of this name that the table describes.
    ///
    /// # Errors
    /// Names the key at fault.
    pub fn spec(&self, name: &str) -> Result<TunnelSpec, SpecError> {
        let remote: IpAddr = match &self.remote {
            Some(text) => parse("remote", text, IP_ADDRESS)?,
            None => return Err(SpecError::new("remote", Problem::Missing)),
        };
        let mode = match self.mode.as_deref() {
            Some(text) => parse(
                "mode",
                text,
                "one of gre, ip6gre, gretap, ip6gretap, ipip, sit, ip6ip6, ipip6",
            )?,
            None if remote.is_ipv4() => Mode::Gre,
            None => Mode::Ip6gre,
        };
        let mut options = TunnelOptions::new(name, mode, remote);
        if let Some(text) = &self.local {
            options.local = Some(parse("local", text, IP_ADDRESS)?);
        }
        options.dev.clone_from(&self.dev);
        (options.ikey, options.okey) = self.keys()?;
        if let Some(ttl) = &self.ttl {
            options.ttl = parse("ttl", &ttl.0, "\"inherit\" or a number within 1 to 255")?;
        }
        if let Some(tos) = &self.tos {
            options.tos = parse("tos", &tos.0, "\"inherit\" or a number within 0 to 255")?;
        }
        options.pmtudisc = self.pmtudisc.unwrap_or(!self.no_pmtudisc);
        options.encap = self.encap()?;
        options.mtu = match &self.mtu {
            Some(text) => match number("mtu", text, 0, mtu::MAX)? {
                0 => None,
                mtu => Some(mtu),
            },
            None => None,
        };
        options.addresses = self.addresses()?;
        options.routes = networks("route", &self.route)?;
        options.snat = networks("snat", &self.snat)?;
        TunnelSpec::new(options)
    }

    fn keys(&self) -> Result<(Option<u32>, Option<u32>), SpecError> {
        let read = |key, text: &Option<Text>| {
            let expected = "a number below 2^32 or four numbers as 0.0.0.42";
            let value = text
                .as_ref()
                .map(|text| parse_key(&text.0).map_err(|_| malformed(key, &text.0, expected)));
            value.transpose()
        };
        let both = read("key", &self.key)?;
        let (ikey, okey) = (read("ikey", &self.ikey)?, read("okey", &self.okey)?);
        if both.is_some() && (ikey.is_some() || okey.is_some()) {
            let other = if ikey.is_some() { "ikey" } else { "okey" };
            return Err(SpecError::new("key", Problem::Excludes { other }));
        }
        Ok((ikey.or(both), okey.or(both)))
    }

    fn encap(&self) -> Result<Encap, SpecError> {
        let name = self.encap.as_deref().unwrap_or("none");
        if name == "none" {
            let given = [
                ("encap-sport", self.encap_sport.is_some()),
                ("encap-dport", self.encap_dport.is_some()),
                ("encap-csum", self.encap_csum.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(SpecError::new(key, Problem::Needs { other: "encap" })),
                None => Ok(Encap::None),
            };
        }
        let port = |key, text: &Option<Text>| {
            let most = u32::from(u16::MAX);
            let least = u32::from(key == "encap-dport");
            let value = text.as_ref().map(|text| number(key, text, least, most));
            // The conversion cannot fail: the number is in range.
            value
                .transpose()
                .map(|port| port.and_then(|port| u16::try_from(port).ok()))
        };
        let udp = Udp {
            sport: port("encap-sport", &self.encap_sport)?.unwrap_or(0),
            dport: port("encap-dport", &self.encap_dport)?
                .ok_or(SpecError::new("encap-dport", Problem::Missing))?,
            csum: self.encap_csum.unwrap_or(true),
        };
        match name {
            "fou" => Ok(Encap::Fou(udp)),
            "gue" => Ok(Encap::Gue(udp)),
            other => Err(malformed("encap", other, "one of none, fou, gue")),
        }
    }

    fn addresses(&self) -> Result<Vec<TunnelAddress>, SpecError> {
        let mut addresses = Vec::new();
        for text in &self.tunnel_ip {
            let net = parse("tunnel-ip", text, "an address with its prefix length")?;
            addresses.push(TunnelAddress { net, peer: None });
        }
        for text in &self.peer_ip {
            let peer: IpAddr = parse("peer-ip", text, IP_ADDRESS)?;
            let of_family = |address: &&mut TunnelAddress| {
                address.net.addr().is_ipv4() == peer.is_ipv4() && address.peer.is_none()
            };
            match addresses.iter_mut().find(of_family) {
                Some(address) => address.peer = Some(peer),
                None => {
                    return Err(SpecError::new(
                        "peer-ip",
                        Problem::Needs { other: "tunnel-ip" },
                    ));
                }
            }
        }
        Ok(addresses)
    }
}

fn networks(key: &'static str, texts: &[String]) -> Result<Vec<IpNet>, SpecError> {
    let expected = "a network such as 192.0.2.0/24";
    texts
        .iter()
        .map(|text| parse(key, text, expected))
        .collect()
}

fn parse<T: FromStr>(
    key: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<T, SpecError> {
    text.parse().map_err(|_| malformed(key, text, expected))
}

fn malformed(key: &'static str, value: &str, expected: &'static str) -> SpecError {
    let value = value.to_owned();
    SpecError::new(key, Problem::Malformed { value, expected })
}

fn number(key: &'static str, text: &Text, least: u32, most: u32) -> Result<u32, SpecError> {
    match text.0.parse::<u64>() {
        Ok(value) => u32::try_from(value)
            .ok()
            .filter(|value| (least..=most).contains(value))
            .ok_or_else(|| SpecError::new(key, Problem::range(&text.0, least, most))),
        Err(_) => Err(malformed(key, &text.0, "a number")),
    }
}

/// A value that a file may give as a number or as text. What can be a number is written as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u32>() {
            Ok(number) if number.to_string() == self.0 => serializer.serialize_u32(number),
            _ => serializer.serialize_str(&self.0),
        }
    }
}

impl FromStr for Text {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Text(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A list, or a single value in its place.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_any(Visitor)
}
