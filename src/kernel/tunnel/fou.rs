//! FOU ports: the kernel's UDP sockets that take GRE out of UDP (generic netlink family `fou`, net/ipv4/fou_core.c).

use std::sync::PoisonError;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NlasIterator, ParseableParametrized as _,
    parse_u16,
};
use netlink_packet_fou::{FouAddressFamily, FouAttribute, FouCmd, FouEncap, FouMessage};
use netlink_packet_generic::constants::{CTRL_ATTR_FAMILY_ID, GENL_HDRLEN};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily as _, GenlMessage};

use crate::kernel::netlink::socket::KernelSocket;
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::encap::{FouPort, Receives};
pub use crate::tunnel::mode::Family;
use crate::tunnel::mode::Mode;

/// Whether a FOU port had to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is new.
    Made,
    /// It was there, for the same use.
    Found,
}

impl Kernel {
    /// Makes the kernel receive GRE on a UDP port.
    ///
    /// # Errors
    /// When the port is taken by something else (`EADDRINUSE`), or the module is missing (`ENOENT`).
    pub fn add_fou(&self, port: u16, family: Family) -> Result<Added, KernelError> {
        self.add_fou_port(gre_port(port, family))
    }

    /// Removes a FOU port of ours; one that is not there, or is there for another protocol, is left alone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_fou(&self, port: u16, family: Family) -> Result<(), KernelError> {
        self.delete_fou_port(gre_port(port, family))
    }

    /// Makes the kernel take what the port says out of UDP.
    ///
    /// # Errors
    /// When the port is taken by something else (`EADDRINUSE`), or the module is missing (`ENOENT`).
    pub fn add_fou_port(&self, port: FouPort) -> Result<Added, KernelError> {
        match self.change_fou(FouCmd::Add, port) {
            Ok(()) => Ok(Added::Made),
            // Newer kernels try to bind before they look at their own list.
            Err(error)
                if matches!(error.errno(), Some(libc::EALREADY | libc::EADDRINUSE))
                    && self.fou_ports()?.contains(&port) =>
            {
                Ok(Added::Found)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a FOU port; one that is not there, or is there for something else, is left alone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_fou_port(&self, port: FouPort) -> Result<(), KernelError> {
        if self.fou_ports()?.contains(&port) {
            self.change_fou(FouCmd::Del, port)?;
        }
        Ok(())
    }

    /// All FOU ports; none where the kernel has no FOU.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn fou_ports(&self) -> Result<Vec<FouPort>, KernelError> {
        let message = FouMessage::new(FouCmd::Get);
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        match self.request_fou("list FOU ports", message, flags) {
            Ok(ports) => Ok(ports.iter().filter_map(read_port).collect()),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn change_fou(&self, command: FouCmd, port: FouPort) -> Result<(), KernelError> {
        let verb = if command == FouCmd::Add {
            "add"
        } else {
            "remove"
        };
        let operation = format!("{verb} FOU port {}", port.port);
        let mut message = FouMessage::new(command);
        message.attributes = vec![
            FouAttribute::Port(port.port),
            FouAttribute::Family(match port.family {
                Family::V4 => FouAddressFamily::Ipv4,
                Family::V6 => FouAddressFamily::Ipv6,
            }),
        ];
        if command == FouCmd::Add {
            match port.receives {
                Receives::Protocol(protocol) => message.attributes.extend([
                    FouAttribute::Ipproto(protocol),
                    FouAttribute::Encap(FouEncap::Direct),
                ]),
                Receives::Gue => message.attributes.push(FouAttribute::Encap(FouEncap::Gue)),
            }
        }
        self.request_fou(&operation, message, NLM_F_REQUEST | NLM_F_ACK)?;
        Ok(())
    }

    fn request_fou(
        &self,
        operation: &str,
        message: FouMessage,
        flags: u16,
    ) -> Result<Vec<FouMessage>, KernelError> {
        // Every request begins anew, so one that panicked has left nothing behind that matters.
        let mut socket = self.generic.lock().unwrap_or_else(PoisonError::into_inner);
        let family = family_id(&mut socket, operation, FouMessage::family_name())?;
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(family);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let read = |payload: &[u8]| {
            let message = GenlMessage::<FouMessage>::parse_with_param(payload, family)?;
            Ok(Some(message.payload))
        };
        Ok(socket.ask(operation, &mut request, read)?.found)
    }
}

/// The number of a generic netlink family; `ENOENT` where the kernel has no such family. Asking makes the kernel load the
/// family's module. The number is not kept, because a module that is loaded again gets another one.
pub(in crate::kernel) fn family_id(
    socket: &mut KernelSocket,
    operation: &str,
    name: &str,
) -> Result<u16, KernelError> {
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())],
    }));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let read = |payload: &[u8]| {
        for attribute in NlasIterator::new(payload.get(GENL_HDRLEN..).unwrap_or_default()) {
            let attribute = attribute?;
            if attribute.kind() == CTRL_ATTR_FAMILY_ID {
                return parse_u16(attribute.value()).map(Some);
            }
        }
        Ok(None)
    };
    let answers = socket.ask(operation, &mut request, read)?;
    let nothing = || KernelError::netlink(operation, format!("family {name} has no number"));
    answers.found.into_iter().next().ok_or_else(nothing)
}

fn gre_port(port: u16, family: Family) -> FouPort {
    FouPort {
        port,
        family,
        receives: Receives::Protocol(Mode::Gre.protocol()),
    }
}

fn read_port(message: &FouMessage) -> Option<FouPort> {
    let (mut port, mut family, mut protocol, mut is_gue) = (None, None, 0, false);
    for attribute in &message.attributes {
        match attribute {
            FouAttribute::Port(number) => port = Some(*number),
            FouAttribute::Family(FouAddressFamily::Ipv4) => family = Some(Family::V4),
            FouAttribute::Family(FouAddressFamily::Ipv6) => family = Some(Family::V6),
            FouAttribute::Ipproto(number) => protocol = *number,
            FouAttribute::Encap(encap) => is_gue = *encap == FouEncap::Gue,
            _ => {}
        }
    }
    Some(FouPort {
        port: port?,
        family: family?,
        receives: if is_gue {
            Receives::Gue
        } else {
            Receives::Protocol(protocol)
        },
    })
}
