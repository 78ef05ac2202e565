//! Deletes links. With each request that deletes a link, the kernel waits some ten milliseconds until nobody reads its tables any
//! more. One request deletes all links of a device group with one wait (`rtnl_group_dellink`, net/core/rtnetlink.c). So a large
//! number of links is put into a group of their own first.

use std::collections::{HashMap, HashSet};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::kernel::netlink::request::Outcome;
use crate::kernel::tunnel::op_messages::{CHANGE, DEFAULT_GROUP};
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::op::KernelOp;

/// The least number of links that are deleted as a group, because moving a link into a group costs another request.
const MANY: usize = 8;

/// The first device group that may be taken for a removal. "grm" in ASCII, and nothing else is there.
const FIRST_GROUP: u32 = 0x6772_6d00;

/// A device of the host.
#[derive(Clone, Copy, Debug)]
struct Device {
    index: u32,
    group: u32,
}

impl Kernel {
    /// Deletes links; a link that is gone already counts as deleted.
    pub(in crate::kernel) fn apply_removals(&self, ops: &[KernelOp]) -> Vec<Outcome> {
        if ops.len() < MANY {
            return self.apply_each(ops, &HashMap::new());
        }
        match self.remove_together(ops) {
            Ok(()) => ops.iter().map(|_| Ok(())).collect(),
            Err(error) => {
                tracing::debug!(%error, "the devices cannot be removed together");
                self.apply_each(ops, &HashMap::new())
            }
        }
    }

    /// Deletes all or none of the links.
    fn remove_together(&self, ops: &[KernelOp]) -> Outcome {
        let devices = self.devices()?;
        let taken: HashSet<u32> = devices.values().map(|device| device.group).collect();
        // A group that a killed process has left is in use; there are fewer devices than groups.
        let group = (FIRST_GROUP..).find(|group| !taken.contains(group));
        let group = group.unwrap_or(FIRST_GROUP);
        let (found, ops): (Vec<Device>, Vec<&KernelOp>) = ops
            .iter()
            .filter_map(|op| match op {
                KernelOp::DeleteLink(tunnel) => {
                    let device = devices.get(&tunnel.link.name)?;
                    Some((*device, op))
                }
                _ => None,
            })
            .unzip();
        if ops.is_empty() {
            return Ok(());
        }
        let together = found.iter().map(|device| (device.index, group)).collect();
        let removed = self.set_groups(&ops, together).and_then(|()| {
            let mut all = LinkMessage::default();
            all.attributes.push(LinkAttribute::Group(group));
            let request = Ok((RouteNetlinkMessage::DelLink(all), CHANGE));
            self.ask(&ops[..1], vec![request]).into_iter().collect()
        });
        if removed.is_err() {
            let as_before = found.iter().map(|device| (device.index, device.group));
            self.set_groups(&ops, as_before.collect())?;
        }
        removed
    }

    /// Moves links, by their indices, into groups.
    fn set_groups(&self, ops: &[&KernelOp], devices: Vec<(u32, u32)>) -> Outcome {
        let message = |(index, group)| {
            let mut message = LinkMessage::default();
            message.header.index = index;
            message.attributes.push(LinkAttribute::Group(group));
            Ok((RouteNetlinkMessage::SetLink(message), CHANGE))
        };
        let messages = devices.into_iter().map(message).collect();
        self.ask(ops, messages).into_iter().collect()
    }

    /// Returns all links by their names.
    fn devices(&self) -> Result<HashMap<String, Device>, KernelError> {
        let mut devices = HashMap::new();
        for link in self.list.links()? {
            let (mut name, mut group) = (None, DEFAULT_GROUP);
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text),
                    LinkAttribute::Group(number) => group = number,
                    _ => {}
                }
            }
            let index = link.header.index;
            devices.extend(name.map(|name| (name, Device { index, group })));
        }
        Ok(devices)
    }
}
