//! The changes and questions of [`crate::tunnel::nftables`] as netlink messages (include/uapi/linux/netfilter/nf_tables.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, Nla,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, GenMessage,
    Hook as HookAttribute, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, SetAttribute,
    SetDescription, SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage,
    TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::tunnel::mode::Family;
use crate::tunnel::nftables::{Action, Chain, Change, Element, Hook, Interface, Rule, TABLE};

/// A message of this family.
type Message = NetlinkMessage<NetfilterMessage>;

/// `NFNL_SUBSYS_NFTABLES`: the subsystem that a transaction is for.
const NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, with the generation of the rules that the transaction rests on.
const BATCH_BEGIN: u8 = 16;
const NFNL_BATCH_GENID: u16 = 1;

/// With a deletion: only where nothing is in it.
const NLM_F_NONREC: u16 = 0x100;

/// `IFNAMSIZ`: the kernel compares all bytes of an interface name.
pub(super) const INTERFACE: usize = 16;

/// nft(8) numbers the types of keys itself, six bits each; the kernel only keeps the number for it.
const TYPE_BITS: u32 = 6;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_INTERFACE: u32 = 41;

/// `NFTA_SET_FIELD_LEN`.
const FIELD_LENGTH: u16 = 1;

/// `NF_DROP`.
const DROP: u32 = 0;
/// `NF_ACCEPT`.
pub(super) const ACCEPT: u32 = 1;

/// `NFT_LOOKUP_F_INV`.
const NOT_FOUND: u32 = 1;

/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NETWORK_HEADER: u32 = 1;

/// The expression that masquerades; the crate does not know it.
const MASQUERADE: &str = "masq";

/// Most elements of one message: the length of their list has 16 bits.
const ELEMENTS: usize = 256;

/// A message to nftables.
pub(super) fn message(message: NfTablesMessage, flags: u16) -> Message {
    inner(NetfilterProtoFamily::Inet, 0, message, flags)
}

fn inner(
    family: NetfilterProtoFamily,
    subsystem: u16,
    message: impl Into<NetfilterMessageInner>,
    flags: u16,
) -> Message {
    let header = NetfilterHeader::new(family, 0, subsystem);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = flags;
    message
}

/// Begins a transaction, which the kernel refuses where the rules are of another generation.
pub(super) fn begin(generation: Option<u32>) -> Message {
    let attributes = generation.into_iter();
    let attributes =
        attributes.map(|it| DefaultNla::new(NFNL_BATCH_GENID, it.to_be_bytes().to_vec()));
    let begin = ControlMessage::Other {
        message_type: BATCH_BEGIN,
        attributes: attributes.collect(),
    };
    inner(NetfilterProtoFamily::Unspec, NFTABLES, begin, NLM_F_REQUEST)
}

/// Ends a transaction.
pub(super) fn end() -> Message {
    let end = ControlMessage::BatchEnd;
    inner(NetfilterProtoFamily::Unspec, NFTABLES, end, NLM_F_REQUEST)
}

/// The messages of a change: one, or several where it has many elements.
pub(super) fn encode(change: &Change) -> Vec<Message> {
    let create = NLM_F_REQUEST | NLM_F_CREATE;
    let one = |it, flags| vec![message(it, flags)];
    match change {
        Change::AddTable => one(NfTablesMessage::NewTable(table()), create),
        Change::DeleteEmptyTable => one(
            NfTablesMessage::DeleteTable(table()),
            NLM_F_REQUEST | NLM_F_NONREC,
        ),
        Change::AddSet { set, family } => one(new_set(set, *family), create),
        Change::DeleteSet { set } => one(
            NfTablesMessage::DeleteSet(SetMessage {
                attributes: name_of_set(set),
            }),
            NLM_F_REQUEST,
        ),
        Change::AddElements { set, elements } => split(elements)
            .map(|it| message(NfTablesMessage::NewSetElement(list(set, &it)), create))
            .collect(),
        Change::DeleteElements { set, elements } => split(elements)
            .map(|it| {
                let list = NfTablesMessage::DeleteSetElement(list(set, &it));
                message(list, NLM_F_REQUEST)
            })
            .collect(),
        Change::AddChain { chain, base } => one(new_chain(chain, base), create),
        Change::DeleteChain { chain } => one(
            NfTablesMessage::DeleteChain(ChainMessage {
                attributes: name_of_chain(chain),
            }),
            NLM_F_REQUEST,
        ),
        Change::FlushChain { chain } => one(
            NfTablesMessage::DeleteRule(RuleMessage {
                attributes: rules_of(chain),
            }),
            NLM_F_REQUEST,
        ),
        Change::AddRule { chain, rule } => {
            let mut attributes = rules_of(chain);
            let expressions = expressions(rule).into_iter();
            let expressions = expressions.map(ListAttribute::from).collect();
            attributes.push(RuleAttribute::Expressions(expressions));
            let rule = NfTablesMessage::NewRule(RuleMessage { attributes });
            one(rule, create | NLM_F_APPEND)
        }
    }
}

/// Asks for the generation of all rules.
pub(super) fn get_generation() -> NfTablesMessage {
    NfTablesMessage::GetGen(GenMessage {
        attributes: Vec::new(),
    })
}

/// Asks for the table.
pub(super) fn get_table() -> NfTablesMessage {
    NfTablesMessage::GetTable(table())
}

/// Asks for the sets of the table.
pub(super) fn get_sets() -> NfTablesMessage {
    let attributes = vec![SetAttribute::Table(TABLE.to_owned())];
    NfTablesMessage::GetSet(SetMessage { attributes })
}

/// Asks for the elements of a set.
pub(super) fn get_elements(set: &str) -> NfTablesMessage {
    let attributes = name_of_list(set);
    NfTablesMessage::GetSetElement(SetElementMessage { attributes })
}

/// Asks for the chains of all tables: the kernel cannot be asked for those of one.
pub(super) fn get_chains() -> NfTablesMessage {
    let attributes = Vec::new();
    NfTablesMessage::GetChain(ChainMessage { attributes })
}

/// Asks for the rules of a chain.
pub(super) fn get_rules(chain: &str) -> NfTablesMessage {
    let attributes = rules_of(chain);
    NfTablesMessage::GetRule(RuleMessage { attributes })
}

fn table() -> TableMessage {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
    TableMessage { attributes }
}

fn name_of_set(set: &str) -> Vec<SetAttribute> {
    vec![
        SetAttribute::Table(TABLE.to_owned()),
        SetAttribute::Name(set.to_owned()),
    ]
}

/// `type ifname . ipv4_addr; flags interval;`: the attributes that tell such a set from any other.
pub(super) fn kind_of_set(family: Family) -> [SetAttribute; 4] {
    let (address, kind) = match family {
        Family::V4 => (size_of::<Ipv4Addr>(), TYPE_IPV4),
        Family::V6 => (size_of::<Ipv6Addr>(), TYPE_IPV6),
    };
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let field = |length: usize| {
        let length = DefaultNla::new(FIELD_LENGTH, number(length).to_be_bytes().to_vec());
        DefaultNla::new(1 | libc::NLA_F_NESTED as u16, bytes_of(&length))
    };
    let fields = vec![field(INTERFACE), field(address)];
    [
        SetAttribute::Flags(SetFlags::Interval | SetFlags::Concat),
        SetAttribute::KeyType(TYPE_INTERFACE << TYPE_BITS | kind),
        SetAttribute::KeyLen(number(INTERFACE + address)),
        SetAttribute::Description(vec![SetDescription::Concat(fields)]),
    ]
}

fn new_set(set: &str, family: Family) -> NfTablesMessage {
    let mut attributes = name_of_set(set);
    attributes.extend(kind_of_set(family));
    // The kernel wants a number for messages of the same transaction that mean this set; gretun names it.
    attributes.push(SetAttribute::Id(1));
    NfTablesMessage::NewSet(SetMessage { attributes })
}

fn split<'a>(
    elements: impl IntoIterator<Item = &'a Element>,
) -> impl Iterator<Item = Vec<&'a Element>> {
    let mut elements = elements.into_iter();
    std::iter::from_fn(move || {
        let some: Vec<&Element> = elements.by_ref().take(ELEMENTS).collect();
        (!some.is_empty()).then_some(some)
    })
}

fn name_of_list(set: &str) -> Vec<SetElementList> {
    vec![
        SetElementList::Table(TABLE.to_owned()),
        SetElementList::Set(set.to_owned()),
    ]
}

fn list(set: &str, elements: &[&Element]) -> SetElementMessage {
    let mut attributes = name_of_list(set);
    let elements = elements.iter().map(|(link, network)| {
        let last = bytes_of(&DataAttribute::Value(key(link, network.broadcast())));
        ListAttribute::Element(vec![
            SetElementAttribute::Key(DataAttribute::Value(key(link, network.network()))),
            SetElementAttribute::KeyEnd(vec![DefaultNla::new(1, last[4..].to_vec())]),
        ])
    });
    attributes.push(SetElementList::Elements(elements.collect()));
    SetElementMessage { attributes }
}

/// An interface name, filled up with zeros, and an address.
fn key(link: &str, address: IpAddr) -> Vec<u8> {
    let mut bytes = link.as_bytes().to_vec();
    bytes.resize(INTERFACE, 0);
    match address {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
    bytes
}

fn name_of_chain(chain: &str) -> Vec<ChainAttribute> {
    vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(chain.to_owned()),
    ]
}

fn new_chain(chain: &str, base: &Chain) -> NfTablesMessage {
    let (kind, hook) = match base.hook {
        Hook::NatPostrouting => ("nat", InetHookNumber::PostRouting),
        Hook::FilterPrerouting => ("filter", InetHookNumber::PreRouting),
    };
    let mut attributes = name_of_chain(chain);
    attributes.extend([
        ChainAttribute::Hook(vec![
            HookAttribute::Number(hook.into()),
            HookAttribute::Priority(base.priority.cast_unsigned()),
        ]),
        ChainAttribute::Policy(ACCEPT),
        ChainAttribute::Type(kind.to_owned()),
    ]);
    NfTablesMessage::NewChain(ChainMessage { attributes })
}

fn rules_of(chain: &str) -> Vec<RuleAttribute> {
    vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
    ]
}

/// A rule as the kernel runs it: is the packet of this version of IP, and of this group? Then its interface and an address of it, one
/// behind the other in the registers, are looked up; then follows the verdict.
pub(super) fn expressions(rule: &Rule) -> Vec<Expressions> {
    let (family, [source, destination], length) = match rule.family {
        Family::V4 => (libc::NFPROTO_IPV4, [12, 16], 4),
        Family::V6 => (libc::NFPROTO_IPV6, [8, 24], 16),
    };
    let group = match rule.action {
        Action::Masquerade(_) => None,
        Action::DropOtherSources { group } => {
            Some((MetaKey::Iifgroup, group.to_ne_bytes().to_vec()))
        }
    };
    let protocol = (MetaKey::Nfproto, vec![family.to_ne_bytes()[0]]);
    let conditions = group.into_iter().chain([protocol]);
    let masquerade = Expressions::Other {
        expression_type: MASQUERADE.to_owned(),
        attributes: Vec::new(),
    };
    let (name, address, flags, verdict) = match rule.action {
        Action::Masquerade(Interface::Input) => (MetaKey::Iifname, destination, None, masquerade),
        Action::Masquerade(Interface::Output) => (MetaKey::Oifname, destination, None, masquerade),
        Action::DropOtherSources { .. } => {
            let drop = VerdictAttribute::Code(Verdict::Other(DROP));
            let verdict = Expressions::Immediate(vec![
                Immediate::DestinationRegister(Register::Verdict),
                Immediate::Data(DataAttribute::Verdict(vec![drop])),
            ]);
            (
                MetaKey::Iifname,
                source,
                Some(Lookup::Flags(NOT_FOUND)),
                verdict,
            )
        }
    };
    let mut lookup = vec![
        Lookup::SourceRegister(Register::Reg1),
        Lookup::Set(rule.set.clone()),
    ];
    lookup.extend(flags);
    let mut expressions: Vec<_> = conditions
        .flat_map(|(key, value)| [load(key), equals(value)])
        .collect();
    expressions.extend([
        load(name),
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg2),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(address),
            Payload::Len(length),
        ]),
        Expressions::Lookup(lookup),
        verdict,
    ]);
    expressions
}

/// Loads a property of the packet into the first register.
fn load(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![
        Meta::Key(key),
        Meta::DestinationRegister(Register::Reg1),
    ])
}

/// Ends the rule unless the first register has this value.
fn equals(value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// An attribute with its header.
fn bytes_of(attribute: &impl Nla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes
}
