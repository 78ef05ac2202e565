//! Listings of the kernel's links, addresses and routes. With thousands of tunnels most of a listing is of no interest to
//! anyone: of the kernel's answers only those attributes are decoded that gretun knows what to do with, and the kernel is
//! asked to leave out what it can.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NlaBuffer, NlasIterator,
    Parseable as _, ParseableParametrized as _,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeader, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkHeader, LinkMessage};
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use crate::kernel::KernelError;
use crate::kernel::netlink::socket::KernelSocket;

/// So often a listing is made until one is whole; the last one is taken as it is.
const TRIES: u32 = 8;
/// `struct ifinfomsg`, bytes.
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`, bytes.
const ADDRESS_HEADER: usize = 8;
/// `struct rtattr`, bytes.
const ATTRIBUTE_HEADER: usize = 4;
/// The kinds of links that are tunnels of gretun's modes.
const KINDS: [&str; 7] = [
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "ipip",
    "sit",
    "ip6tnl",
];
/// Chooses the links that a dump is to return.
const LINK: [u16; 10] = [
    libc::IFLA_IFNAME,
    libc::IFLA_MTU,
    libc::IFLA_LINK,
    libc::IFLA_LINK_NETNSID,
    libc::IFLA_MASTER,
    libc::IFLA_LINKINFO,
    libc::IFLA_IFALIAS,
    libc::IFLA_STATS64,
    libc::IFLA_GROUP,
    libc::IFLA_PROP_LIST,
];
/// Chooses the addresses that a dump is to return.
const ADDRESS: [u16; 2] = [libc::IFA_ADDRESS, libc::IFA_LOCAL];

/// A netlink socket for listings only. The kernel makes the next part of its answer while it is asked for it, so that there
/// is nothing to wait for.
#[derive(Debug)]
pub(in crate::kernel) struct DumpSocket(Mutex<KernelSocket>);

impl DumpSocket {
    /// Opens the socket, in the current network namespace.
    pub fn open() -> io::Result<Self> {
        let socket = KernelSocket::open(NETLINK_ROUTE)?;
        if let Err(error) = socket.socket.set_netlink_get_strict_chk(true) {
            // Linux before 4.20: it lists all routes, which are picked from here as well.
            tracing::debug!(%error, "the kernel lists all routes");
        }
        Ok(DumpSocket(Mutex::new(socket)))
    }

    /// All links, with their names, kinds, MTUs, groups, and what they have counted.
    pub fn links(&self) -> Result<Vec<LinkMessage>, KernelError> {
        let mut request = LinkMessage::default();
        // Counters of each address family, which take the kernel longer than all the rest.
        let without = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        request.attributes.push(without);
        let request = RouteNetlinkMessage::GetLink(request);
        self.list("list links", request, read_link)
    }

    /// The link of this index.
    pub fn link(&self, index: u32) -> Result<LinkMessage, KernelError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        let without = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        request.attributes.push(without);
        let request = RouteNetlinkMessage::GetLink(request);
        let read = |payload: &[u8]| Ok(read_link(payload)?.unwrap_or_default());
        self.get(&format!("read link {index}"), request, read)
    }

    /// The route that a packet would take.
    pub fn route(
        &self,
        operation: &str,
        request: RouteMessage,
    ) -> Result<RouteMessage, KernelError> {
        let request = RouteNetlinkMessage::GetRoute(request);
        let read = |payload: &[u8]| RouteMessage::parse(payload);
        self.get(operation, request, read)
    }

    /// All addresses.
    pub fn addresses(&self) -> Result<Vec<AddressMessage>, KernelError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.list("list addresses", request, read_address)
    }

    /// What `take` makes of the routes that the request's header asks for and whose own header is wanted: there may be millions.
    pub fn routes<T>(
        &self,
        request: RouteMessage,
        is_wanted: impl Fn(&RouteHeader) -> bool,
        take: impl Fn(&RouteMessage) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let request = RouteNetlinkMessage::GetRoute(request);
        self.list("list routes", request, |payload| {
            if !is_wanted(&RouteHeader::parse(payload)?) {
                return Ok(None);
            }
            Ok(take(&RouteMessage::parse(payload)?))
        })
    }

    /// All that `read` takes from the kernel's answer to a dump.
    fn list<T>(
        &self,
        operation: &str,
        request: RouteNetlinkMessage,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, KernelError> {
        let mut socket = self.socket();
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = socket.ask(operation, &mut request, &read)?;
        for _ in 1..TRIES {
            if !answers.is_changed {
                break;
            }
            answers = socket.ask(operation, &mut request, &read)?;
        }
        Ok(answers.found)
    }

    /// What `read` takes from the kernel's answer to a question about one thing.
    fn get<T>(
        &self,
        operation: &str,
        request: RouteNetlinkMessage,
        read: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, KernelError> {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let read = |payload: &[u8]| read(payload).map(Some);
        let answers = self.socket().ask(operation, &mut request, read)?;
        let nothing = || KernelError::netlink(operation, "the kernel's answer cannot be read");
        answers.found.into_iter().next().ok_or_else(nothing)
    }

    fn socket(&self) -> MutexGuard<'_, KernelSocket> {
        // Every request begins anew, so one that panicked has left nothing behind that matters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what gretun needs of a link. An attribute that cannot be decoded is left out: links of others have attributes that
/// this program is older than, and a tunnel without its parameters counts as a link of another kind.
fn read_link(payload: &[u8]) -> Result<Option<LinkMessage>, DecodeError> {
    let mut link = LinkMessage::default();
    link.header = LinkHeader::parse(payload)?;
    let family = link.header.interface_family;
    for attribute in NlasIterator::new(payload.get(LINK_HEADER..).unwrap_or_default()) {
        let Ok(attribute) = attribute else { break };
        let decoded = match attribute.kind() {
            libc::IFLA_LINKINFO => match own_link_info(attribute.value()) {
                Some(bytes) => LinkAttribute::parse_with_param(&NlaBuffer::new(&bytes[..]), family),
                None => continue,
            },
            kind if LINK.contains(&kind) => LinkAttribute::parse_with_param(&attribute, family),
            _ => continue,
        };
        match decoded {
            Ok(attribute) => link.attributes.push(attribute),
            Err(error) => {
                let (index, kind) = (link.header.index, attribute.kind());
                tracing::debug!(index, kind, %error, "an attribute of a link cannot be read");
            }
        }
    }
    Ok(Some(link))
}

/// The attribute `IFLA_LINKINFO` anew, with the kind alone; for the kinds that gretun knows with the parameters too.
fn own_link_info(value: &[u8]) -> Option<Vec<u8>> {
    let (mut kind, mut data, mut is_own) = (Vec::new(), Vec::new(), false);
    for attribute in NlasIterator::new(value) {
        let attribute = attribute.ok()?;
        let part = match attribute.kind() {
            libc::IFLA_INFO_KIND => {
                let name = attribute.value().split(|&byte| byte == 0).next()?;
                is_own = KINDS.iter().any(|it| it.as_bytes() == name);
                &mut kind
            }
            libc::IFLA_INFO_DATA => &mut data,
            // A bridge's or a bond's, of which this link is a port.
            _ => continue,
        };
        let length = usize::from(attribute.length());
        part.extend(attribute.into_inner().get(..length)?);
        part.resize(part.len().next_multiple_of(4), 0);
    }
    if is_own {
        kind.extend(data);
    }
    let length = u16::try_from(ATTRIBUTE_HEADER + kind.len()).ok()?;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(libc::IFLA_LINKINFO.to_ne_bytes());
    bytes.extend(kind);
    Some(bytes)
}

fn read_address(payload: &[u8]) -> Result<Option<AddressMessage>, DecodeError> {
    let mut address = AddressMessage::default();
    address.header = AddressHeader::parse(payload)?;
    for attribute in NlasIterator::new(payload.get(ADDRESS_HEADER..).unwrap_or_default()) {
        let attribute = attribute?;
        if ADDRESS.contains(&attribute.kind()) {
            address
                .attributes
                .push(AddressAttribute::parse(&attribute)?);
        }
    }
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::AddressFamily;

    use super::*;

    /// An attribute (`struct rtattr`), padded to four bytes.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn only_what_is_wanted_of_a_link_is_decoded() {
        let mut payload = vec![0; LINK_HEADER];
        payload[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        // What cannot be decoded but is not wanted does no harm.
        payload.extend(attribute(libc::IFLA_AF_SPEC, &[1]));
        payload.extend(attribute(libc::IFLA_IFNAME, b"tun0\0"));
        payload.extend(attribute(libc::IFLA_MTU, &1476_u32.to_ne_bytes()));
        let link = read_link(&payload).unwrap().unwrap();
        assert_eq!(link.header.index, 7);
        let wanted = [
            LinkAttribute::IfName("tun0".to_owned()),
            LinkAttribute::Mtu(1476),
        ];
        assert_eq!(link.attributes, wanted);
        for length in 0..payload.len() {
            // No truncation panics.
            let _ = read_link(&payload[..length]);
            let _ = read_address(&payload[..length]);
        }
    }

    /// Anyone may list; every host has a loopback device.
    #[test]
    fn the_kernel_lists_what_there_is() {
        let dumps = DumpSocket::open().unwrap();
        let loopback = LinkAttribute::IfName("lo".to_owned());
        let links = dumps.links().unwrap();
        let found = links.iter().find(|it| it.attributes.contains(&loopback));
        assert!(found.is_some(), "{links:?}");
        let is_known = |device| links.iter().any(|link| link.header.index == device);
        for address in dumps.addresses().unwrap() {
            assert!(is_known(address.header.index), "{address:?}");
            assert!(!address.attributes.is_empty(), "{address:?}");
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = libc::RT_TABLE_LOCAL;
            let take = |route: &RouteMessage| Some(route.header.address_family);
            // The table comes into being with its first route.
            let routes = match dumps.routes(request, |_| true, take) {
                Err(error) if error.errno() == Some(libc::ENOENT) => Vec::new(),
                listed => listed.unwrap(),
            };
            assert!(routes.iter().all(|it| *it == family), "{routes:?}");
        }
    }

    fn link_info(kind: &str, data: &[u8]) -> Vec<u8> {
        let name = [kind.as_bytes(), &[0]].concat();
        let parts = [
            attribute(libc::IFLA_INFO_KIND, &name),
            attribute(libc::IFLA_INFO_DATA, data),
            // What a bridge of a newer kernel says of its port.
            attribute(4, b"bridge\0"),
            attribute(5, &attribute(1, &[1])),
        ];
        attribute(libc::IFLA_LINKINFO, &parts.concat())
    }

    #[test]
    fn a_link_of_others_that_cannot_be_decoded_is_only_named() {
        let broken = attribute(1, &[1]);
        for kind in ["bond", "vxlan", "a-kind-of-a-newer-kernel", "gre"] {
            let mut payload = vec![0; LINK_HEADER];
            payload[4..8].copy_from_slice(&7_u32.to_ne_bytes());
            payload.extend(link_info(kind, &broken));
            payload.extend(attribute(libc::IFLA_MTU, &[1]));
            payload.extend(attribute(libc::IFLA_IFNAME, b"theirs\0"));
            let link = read_link(&payload).unwrap().unwrap();
            let name = LinkAttribute::IfName("theirs".to_owned());
            assert!(link.attributes.contains(&name), "{kind}: {link:?}");
            let infos = link.attributes.iter().find_map(|it| match it {
                LinkAttribute::LinkInfo(infos) => Some(infos.len()),
                _ => None,
            });
            assert_eq!(infos.filter(|_| kind != "gre").unwrap_or(1), 1, "{kind}");
        }
    }

    #[test]
    fn a_tunnel_that_is_a_port_of_a_bridge_is_read() {
        let mut payload = vec![0; LINK_HEADER];
        payload.extend(link_info("gretap", &[]));
        let link = read_link(&payload).unwrap().unwrap();
        let [LinkAttribute::LinkInfo(infos)] = &link.attributes[..] else {
            panic!("{link:?}");
        };
        let kind = netlink_packet_route::link::InfoKind::GreTap;
        assert!(infos.contains(&netlink_packet_route::link::LinkInfo::Kind(kind)));
        assert_eq!(infos.len(), 2, "{infos:?}");
    }

    #[test]
    fn one_link_is_found_by_its_index() {
        let dumps = DumpSocket::open().unwrap();
        let loopback = dumps.link(1).unwrap();
        let name = LinkAttribute::IfName("lo".to_owned());
        assert!(loopback.attributes.contains(&name));
        let error = dumps.link(0x7fff_fff0).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert!(error.to_string().contains("read link"), "{error}");
    }
}
