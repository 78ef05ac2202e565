//! Operations as netlink messages: those of one stage go to the kernel together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, Prop};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::kernel::netlink::request::{Outcome, Request};
use crate::kernel::tunnel::link_codec;
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::mtu;
use crate::tunnel::op::{KernelOp, Stage};
use crate::tunnel::sources;
use crate::tunnel::state::{LinkConfig, TunnelAddress, TunnelRoute};

/// The device group of a device that is not finished. The kernel takes a group, but no alias, in the message that makes
/// a device. So a device that lost its maker before it was marked can be told from everyone else's. "gret" in ASCII.
pub(in crate::kernel) const UNFINISHED: u32 = 0x6772_6574;

/// The device group of every other device.
pub(in crate::kernel) const DEFAULT_GROUP: u32 = 0;

pub(in crate::kernel) const ADD: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
pub(in crate::kernel) const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

/// How long a route may be too early, and the pause between two tries. The work queue needs a few milliseconds.
const PEER_ROUTE_TIMEOUT: Duration = Duration::from_secs(1);
const PEER_ROUTE_PAUSE: Duration = Duration::from_millis(5);

fn is_early_route(op: &KernelOp, outcome: &Outcome) -> bool {
    let is_through_host = matches!(
        op,
        KernelOp::AddRoute { route, .. } if route.via.is_some_and(|via| via.is_ipv6())
    );
    let errno = outcome.as_ref().err().and_then(KernelError::errno);
    is_through_host && errno == Some(libc::EHOSTUNREACH)
}

/// Interface indices by name.
type Indices = HashMap<String, u32>;

impl Kernel {
    /// Does operations of one stage. New devices of the names in `kept` get these indices.
    pub(in crate::kernel) fn apply_stage(&self, ops: &[KernelOp], kept: &Indices) -> Vec<Outcome> {
        match ops.first().map(KernelOp::stage) {
            Some(Stage::Fou) => self.apply_fou(ops),
            Some(Stage::Snat | Stage::Source) => self.apply_nftables(ops),
            Some(Stage::Removal) => self.apply_removals(ops),
            Some(_) => {
                let outcomes = self.apply_each(ops, kept);
                self.add_early_routes_again(ops, outcomes)
            }
            None => Vec::new(),
        }
    }

    /// Adds routes again that came too early for the kernel: it makes the route to the peer of an IPv6 address in a work queue
    /// (`addrconf_dad_work`, net/ipv6/addrconf.c), some time after its answer to the address.
    fn add_early_routes_again(&self, ops: &[KernelOp], mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
        let deadline = Instant::now() + PEER_ROUTE_TIMEOUT;
        loop {
            let places = (0..ops.len()).filter(|&i| is_early_route(&ops[i], &outcomes[i]));
            let places: Vec<usize> = places.collect();
            if places.is_empty() || Instant::now() >= deadline {
                return outcomes;
            }
            std::thread::sleep(PEER_ROUTE_PAUSE);
            let again: Vec<KernelOp> = places.iter().map(|&i| ops[i].clone()).collect();
            for (i, outcome) in places
                .into_iter()
                .zip(self.apply_each(&again, &Indices::new()))
            {
                outcomes[i] = outcome;
            }
        }
    }

    fn apply_fou(&self, ops: &[KernelOp]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for op in ops {
            outcomes.push(match op {
                KernelOp::AddFou(port) => self.add_fou_port(*port).map(drop),
                KernelOp::DeleteFou(port) => self.delete_fou_port(*port),
                other => Err(misplaced(other)),
            });
        }
        outcomes
    }

    /// Does operations on devices, each with a message of its own. New devices of the names in `kept` get these indices.
    pub(in crate::kernel) fn apply_each(&self, ops: &[KernelOp], kept: &Indices) -> Vec<Outcome> {
        let indices = self.indices(ops);
        let resized = self.resize(ops);
        let requests = ops.iter().map(|op| request(op, &indices, kept));
        let mut requests: Vec<_> = requests.collect();
        let mut to_restore = Vec::new();
        for (i, outcome) in resized {
            match outcome {
                Ok(()) => to_restore.push(i),
                Err(error) => requests[i] = Err(error),
            }
        }
        let mut outcomes = self.ask(&ops.iter().collect::<Vec<_>>(), requests);
        to_restore.retain(|&i| outcomes[i].is_err());
        for i in to_restore {
            self.take_back(&ops[i], kept, "its MTU stays changed");
        }
        for more in [finish, take_up] {
            let done = (0..ops.len()).filter(|&i| outcomes[i].is_ok());
            for (i, outcome) in self.ask_more(ops, done, more) {
                if outcome.is_err() {
                    self.take_back(&ops[i], kept, "a half-made link stays");
                }
                outcomes[i] = outcome;
            }
        }
        outcomes
    }

    /// Undoes an operation that was done in part, or says what stays.
    fn take_back(&self, op: &KernelOp, kept: &Indices, stays: &str) {
        for undone in self.apply_each(&op.undo(), kept) {
            if let Err(error) = undone {
                tracing::warn!(%op, %error, "{stays}");
            }
        }
    }

    /// Gives devices that will be changed by a detour their new MTU first, by places in the operations. The change itself
    /// sets it without a word to IPv4, which then keeps to the path MTUs that it noted while the device had the MTU before.
    fn resize(&self, ops: &[KernelOp]) -> Vec<(usize, Outcome)> {
        let is_resized =
            |op: &KernelOp| matches!(op, KernelOp::ChangeLink { from, to } if from.mtu != to.mtu);
        let resized = (0..ops.len()).filter(|&i| is_resized(&ops[i]));
        self.ask_more(ops, resized, finish)
    }

    /// Asks for what `more` makes of the operations at these places, where it makes anything of them.
    fn ask_more(
        &self,
        ops: &[KernelOp],
        places: impl Iterator<Item = usize>,
        more: fn(&KernelOp) -> Option<Request>,
    ) -> Vec<(usize, Outcome)> {
        let asked = places.filter_map(|i| Some((i, Ok(more(&ops[i])?))));
        let (places, requests): (Vec<_>, Vec<_>) = asked.unzip();
        let ops: Vec<_> = places.iter().map(|&i| &ops[i]).collect();
        places.into_iter().zip(self.ask(&ops, requests)).collect()
    }

    /// Asks for what operations need. What should be removed and is gone already is removed.
    pub(in crate::kernel) fn ask(
        &self,
        ops: &[&KernelOp],
        requests: Vec<Result<Request, KernelError>>,
    ) -> Vec<Outcome> {
        let outcomes = self.change.change(requests, |i| ops[i].to_string());
        let accept_gone = |(op, outcome): (&&KernelOp, Outcome)| match outcome {
            Err(error) if is_removal(op) && is_gone(&error) => Ok(()),
            other => other,
        };
        ops.iter().zip(outcomes).map(accept_gone).collect()
    }

    /// The indices of the devices that the operations' first messages need; without those that are not there.
    fn indices(&self, ops: &[KernelOp]) -> Indices {
        let mut indices = Indices::new();
        for name in ops.iter().flat_map(devices) {
            if indices.contains_key(name) {
                continue;
            }
            match self.change.index(name) {
                Ok(index) => {
                    indices.insert(name.to_owned(), index);
                }
                Err(error) => tracing::trace!(name, %error, "no index"),
            }
        }
        indices
    }
}

fn is_removal(op: &KernelOp) -> bool {
    matches!(
        op,
        KernelOp::DeleteLink(_)
            | KernelOp::DeleteAddress { .. }
            | KernelOp::DeleteRoute { .. }
            | KernelOp::DeleteAltName { .. }
    )
}

/// Whether what should be removed is not there. `ENXIO` is IPv6's answer on a device that has none of it: a link whose MTU falls below
/// 1280 loses all its IPv6 addresses with that (`addrconf_notify`, `inet6_addr_del`, net/ipv6/addrconf.c).
fn is_gone(error: &KernelError) -> bool {
    matches!(
        error.errno(),
        Some(libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
    )
}

fn misplaced(op: &KernelOp) -> KernelError {
    KernelError::netlink(op.to_string(), "it belongs to another stage")
}

/// The devices whose indices an operation's message has: not that of one which is yet to be made.
fn devices(op: &KernelOp) -> Vec<&str> {
    match op {
        KernelOp::AddLink(link) => link.dev.as_deref().into_iter().collect(),
        KernelOp::ChangeLink { to: link, .. } => {
            let mut names = vec![link.name.as_str()];
            names.extend(link.dev.as_deref());
            names
        }
        KernelOp::DeleteLink(tunnel) => vec![&tunnel.link.name],
        KernelOp::AddAltName { link, .. }
        | KernelOp::DeleteAltName { link, .. }
        | KernelOp::AddAddress { link, .. }
        | KernelOp::DeleteAddress { link, .. }
        | KernelOp::AddRoute { link, .. }
        | KernelOp::DeleteRoute { link, .. }
        | KernelOp::AddSnat { link, .. }
        | KernelOp::DeleteSnat { link, .. } => vec![link],
        KernelOp::AddFou(_)
        | KernelOp::DeleteFou(_)
        | KernelOp::AddSource { .. }
        | KernelOp::DeleteSource { .. } => Vec::new(),
    }
}

fn request(op: &KernelOp, indices: &Indices, kept: &Indices) -> Result<Request, KernelError> {
    let index = |name: &str| {
        let found = indices.get(name).copied();
        found.ok_or_else(|| KernelError::no_device(op.to_string(), name))
    };
    let parent = |link: &LinkConfig| link.dev.as_deref().map(index).transpose();
    Ok(match op {
        KernelOp::AddLink(link) => {
            let mut message = LinkMessage::default();
            // With NLM_F_EXCL an index that another device has is refused; zero lets the kernel choose.
            message.header.index = kept.get(&link.name).copied().unwrap_or(0);
            message.attributes = vec![
                LinkAttribute::IfName(link.name.clone()),
                LinkAttribute::Mtu(link.mtu),
                LinkAttribute::Group(UNFINISHED),
                LinkAttribute::LinkInfo(link_codec::encode(link, parent(link)?)),
            ];
            (RouteNetlinkMessage::NewLink(message), ADD)
        }
        KernelOp::ChangeLink { from, to } => {
            let mut message = LinkMessage::default();
            message.header.index = index(&to.name)?;
            if from.up != to.up {
                set_state(&mut message, to.up);
            }
            message.attributes = vec![
                LinkAttribute::Mtu(change_detour(from, to).unwrap_or(to.mtu)),
                LinkAttribute::IfAlias(to.alias.clone().unwrap_or_default()),
            ];
            if from.checks_sources != to.checks_sources {
                message.attributes.push(LinkAttribute::Group(group(to)));
            }
            if is_other_tunnel(from, to) {
                let info = link_codec::encode(to, parent(to)?);
                message.attributes.push(LinkAttribute::LinkInfo(info));
            }
            (RouteNetlinkMessage::NewLink(message), CHANGE)
        }
        KernelOp::DeleteLink(tunnel) => {
            let mut message = LinkMessage::default();
            message.header.index = index(&tunnel.link.name)?;
            (RouteNetlinkMessage::DelLink(message), CHANGE)
        }
        KernelOp::AddAltName { link, name } => (
            RouteNetlinkMessage::NewLinkProp(alt_name(index(link)?, name)),
            ADD | NLM_F_APPEND,
        ),
        KernelOp::DeleteAltName { link, name } => (
            RouteNetlinkMessage::DelLinkProp(alt_name(index(link)?, name)),
            CHANGE,
        ),
        KernelOp::AddAddress { link, address } => (
            RouteNetlinkMessage::NewAddress(address_message(index(link)?, address)),
            ADD,
        ),
        KernelOp::DeleteAddress { link, address } => (
            RouteNetlinkMessage::DelAddress(address_message(index(link)?, address)),
            CHANGE,
        ),
        KernelOp::AddRoute { link, route } => (
            RouteNetlinkMessage::NewRoute(route_message(index(link)?, route)),
            ADD,
        ),
        KernelOp::DeleteRoute { link, route } => (
            RouteNetlinkMessage::DelRoute(route_message(index(link)?, route)),
            CHANGE,
        ),
        other => return Err(misplaced(other)),
    })
}

/// Whether more than the names and the MTU is to be changed.
fn is_other_tunnel(from: &LinkConfig, to: &LinkConfig) -> bool {
    let same_tunnel = LinkConfig {
        mtu: to.mtu,
        alias: to.alias.clone(),
        up: to.up,
        checks_sources: to.checks_sources,
        ..from.clone()
    };
    same_tunnel != *to
}

/// The MTU that a changed device has until it is finished, where that is another one.
fn change_detour(from: &LinkConfig, to: &LinkConfig) -> Option<u32> {
    mtu::detour(to.mode, to.mtu).filter(|_| is_other_tunnel(from, to))
}

/// A second message, where it takes one: marks a new device as ours and finished; gives a changed one its MTU.
fn finish(op: &KernelOp) -> Option<Request> {
    match op {
        KernelOp::AddLink(link) => {
            let mut message = by_name(&link.name);
            message.attributes.push(LinkAttribute::Group(group(link)));
            if let Some(alias) = &link.alias {
                let alias = LinkAttribute::IfAlias(alias.clone());
                message.attributes.push(alias);
            }
            Some((RouteNetlinkMessage::SetLink(message), CHANGE))
        }
        KernelOp::ChangeLink { from, to } => change_detour(from, to).map(|_| {
            let mut message = by_name(&to.name);
            message.attributes.push(LinkAttribute::Mtu(to.mtu));
            (RouteNetlinkMessage::SetLink(message), CHANGE)
        }),
        _ => None,
    }
}

/// The device group of a finished device.
fn group(link: &LinkConfig) -> u32 {
    if link.checks_sources {
        sources::GROUP
    } else {
        DEFAULT_GROUP
    }
}

/// Takes a new device up. Not with its mark in one message: the kernel makes known every change of a device that is up, and IPv6
/// then goes through all its routes (`netdev_state_change`, net/core/dev.c; `rt6_sync_up`, net/ipv6/route.c).
fn take_up(op: &KernelOp) -> Option<Request> {
    match op {
        KernelOp::AddLink(link) if link.up => {
            let mut message = by_name(&link.name);
            set_state(&mut message, true);
            Some((RouteNetlinkMessage::SetLink(message), CHANGE))
        }
        _ => None,
    }
}

/// A message about the device of this name: where there is no index the kernel goes by that (`rtnl_setlink`, net/core/rtnetlink.c).
fn by_name(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn set_state(message: &mut LinkMessage, up: bool) {
    message.header.change_mask = LinkFlags::Up;
    if up {
        message.header.flags = LinkFlags::Up;
    }
}

fn alt_name(index: u32, name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let names = vec![Prop::AltIfName(name.to_owned())];
    message.attributes.push(LinkAttribute::PropList(names));
    message
}

fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address_message(index: u32, address: &TunnelAddress) -> AddressMessage {
    let ip = address.net.addr();
    let mut message = AddressMessage::default();
    message.header.family = family_of(ip);
    message.header.prefix_len = address.net.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(ip),
        AddressAttribute::Address(address.peer.unwrap_or(ip)),
    ];
    message
}

fn route_message(index: u32, route: &TunnelRoute) -> RouteMessage {
    let destination = route.network.network();
    let as_route = |ip| match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(destination);
    message.header.destination_prefix_length = route.network.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.via.is_none() && destination.is_ipv4() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    message.attributes = vec![
        RouteAttribute::Destination(as_route(destination)),
        RouteAttribute::Oif(index),
    ];
    if let Some(via) = route.via {
        message
            .attributes
            .push(RouteAttribute::Gateway(as_route(via)));
    }
    message
}
