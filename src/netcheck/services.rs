//! Finds the port-mapping services of the network: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD. The check opens no port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::kernel::Kernel;
use crate::portmap::upnp::{self, SSDP};
use crate::portmap::{Protocol, nat_pmp, pcp};

/// A router answers within milliseconds; a UPnP device may take the second that it is given.
const PATIENCE: Duration = Duration::from_millis(1500);
/// One repetition: the first packet may find no ARP entry.
const SENDS: u32 = 2;

/// A service that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `pcp`, `nat-pmp` or `upnp-igd`.
    pub protocol: String,
    /// The router that answered.
    pub gateway: IpAddr,
    /// The public address that it told, or the URL of its description.
    pub detail: String,
}

/// Asks the default gateway for PCP and NAT-PMP, and it and the LAN for UPnP. What does not answer is not there.
pub async fn find(kernel: &Kernel) -> Vec<Service> {
    let Ok(Some((gateway, own))) = kernel.gateway() else {
        return Vec::new();
    };
    let router = SocketAddr::new(gateway.into(), pcp::PORT);
    let ssdp = SocketAddr::new(gateway.into(), SSDP.port());
    let search = upnp::search();
    let (routers, searched) = ([router], [ssdp, SSDP]);
    let (pcp, nat_pmp, upnp) = tokio::join!(
        ask(own, &routers, || pcp::announce(own).to_vec(), pcp_answer),
        ask(
            own,
            &routers,
            || nat_pmp::ADDRESS_REQUEST.to_vec(),
            nat_pmp_answer
        ),
        ask(own, &searched, || search.clone(), upnp::search_answer),
    );
    let service = |protocol: Protocol, found: Option<(IpAddr, String)>| {
        found.map(|(gateway, detail)| Service {
            protocol: protocol.to_string(),
            gateway,
            detail,
        })
    };
    [
        service(Protocol::Pcp, pcp),
        service(Protocol::NatPmp, nat_pmp),
        service(Protocol::UpnpIgd, upnp),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn ask(
    own: Ipv4Addr,
    to: &[SocketAddr],
    request: impl Fn() -> Vec<u8>,
    read: fn(&[u8]) -> Option<String>,
) -> Option<(IpAddr, String)> {
    let socket = UdpSocket::bind((own, 0)).await.ok()?;
    let mut buffer = vec![0; 2048];
    let begin = Instant::now();
    for send in 1..=SENDS {
        for to in to {
            let _ = socket.send_to(&request(), to).await;
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

/// The public address, or why the router has none to give.
fn nat_pmp_answer(bytes: &[u8]) -> Option<String> {
    match nat_pmp::Response::decode(bytes)? {
        nat_pmp::Response::Address { external, .. } => Some(external.to_string()),
        // It speaks PCP only.
        nat_pmp::Response::Refused(nat_pmp::ResultCode::UNSUPPORTED_VERSION) => None,
        nat_pmp::Response::Refused(code) => Some(code.to_string()),
        nat_pmp::Response::Map { .. } => None,
    }
}

/// Describes a PCP answer: the server's epoch, or the reason why it does not serve.
fn pcp_answer(bytes: &[u8]) -> Option<String> {
    let response = pcp::Response::decode(bytes).ok()?;
    match response.result {
        pcp::ResultCode::SUCCESS => Some(format!("up for {} s", response.epoch)),
        pcp::ResultCode::UNSUPP_VERSION => None,
        code => Some(code.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_services_say_is_told() {
        let answer = [0, 128, 0, 0, 0, 0, 1, 0, 203, 0, 113, 9];
        assert_eq!(nat_pmp_answer(&answer).unwrap(), "203.0.113.9");
        assert_eq!(nat_pmp_answer(&[0, 128, 0, 1, 0, 0, 1, 0]), None);
        assert_eq!(
            nat_pmp_answer(&[0, 128, 0, 3, 0, 0, 1, 0]).unwrap(),
            "network failure"
        );
        let mut answer = vec![2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4];
        answer.resize(24, 0);
        assert_eq!(pcp_answer(&answer).unwrap(), "up for 260 s");
        answer[3] = 2;
        assert_eq!(pcp_answer(&answer).unwrap(), "NOT_AUTHORIZED");
        answer[3] = 1;
        assert_eq!(pcp_answer(&answer), None);
        // The answer of a router that knows only NAT-PMP to a PCP request.
        assert_eq!(pcp_answer(&[0, 128, 0, 1, 0, 0, 1, 0]), None);
    }
}
