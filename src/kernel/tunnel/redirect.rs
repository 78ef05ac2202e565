//! Redirects the packets that one link receives to another (`tc filter ... action mirred ingress redirect`).

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use crate::kernel::tunnel::op_messages::{ADD, CHANGE};
use crate::kernel::{Kernel, KernelError};

/// The handle of every ingress queueing discipline, `ffff:`.
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// The only filter's.
const PRIORITY: u16 = 1;

impl Kernel {
    /// Everything that comes in through the device of index `from` comes in through that of index `to` instead: for routes, reverse-path
    /// filters, firewalls and packet sockets. Takes the place of an earlier redirection of `from`, and goes with either device.
    ///
    /// # Errors
    /// When the kernel refuses: it needs `sch_ingress`, `cls_u32` and `act_mirred`.
    pub fn redirect_received(&self, from: u32, to: u32) -> Result<(), KernelError> {
        let ask = |request: RouteNetlinkMessage, flags: u16| -> Result<(), KernelError> {
            let operation = |_| format!("hand what link {from} receives to link {to}");
            let requests = vec![Ok((request, flags))];
            self.change
                .change(requests, operation)
                .into_iter()
                .collect()
        };
        let device = from.cast_signed();
        let mut qdisc = TcMessage::with_index(device);
        qdisc.header.parent = TcHandle::INGRESS;
        let earlier = RouteNetlinkMessage::DelQueueDiscipline(qdisc.clone());
        if let Err(error) = ask(earlier, CHANGE) {
            tracing::trace!(device, %error, "nothing was redirected");
        }
        qdisc.header.handle = TcHandle::from(INGRESS_HANDLE);
        let kind = TcAttribute::Kind("ingress".to_owned());
        qdisc.attributes.push(kind);
        ask(RouteNetlinkMessage::NewQueueDiscipline(qdisc), ADD)?;
        let mut redirect = TcMirror::default();
        redirect.generic.action = TcActionType::Stolen;
        redirect.eaction = TcMirrorActionType::IngressRedir;
        redirect.ifindex = to;
        let mut action = TcAction::default();
        action.attributes = vec![
            TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
            TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
                redirect,
            ))]),
        ];
        // One key with an empty mask: every packet.
        let mut all = TcU32Selector::default();
        all.flags = TcU32SelectorFlags::Terminal;
        all.nkeys = 1;
        all.keys = vec![TcU32Key::default()];
        let options = [
            TcFilterU32Option::Selector(all),
            TcFilterU32Option::Action(vec![action]),
        ];
        let mut filter = TcMessage::with_index(device);
        filter.header.parent = TcHandle {
            major: TcHandle::INGRESS.major,
            minor: TcHandle::MIN_INGRESS,
        };
        filter.header.info = u32::from(TcHandle {
            major: PRIORITY,
            minor: (libc::ETH_P_ALL as u16).to_be(),
        });
        filter.attributes = vec![
            TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
            TcAttribute::Options(options.map(TcOption::U32).to_vec()),
        ];
        ask(RouteNetlinkMessage::NewTrafficFilter(filter), ADD)
    }
}
