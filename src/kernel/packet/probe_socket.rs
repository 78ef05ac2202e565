//! Probes through GRE devices. GRE carries any EtherType, so a probe is a GRE packet of EtherType 0x88B5 (IEEE 802 local
//! experimental 1): it takes the way of data through the kernel on both sides, needs no inner address, route, port or
//! firewall rule, and a host that runs no daemon drops it silently.

use std::io;

use socket2::SockFilter;

use crate::kernel::packet::{PacketSocket, TO_THIS_HOST, bpf};

/// IEEE 802 local experimental EtherType 1.
pub const ETHER_TYPE: u16 = 0x88b5;

/// Larger than any probe: a jumbo frame's payload.
const BUFFER: usize = 9216;

/// Sends and receives probes on all GRE devices of the network namespace.
#[derive(Debug)]
pub struct ProbeSocket {
    socket: PacketSocket,
    buffer: Vec<u8>,
}

impl ProbeSocket {
    /// Opens the socket; needs CAP_NET_RAW and a tokio runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let filter = [
            SockFilter::new(bpf::LOAD_WORD, 0, 0, bpf::PACKET_TYPE),
            SockFilter::new(bpf::JUMP_EQ, 0, 1, TO_THIS_HOST),
            SockFilter::new(bpf::RETURN, 0, 0, u32::MAX),
            SockFilter::new(bpf::RETURN, 0, 0, 0),
        ];
        Ok(ProbeSocket {
            socket: PacketSocket::open(ETHER_TYPE, &filter)?,
            buffer: vec![0; BUFFER],
        })
    }

    /// Waits until there is something to take.
    ///
    /// # Errors
    /// The system's.
    pub async fn ready(&self) -> io::Result<()> {
        self.socket.ready().await
    }

    /// Takes a probe that is already here: the index of the device that it came through, and its content. It may come from any
    /// device, an Ethernet card included; the caller knows which ones are tunnels.
    ///
    /// # Errors
    /// The system's.
    pub fn try_recv(&mut self) -> io::Result<Option<(u32, Vec<u8>)>> {
        let frame = self.socket.try_recv(&mut self.buffer)?;
        Ok(frame.map(|frame| (frame.device, self.buffer[..frame.length].to_vec())))
    }

    /// Sends a probe through the device with this index.
    ///
    /// # Errors
    /// The system's, such as `ENXIO` for a device that is gone and `ENETDOWN` for one that is down.
    pub fn send(&self, device: u32, data: &[u8]) -> io::Result<()> {
        self.socket.send(device, data)
    }
}
