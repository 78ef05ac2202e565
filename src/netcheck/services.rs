//! Which services that open ports are there: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD. Only asked for, nothing is opened.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// PCP's and NAT-PMP's port on the router.
const PCP_PORT: u16 = 5351;
/// Where UPnP devices listen for searches (UPnP Device Architecture 1.1 section 1.3.2).
const SSDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);
/// A router answers within milliseconds; a UPnP device may take the second that it is given.
const PATIENCE: Duration = Duration::from_millis(1500);
/// One repetition: the first packet may find no ARP entry.
const SENDS: u32 = 2;

/// A service that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `pcp`, `nat-pmp` or `upnp-igd`.
    pub protocol: String,
    /// Who answered.
    pub gateway: IpAddr,
    /// The public address that it told, or the URL of its description.
    pub detail: String,
}

/// Asks the default gateway for PCP and NAT-PMP, and it and the LAN for UPnP. What does not answer is not there.
pub async fn find() -> Vec<Service> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let Some(gateway) = default_gateway(&routes) else {
        return Vec::new();
    };
    let router = SocketAddr::new(gateway.into(), PCP_PORT);
    let ssdp = SocketAddr::new(gateway.into(), SSDP.port());
    let search = ssdp_search();
    let (routers, searched) = ([router], [ssdp, SSDP]);
    let (pcp, nat_pmp, upnp) = tokio::join!(
        ask(router, &routers, pcp_announce, pcp_answer),
        ask(
            router,
            &routers,
            |_| NAT_PMP_ADDRESS.to_vec(),
            nat_pmp_answer
        ),
        ask(ssdp, &searched, |_| search.clone(), ssdp_answer),
    );
    let service = |protocol: &str, found: Option<(IpAddr, String)>| {
        found.map(|(gateway, detail)| Service {
            protocol: protocol.to_owned(),
            gateway,
            detail,
        })
    };
    [
        service("pcp", pcp),
        service("nat-pmp", nat_pmp),
        service("upnp-igd", upnp),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn ask(
    gateway: SocketAddr,
    to: &[SocketAddr],
    request: impl Fn(Ipv4Addr) -> Vec<u8>,
    read: fn(&[u8]) -> Option<String>,
) -> Option<(IpAddr, String)> {
    // Connecting tells which address leads to the gateway, without a packet.
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
    route.connect(gateway).await.ok()?;
    let IpAddr::V4(own) = route.local_addr().ok()?.ip() else {
        return None;
    };
    let socket = UdpSocket::bind((own, 0)).await.ok()?;
    let mut buffer = vec![0; 2048];
    let begin = Instant::now();
    for send in 1..=SENDS {
        for to in to {
            let _ = socket.send_to(&request(own), to).await;
        }
        let until = begin + PATIENCE * send / SENDS;
        while let Ok(Ok((length, from))) = timeout_at(until, socket.recv_from(&mut buffer)).await {
            if let Some(detail) = read(&buffer[..length]) {
                return Some((from.ip(), detail));
            }
        }
    }
    None
}

/// The gateway of the default route with the least metric in `/proc/net/route`: hexadecimal, in the host's byte order.
fn default_gateway(routes: &str) -> Option<Ipv4Addr> {
    let lines = routes.lines().skip(1);
    let default = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let metric: u32 = fields.get(6)?.parse().ok()?;
        let gateway = Ipv4Addr::from(hex(2)?.to_ne_bytes());
        let is_default = hex(1)? == 0 && hex(7)? == 0 && !gateway.is_unspecified();
        is_default.then_some((metric, gateway))
    });
    default.min().map(|(_, gateway)| gateway)
}

/// NAT-PMP's request for the public address (RFC 6886 section 3.2): version 0, operation 0.
const NAT_PMP_ADDRESS: [u8; 2] = [0, 0];

/// The answer: version 0, operation 128, result code 0, seconds since the table was made, address.
fn nat_pmp_answer(bytes: &[u8]) -> Option<String> {
    match bytes {
        [0, 128, 0, 0, _, _, _, _, a, b, c, d] => Some(Ipv4Addr::new(*a, *b, *c, *d).to_string()),
        _ => None,
    }
}

/// PCP's ANNOUNCE (RFC 6887 section 14.1): version 2, operation 0, lifetime 0, the client's address as IPv4-mapped.
fn pcp_announce(own: Ipv4Addr) -> Vec<u8> {
    let mut request = vec![2, 0, 0, 0, 0, 0, 0, 0];
    request.extend_from_slice(&own.to_ipv6_mapped().octets());
    request
}

/// The answer: version 2, operation 0 with the response bit, result code 0, and an epoch (RFC 6887 section 7.2).
fn pcp_answer(bytes: &[u8]) -> Option<String> {
    let (head, _) = bytes.split_first_chunk::<24>()?;
    let [2, 0x80, _, 0, _, _, _, _, a, b, c, d, ..] = head else {
        return None;
    };
    let epoch = u32::from_be_bytes([*a, *b, *c, *d]);
    Some(format!("up for {epoch} s"))
}

fn ssdp_search() -> Vec<u8> {
    let kind = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
    format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: {SSDP}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {kind}\r\n\r\n"
    )
    .into_bytes()
}

/// The URL of the description of an internet gateway.
fn ssdp_answer(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    if !lines.next()?.starts_with("HTTP/1.1 200") {
        return None;
    }
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim()
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    value("st")?
        .contains("InternetGatewayDevice")
        .then(|| value("location"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_gateway_is_the_one_of_least_metric() {
        let gateway = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let line = |to: &str, gateway: &str, metric: u32, mask: &str| {
            format!("eth0\t{to}\t{gateway}\t0003\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        };
        let zero = "00000000";
        let routes = [
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
                .to_owned(),
            line(zero, &gateway([10, 0, 0, 1]), 600, zero),
            line(zero, &gateway([192, 168, 1, 1]), 100, zero),
            line(
                &gateway([192, 168, 1, 0]),
                zero,
                0,
                &gateway([255, 255, 255, 0]),
            ),
        ];
        let found = default_gateway(&routes.concat());
        assert_eq!(found, Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(default_gateway(""), None);
        assert_eq!(default_gateway("x\ny z\n"), None);
    }

    #[test]
    fn nat_pmp_tells_the_public_address() {
        let answer = [0, 128, 0, 0, 0, 0, 1, 0, 203, 0, 113, 9];
        assert_eq!(nat_pmp_answer(&answer).unwrap(), "203.0.113.9");
        // Result 1: version not supported.
        assert_eq!(nat_pmp_answer(&[0, 128, 0, 1, 0, 0, 1, 0]), None);
        assert_eq!(nat_pmp_answer(&answer[..11]), None);
    }

    #[test]
    fn pcp_is_told_from_nat_pmp() {
        let request = pcp_announce(Ipv4Addr::new(192, 168, 1, 2));
        assert_eq!(request.len(), 24);
        assert_eq!(request[18..], [0xff, 0xff, 192, 168, 1, 2]);
        let mut answer = vec![2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4];
        answer.resize(24, 0);
        assert_eq!(pcp_answer(&answer).unwrap(), "up for 260 s");
        answer[3] = 1;
        assert_eq!(pcp_answer(&answer), None);
        assert_eq!(pcp_answer(&[0, 128, 0, 1, 0, 0, 1, 0]), None);
    }

    #[test]
    fn upnp_tells_where_its_description_is() {
        let answer = b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLocation: http://192.168.1.1:5000/rootDesc.xml\r\n\r\n";
        assert_eq!(
            ssdp_answer(answer).unwrap(),
            "http://192.168.1.1:5000/rootDesc.xml"
        );
        assert_eq!(
            ssdp_answer(b"HTTP/1.1 200 OK\r\nST: printer\r\nLocation: x\r\n\r\n"),
            None
        );
        assert_eq!(ssdp_answer(b"NOTIFY * HTTP/1.1\r\n\r\n"), None);
    }
}
