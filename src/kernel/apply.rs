//! Operations as netlink messages. All messages of one stage are sent before the first answer is waited for.

use std::collections::HashMap;
use std::net::IpAddr;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, Prop};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Kernel, KernelError, link_codec};
use crate::tunnel::mtu;
use crate::tunnel::op::{KernelOp, Stage};
use crate::tunnel::state::{LinkConfig, TunnelAddress, TunnelRoute};

/// The device group of a device that is not finished. The kernel takes a group, but no alias, in the message that makes
/// a device. So a device that lost its maker before it was marked can be told from everyone else's. "gret" in ASCII.
pub(super) const UNFINISHED: u32 = 0x6772_6574;

/// The device group of every other device.
pub(super) const DEFAULT_GROUP: u32 = 0;

const ADD: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
pub(super) const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

pub(super) type Outcome = Result<(), KernelError>;
/// Interface indices by name.
type Indices = HashMap<String, u32>;

impl Kernel {
    /// Does operations of one stage. New devices of the names in `kept` get these indices.
    pub(super) async fn apply_stage(&self, ops: &[KernelOp], kept: &Indices) -> Vec<Outcome> {
        match ops.first().map(KernelOp::stage) {
            Some(Stage::Fou) => self.apply_fou(ops).await,
            Some(Stage::Snat) => self.apply_snat(ops).await,
            Some(Stage::Removal) => self.apply_removals(ops).await,
            Some(_) => self.apply_each(ops, kept).await,
            None => Vec::new(),
        }
    }

    /// Does operations on devices, each with a message of its own. New devices of the names in `kept` get these indices.
    pub(super) async fn apply_each(&self, ops: &[KernelOp], kept: &Indices) -> Vec<Outcome> {
        match self.indices(ops).await {
            Ok(indices) => self.apply_links(ops, indices, kept).await,
            Err(error) => {
                let reason = error.to_string();
                let failed = |op: &KernelOp| Err(KernelError::netlink(op.to_string(), &reason));
                ops.iter().map(failed).collect()
            }
        }
    }

    async fn apply_fou(&self, ops: &[KernelOp]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for op in ops {
            outcomes.push(match op {
                KernelOp::AddFou(port) => self.add_fou_port(*port).await.map(drop),
                KernelOp::DeleteFou(port) => self.delete_fou_port(*port).await,
                other => Err(misplaced(other)),
            });
        }
        outcomes
    }

    async fn apply_links(
        &self,
        ops: &[KernelOp],
        mut indices: Indices,
        kept: &Indices,
    ) -> Vec<Outcome> {
        let resized = self.resize(ops, &indices).await;
        let mut messages: Vec<_> = ops.iter().map(|op| message(op, &indices, kept)).collect();
        let mut to_restore = Vec::new();
        for (i, outcome) in resized {
            match outcome {
                Ok(()) => to_restore.push(i),
                Err(error) => messages[i] = Err(error),
            }
        }
        let mut outcomes = self.ask(ops, messages).await;
        to_restore.retain(|&i| outcomes[i].is_err());
        for i in to_restore {
            let undone = Box::pin(self.apply_each(&ops[i].undo(), kept)).await;
            if let Some(error) = undone.into_iter().find_map(Result::err) {
                tracing::warn!(op = %ops[i], %error, "its MTU stays changed");
            }
        }
        let unfinished: Vec<usize> = (0..ops.len())
            .filter(|&i| outcomes[i].is_ok() && is_unfinished(&ops[i]))
            .collect();
        if unfinished.is_empty() {
            return outcomes;
        }
        match self.indices(ops).await {
            Ok(now) => indices = now,
            // Unknown indices fail one by one below.
            Err(error) => tracing::debug!(%error, "no indices"),
        }
        let again: Vec<KernelOp> = unfinished.iter().map(|&i| ops[i].clone()).collect();
        let messages = again.iter().map(|op| finish(op, &indices)).collect();
        for (&i, outcome) in unfinished.iter().zip(self.ask(&again, messages).await) {
            if outcome.is_err() {
                for undone in Box::pin(self.apply_each(&ops[i].undo(), kept)).await {
                    if let Err(error) = undone {
                        tracing::warn!(op = %ops[i], %error, "a half-made link stays");
                    }
                }
            }
            outcomes[i] = outcome;
        }
        outcomes
    }

    /// Gives devices that will be changed by a detour their new MTU first, by places in the operations. The change itself
    /// sets it without a word to IPv4, which then keeps to the path MTUs that it noted while the device had the MTU before.
    async fn resize(&self, ops: &[KernelOp], indices: &Indices) -> Vec<(usize, Outcome)> {
        let is_resized = |op: &KernelOp| matches!(op, KernelOp::ChangeLink { from, to } if from.mtu != to.mtu && change_detour(from, to).is_some());
        let places: Vec<_> = (0..ops.len()).filter(|&i| is_resized(&ops[i])).collect();
        let resized: Vec<_> = places.iter().map(|&i| ops[i].clone()).collect();
        let messages = resized.iter().map(|op| finish(op, indices)).collect();
        let outcomes = self.ask(&resized, messages).await;
        places.into_iter().zip(outcomes).collect()
    }

    /// Sends all messages, then collects the answers.
    pub(super) async fn ask(
        &self,
        ops: &[KernelOp],
        messages: Vec<Result<(RouteNetlinkMessage, u16), KernelError>>,
    ) -> Vec<Outcome> {
        let sent: Vec<_> = messages
            .into_iter()
            .zip(ops)
            .map(|(message, op)| {
                let (message, flags) = message?;
                self.send(message, flags, op)
            })
            .collect();
        let mut outcomes = Vec::new();
        for (answers, op) in sent.into_iter().zip(ops) {
            outcomes.push(match answers {
                Ok(answers) => outcome(answers, op).await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    pub(super) fn send(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        op: &KernelOp,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>, KernelError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut route = self.route.clone();
        route
            .request(request)
            .map_err(|error| KernelError::route(op.to_string(), error))
    }

    /// The indices of all devices that the operations name: asked for one by one where they are few, else all at once.
    async fn indices(&self, ops: &[KernelOp]) -> Result<Indices, KernelError> {
        const FEW: usize = 8;
        let names: std::collections::BTreeSet<&str> = ops.iter().flat_map(devices).collect();
        let failed = |error| KernelError::route("list links", error);
        if names.len() > FEW {
            return Ok(self.list.link_names()?.into_iter().collect());
        }
        let mut indices = Indices::new();
        for name in names {
            let request = self.route.link().get().match_name(name.to_owned());
            match request.execute().try_next().await {
                Ok(Some(link)) => {
                    indices.insert(name.to_owned(), link.header.index);
                }
                Ok(None) => {}
                Err(error) => match failed(error) {
                    error if error.errno() == Some(libc::ENODEV) => {}
                    error => return Err(error),
                },
            }
        }
        Ok(indices)
    }
}

/// Waits for an answer. What should be removed and is gone already is removed.
pub(super) async fn outcome(
    answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
    op: &KernelOp,
) -> Outcome {
    let mut answers = std::pin::pin!(answers);
    let mut outcome = Ok(());
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            outcome = Err(KernelError::refused(op.to_string(), &error));
        }
    }
    let removes = matches!(
        op,
        KernelOp::DeleteLink(_)
            | KernelOp::DeleteAddress { .. }
            | KernelOp::DeleteRoute { .. }
            | KernelOp::DeleteAltName { .. }
    );
    let is_gone = |error: &KernelError| {
        matches!(
            error.errno(),
            Some(libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL)
        )
    };
    match outcome {
        Err(error) if removes && is_gone(&error) => Ok(()),
        other => other,
    }
}

fn misplaced(op: &KernelOp) -> KernelError {
    KernelError::netlink(op.to_string(), "it belongs to another stage")
}

/// The devices that an operation names.
fn devices(op: &KernelOp) -> Vec<&str> {
    match op {
        KernelOp::AddLink(link) | KernelOp::ChangeLink { to: link, .. } => {
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
        KernelOp::AddFou(_) | KernelOp::DeleteFou(_) => Vec::new(),
    }
}

fn message(
    op: &KernelOp,
    indices: &Indices,
    kept: &Indices,
) -> Result<(RouteNetlinkMessage, u16), KernelError> {
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
            message.attributes = vec![
                LinkAttribute::Mtu(change_detour(from, to).unwrap_or(to.mtu)),
                LinkAttribute::IfAlias(to.alias.clone().unwrap_or_default()),
            ];
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
        ..from.clone()
    };
    same_tunnel != *to
}

/// The MTU that a changed device has until it is finished, where that is another one.
fn change_detour(from: &LinkConfig, to: &LinkConfig) -> Option<u32> {
    mtu::detour(to.mode, to.mtu).filter(|_| is_other_tunnel(from, to))
}

/// Whether it takes a second message, by [`finish`].
fn is_unfinished(op: &KernelOp) -> bool {
    match op {
        KernelOp::AddLink(_) => true,
        KernelOp::ChangeLink { from, to } => change_detour(from, to).is_some(),
        _ => false,
    }
}

/// Marks a new device as ours and finished, and takes it up; gives a changed one its MTU.
fn finish(op: &KernelOp, indices: &Indices) -> Result<(RouteNetlinkMessage, u16), KernelError> {
    let (KernelOp::AddLink(link) | KernelOp::ChangeLink { to: link, .. }) = op else {
        return Err(misplaced(op));
    };
    let index = indices.get(&link.name).copied();
    let mut message = LinkMessage::default();
    message.header.index =
        index.ok_or_else(|| KernelError::no_device(op.to_string(), &link.name))?;
    if matches!(op, KernelOp::ChangeLink { .. }) {
        message.attributes.push(LinkAttribute::Mtu(link.mtu));
        return Ok((RouteNetlinkMessage::SetLink(message), CHANGE));
    }
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::Group(DEFAULT_GROUP));
    if let Some(alias) = &link.alias {
        message
            .attributes
            .push(LinkAttribute::IfAlias(alias.clone()));
    }
    Ok((RouteNetlinkMessage::SetLink(message), CHANGE))
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
