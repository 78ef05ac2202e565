//! FOU ports: the kernel's UDP sockets that take GRE out of UDP (generic netlink family `fou`, net/ipv4/fou_core.c).

use futures_util::StreamExt as _;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_fou::{FouAddressFamily, FouAttribute, FouCmd, FouEncap, FouMessage};
use netlink_packet_generic::GenlMessage;

use super::{Kernel, KernelError};
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
    pub async fn add_fou(&self, port: u16, family: Family) -> Result<Added, KernelError> {
        self.add_fou_port(gre_port(port, family)).await
    }

    /// Removes a FOU port of ours; one that is not there, or is there for another protocol, is left alone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_fou(&self, port: u16, family: Family) -> Result<(), KernelError> {
        self.delete_fou_port(gre_port(port, family)).await
    }

    /// Makes the kernel take what the port says out of UDP.
    ///
    /// # Errors
    /// When the port is taken by something else (`EADDRINUSE`), or the module is missing (`ENOENT`).
    pub async fn add_fou_port(&self, port: FouPort) -> Result<Added, KernelError> {
        match self.change_fou(FouCmd::Add, port).await {
            Ok(()) => Ok(Added::Made),
            // Newer kernels try to bind before they look at their own list.
            Err(error)
                if matches!(error.errno(), Some(libc::EALREADY | libc::EADDRINUSE))
                    && self.fou_ports().await?.contains(&port) =>
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
    pub async fn delete_fou_port(&self, port: FouPort) -> Result<(), KernelError> {
        if self.fou_ports().await?.contains(&port) {
            self.change_fou(FouCmd::Del, port).await?;
        }
        Ok(())
    }

    /// All FOU ports; none where the kernel has no FOU.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn fou_ports(&self) -> Result<Vec<FouPort>, KernelError> {
        let message = FouMessage::new(FouCmd::Get);
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let _listing = self.listing.lock().await;
        match self.request_fou("list FOU ports", message, flags).await {
            Ok(ports) => Ok(ports.iter().filter_map(read_port).collect()),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn change_fou(&self, command: FouCmd, port: FouPort) -> Result<(), KernelError> {
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
        self.request_fou(&operation, message, NLM_F_REQUEST | NLM_F_ACK)
            .await?;
        Ok(())
    }

    async fn request_fou(
        &self,
        operation: &str,
        message: FouMessage,
        flags: u16,
    ) -> Result<Vec<FouMessage>, KernelError> {
        let mut request = NetlinkMessage::from(GenlMessage::from_payload(message));
        request.header.flags = flags;
        let failed = |error: &dyn ToString| KernelError::netlink(operation, error.to_string());
        let mut generic = self.generic.clone();
        let mut answers = generic
            .request(request)
            .await
            .map_err(|error| match error {
                // What the kernel says when the family, that is the module, is not there.
                genetlink::GenetlinkError::NetlinkError(source) => KernelError::Refused {
                    operation: operation.to_owned(),
                    source,
                    said: None,
                },
                other => failed(&other),
            })?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.map_err(|error| failed(&error))?.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message.payload),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(KernelError::refused(operation, &error));
                }
                _ => {}
            }
        }
        Ok(found)
    }
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
