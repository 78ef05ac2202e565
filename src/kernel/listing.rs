//! Listings of the kernel's links, addresses and routes. With thousands of tunnels most of a listing is of no interest to
//! anyone: of the kernel's answers only those attributes are decoded that gretun knows what to do with, and the kernel is
//! asked to leave out what it can.

use std::io;
use std::sync::Mutex;

use netlink_packet_core::{
    DecodeError, ErrorMessage, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkMessage, NlasIterator, Parseable as _, ParseableParametrized as _,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeader, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkHeader, LinkMessage};
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::KernelError;
use super::socket::{KernelSocket, read_error};

/// The kernel makes its answers no larger (`netlink_dump`, net/netlink/af_netlink.c), but for network cards with virtual
/// functions, which it is not asked about.
const ANSWER: usize = 1 << 16;
/// A listing that was changed under the kernel's hands carries this flag (include/uapi/linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// So often a listing is made until one is whole; the last one is taken as it is.
const TRIES: u32 = 8;
/// `struct ifinfomsg`, bytes.
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`, bytes.
const ADDRESS_HEADER: usize = 8;
/// What is wanted of a link.
const LINK: [u16; 7] = [
    libc::IFLA_IFNAME,
    libc::IFLA_MTU,
    libc::IFLA_LINKINFO,
    libc::IFLA_IFALIAS,
    libc::IFLA_STATS64,
    libc::IFLA_GROUP,
    libc::IFLA_PROP_LIST,
];
/// What is wanted of an address.
const ADDRESS: [u16; 2] = [libc::IFA_ADDRESS, libc::IFA_LOCAL];

/// A netlink socket for listings only. The kernel makes the next part of its answer while it is asked for it, so that there
/// is nothing to wait for.
#[derive(Debug)]
pub(super) struct Lister(Mutex<KernelSocket>);

impl Lister {
    /// Opens the socket, in the current network namespace.
    pub fn open() -> io::Result<Self> {
        let socket = KernelSocket::open(NETLINK_ROUTE)?;
        if let Err(error) = socket.socket.set_netlink_get_strict_chk(true) {
            // Linux before 4.20: it lists all routes, which are picked from here as well.
            tracing::debug!(%error, "the kernel lists all routes");
        }
        Ok(Lister(Mutex::new(socket)))
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

    /// All that `read` takes from the kernel's answer.
    fn list<T>(
        &self,
        operation: &str,
        request: RouteNetlinkMessage,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, KernelError> {
        // Every listing begins anew, so one that panicked has left nothing behind that matters.
        let mut state = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut listing = state.list(operation, &mut request, &read)?;
        for _ in 1..TRIES {
            if !listing.is_changed {
                break;
            }
            listing = state.list(operation, &mut request, &read)?;
        }
        Ok(listing.found)
    }
}

struct Listing<T> {
    found: Vec<T>,
    is_changed: bool,
}

impl KernelSocket {
    fn list<T>(
        &mut self,
        operation: &str,
        request: &mut NetlinkMessage<RouteNetlinkMessage>,
        read: &impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Listing<T>, KernelError> {
        let failed = |error: &dyn ToString| KernelError::netlink(operation, error.to_string());
        let bytes = self.encode(request);
        self.socket
            .send(&bytes, 0)
            .map_err(|error| failed(&error))?;
        let mut listing = Listing {
            found: Vec::new(),
            is_changed: false,
        };
        // The listing is read to its end in any case: the kernel takes no other request before.
        let mut unreadable = None;
        let mut answer = Vec::with_capacity(ANSWER);
        loop {
            answer.clear();
            let received = self.socket.recv(&mut answer, 0);
            received.map_err(|error| failed(&error))?;
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(|error| failed(&error))?;
                let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if message.sequence_number() != self.sequence {
                    continue;
                }
                listing.is_changed |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match (error_of(message.payload()), unreadable) {
                            (Some(error), _) => Err(KernelError::refused(operation, &error)),
                            (None, Some(error)) => Err(failed(&error)),
                            (None, None) => Ok(listing),
                        };
                    }
                    _ => match read(message.payload()) {
                        Ok(found) => listing.found.extend(found),
                        Err(error) => unreadable = Some(error),
                    },
                }
            }
        }
    }
}

/// The error that a listing ends with.
fn error_of(payload: &[u8]) -> Option<ErrorMessage> {
    read_error(payload).filter(|error| error.code.is_some())
}

fn read_link(payload: &[u8]) -> Result<Option<LinkMessage>, DecodeError> {
    let mut link = LinkMessage::default();
    link.header = LinkHeader::parse(payload)?;
    let family = link.header.interface_family;
    for attribute in NlasIterator::new(payload.get(LINK_HEADER..).unwrap_or_default()) {
        let attribute = attribute?;
        if LINK.contains(&attribute.kind()) {
            let attribute = LinkAttribute::parse_with_param(&attribute, family)?;
            link.attributes.push(attribute);
        }
    }
    Ok(Some(link))
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
        let lister = Lister::open().unwrap();
        let loopback = LinkAttribute::IfName("lo".to_owned());
        let links = lister.links().unwrap();
        let found = links.iter().find(|it| it.attributes.contains(&loopback));
        assert!(found.is_some(), "{links:?}");
        let is_known = |device| links.iter().any(|link| link.header.index == device);
        for address in lister.addresses().unwrap() {
            assert!(is_known(address.header.index), "{address:?}");
            assert!(!address.attributes.is_empty(), "{address:?}");
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = libc::RT_TABLE_LOCAL;
            let take = |route: &RouteMessage| Some(route.header.address_family);
            // The table comes into being with its first route.
            let routes = match lister.routes(request, |_| true, take) {
                Err(error) if error.errno() == Some(libc::ENOENT) => Vec::new(),
                listed => listed.unwrap(),
            };
            assert!(routes.iter().all(|it| *it == family), "{routes:?}");
        }
    }

    #[test]
    fn a_listing_ends_with_an_errno_or_without() {
        assert!(error_of(&[]).is_none());
        assert!(error_of(&0_i32.to_ne_bytes()).is_none());
        let error = error_of(&(-libc::ENOENT).to_ne_bytes()).unwrap();
        let error = KernelError::refused("list routes", &error);
        assert_eq!(error.errno(), Some(libc::ENOENT));
    }
}
