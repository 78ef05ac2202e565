//! What one device receives, handed over to another (`tc filter ... action mirred ingress redirect`).

use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcFilterU32Option, TcMirror, TcMirrorActionType, TcU32Key, TcU32Selector,
    TcU32SelectorFlags,
};

use super::{Kernel, KernelError};

impl Kernel {
    /// Everything that comes in through the device of index `from` comes in through that of index `to` instead: for routes, reverse-path
    /// filters, firewalls and packet sockets. Takes the place of an earlier redirection of `from`, and goes with either device.
    ///
    /// # Errors
    /// When the kernel refuses: it needs `sch_ingress`, `cls_u32` and `act_mirred`.
    pub async fn redirect_received(&self, from: u32, to: u32) -> Result<(), KernelError> {
        let failed = |error| {
            let operation = format!("hand what device {from} receives to device {to}");
            KernelError::route(operation, error)
        };
        let device = from.cast_signed();
        let mut earlier = self.route.qdisc().del(device);
        earlier.message_mut().header.parent = netlink_packet_route::tc::TcHandle::INGRESS;
        if let Err(error) = earlier.execute().await {
            tracing::trace!(device, %error, "nothing was redirected");
        }
        let added = self.route.qdisc().add(device).ingress().execute().await;
        added.map_err(failed)?;
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
        let filter = self.route.traffic_filter(device).add();
        let every_protocol = (libc::ETH_P_ALL as u16).to_be();
        let filter = filter.ingress().priority(1).protocol(every_protocol);
        let filter = filter.u32(&options).map_err(failed)?;
        filter.execute().await.map_err(failed)
    }
}
