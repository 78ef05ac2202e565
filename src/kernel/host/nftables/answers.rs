//! Reads the kernel's answers into the model of [`crate::tunnel::nftables`].

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlasIterator, Parseable as _};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, ExpressionAttribute, Expressions, GenAttribute, GenMessage,
    Hook as HookAttribute, InetHookNumber, ListAttribute, Lookup, RuleAttribute, RuleMessage,
    SetAttribute, SetMessage,
};

use super::messages::{ACCEPT, INTERFACE, expressions, kind_of_set};
use crate::tunnel::mode::Family;
use crate::tunnel::nftables::{Action, Chain, Element, Hook, Interface, Rule, TABLE};
use crate::tunnel::sources;

/// `struct nfgenmsg`, which stands before the attributes.
const HEADER: usize = 4;

// Attributes of linux/netfilter/nf_tables.h.
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_DATA_VALUE: u16 = 1;

/// Reads the generation of all rules.
pub(super) fn read_generation(payload: &[u8]) -> Result<Option<u32>, DecodeError> {
    let message = GenMessage::parse(attributes(payload))?;
    Ok(message.attributes.iter().find_map(|it| match it {
        GenAttribute::Id(generation) => Some(*generation),
        _ => None,
    }))
}

/// Reads the name of a set, and the version of IP of its networks; `None` for a set of another kind.
pub(super) fn read_set(payload: &[u8]) -> Result<Option<(String, Option<Family>)>, DecodeError> {
    let found = SetMessage::parse(attributes(payload))?.attributes;
    let name = found.iter().find_map(|it| match it {
        SetAttribute::Name(name) => Some(name.clone()),
        _ => None,
    });
    let mut families = [Family::V4, Family::V6].into_iter();
    let family = families.find(|family| {
        let [flags, kind, length, _] = kind_of_set(*family);
        // The fields follow from the type, and the kernel writes them otherwise.
        [flags, kind, length].iter().all(|it| found.contains(it))
    });
    Ok(name.map(|name| (name, family)))
}

/// Reads elements. Those that are no networks are somebody else's and are left out.
///
/// By hand: the crate would write each list of elements out as text, for errors that do not happen, and take seconds for a thousand.
pub(super) fn read_elements(
    payload: &[u8],
    family: Family,
) -> Result<Option<Vec<Element>>, DecodeError> {
    let mut elements = Vec::new();
    for list in NlasIterator::new(attributes(payload)) {
        let list = list?;
        if list.kind() == NFTA_SET_ELEM_LIST_ELEMENTS {
            for element in NlasIterator::new(list.value()) {
                elements.extend(read_element(element?.value(), family)?);
            }
        }
    }
    Ok(Some(elements))
}

/// Reads the name of a chain of the table, and the chain without its rules; `None` for a chain of another kind.
pub(super) fn read_chain(payload: &[u8]) -> Result<Option<(String, Option<Chain>)>, DecodeError> {
    let (mut table, mut name, mut kind) = (None, None, None);
    let (mut hook, mut priority, mut policy) = (None, None, None);
    for attribute in ChainMessage::parse(attributes(payload))?.attributes {
        match attribute {
            ChainAttribute::Table(it) => table = Some(it),
            ChainAttribute::Name(it) => name = Some(it),
            ChainAttribute::Type(it) => kind = Some(it),
            ChainAttribute::Policy(it) => policy = Some(it),
            ChainAttribute::Hook(parts) => {
                for part in parts {
                    match part {
                        HookAttribute::Number(it) => hook = Some(u32::from(it)),
                        HookAttribute::Priority(it) => priority = Some(it.cast_signed()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let Some(name) = name.filter(|_| table.as_deref() == Some(TABLE)) else {
        return Ok(None);
    };
    let hook = match (kind.as_deref(), hook) {
        (Some("nat"), Some(it)) if it == u32::from(InetHookNumber::PostRouting) => {
            Some(Hook::NatPostrouting)
        }
        (Some("filter"), Some(it)) if it == u32::from(InetHookNumber::PreRouting) => {
            Some(Hook::FilterPrerouting)
        }
        _ => None,
    };
    let chain = match (hook, priority, policy) {
        (Some(hook), Some(priority), Some(ACCEPT)) => Some(Chain {
            hook,
            priority,
            rules: Vec::new(),
        }),
        _ => None,
    };
    Ok(Some((name, chain)))
}

/// Reads a rule; the inner `None` is a rule of another form.
pub(super) fn read_rule(payload: &[u8]) -> Result<Option<Option<Rule>>, DecodeError> {
    let found = RuleMessage::parse(attributes(payload))?.attributes;
    let found = found.into_iter().find_map(|it| match it {
        RuleAttribute::Expressions(it) => Some(it),
        _ => None,
    });
    let found: Vec<Expressions> = found
        .unwrap_or_default()
        .into_iter()
        .flat_map(|it| match it {
            ListAttribute::Element(parts) => parts,
            _ => Vec::new(),
        })
        .filter_map(|it| match it {
            ExpressionAttribute::Data(data) => Some(data),
            _ => None,
        })
        .collect();
    let set = found.iter().find_map(|it| match it {
        Expressions::Lookup(parts) => parts.iter().find_map(|it| match it {
            Lookup::Set(name) => Some(name.clone()),
            _ => None,
        }),
        _ => None,
    });
    let Some(set) = set else {
        return Ok(Some(None));
    };
    let actions = [
        Action::Masquerade(Interface::Input),
        Action::Masquerade(Interface::Output),
        Action::DropOtherSources {
            group: sources::GROUP,
        },
    ];
    let forms = [Family::V4, Family::V6].into_iter().flat_map(|family| {
        let set = &set;
        actions.map(|action| Rule {
            family,
            set: set.clone(),
            action,
        })
    });
    let form = forms.into_iter().find(|rule| {
        let wanted = expressions(rule);
        wanted.len() == found.len() && wanted.iter().zip(&found).all(|(a, b)| is_same(a, b))
    });
    Ok(Some(form))
}

/// The attributes of a message.
fn attributes(payload: &[u8]) -> &[u8] {
    payload.get(HEADER..).unwrap_or_default()
}

fn read_element(attributes: &[u8], family: Family) -> Result<Option<Element>, DecodeError> {
    let (mut first, mut last) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let key = match attribute.kind() {
            NFTA_SET_ELEM_KEY => &mut first,
            NFTA_SET_ELEM_KEY_END => &mut last,
            _ => continue,
        };
        for data in NlasIterator::new(attribute.value()) {
            let data = data?;
            if data.kind() == NFTA_DATA_VALUE {
                *key = read_key(data.value(), family);
            }
        }
    }
    let Some((link, first)) = first else {
        return Ok(None);
    };
    // The kernel leaves the end out where it is the beginning.
    let last = last.map_or(first, |(_, last)| last);
    Ok(network(first, last).map(|network| (link, network)))
}

fn read_key(key: &[u8], family: Family) -> Option<(String, IpAddr)> {
    let (name, address) = key.split_at_checked(INTERFACE)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let address = match family {
        Family::V4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        Family::V6 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    Some((String::from_utf8(name.to_vec()).ok()?, address))
}

/// The network from its first to its last address; `None` for another interval.
fn network(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let differing = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(first.to_bits() ^ last.to_bits()) << 96,
        (IpAddr::V6(first), IpAddr::V6(last)) => first.to_bits() ^ last.to_bits(),
        _ => return None,
    };
    let length = if differing == 0 {
        if first.is_ipv4() { 32 } else { 128 }
    } else {
        differing.leading_zeros()
    };
    let network = IpNet::new(first, u8::try_from(length).ok()?).ok()?;
    (network.network() == first && network.broadcast() == last).then_some(network)
}

/// Whether an expression that the kernel has means the same: it orders the parts otherwise, and adds flags that are not set.
fn is_same(wanted: &Expressions, found: &Expressions) -> bool {
    fn have_same<T: PartialEq>(wanted: &[T], found: &[T], is_default: impl Fn(&T) -> bool) -> bool {
        wanted.iter().all(|it| found.contains(it))
            && found.iter().all(|it| wanted.contains(it) || is_default(it))
    }
    match (wanted, found) {
        (Expressions::Meta(a), Expressions::Meta(b)) => have_same(a, b, |_| false),
        (Expressions::Cmp(a), Expressions::Cmp(b)) => have_same(a, b, |_| false),
        (Expressions::Payload(a), Expressions::Payload(b)) => have_same(a, b, |_| false),
        (Expressions::Lookup(a), Expressions::Lookup(b)) => {
            have_same(a, b, |it| *it == Lookup::Flags(0))
        }
        (a, b) => a == b,
    }
}
