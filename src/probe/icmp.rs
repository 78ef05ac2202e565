//! ICMP echo on the wire: RFC 792 for IPv4, RFC 4443 section 4 for IPv6. Pure.
//!
//! ```text
//! 0        1        2                 4                 6                 8
//! | type   | code 0 | checksum        | identifier      | sequence number | payload ...
//! ```

use crate::tunnel::mode::Family;

/// Bytes before the payload.
const HEADER: usize = 8;

/// Bytes of payload, as ping(8) sends.
pub const PAYLOAD: usize = 56;

/// Bytes at the start of the payload by which a reply is known; the rest is zeros.
pub const TOKEN: usize = 16;

/// One echo request, which determines its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Version of IP.
    pub family: Family,
    /// Identifier; the kernel writes its own in the requests of unprivileged sockets.
    pub id: u16,
    /// Sequence number.
    pub sequence: u16,
    /// Random for each request.
    pub token: [u8; TOKEN],
}

impl Echo {
    /// The request. Its checksum is that of ICMP over IPv4; over IPv6 it covers addresses too, and the kernel fills it in.
    pub fn request(&self) -> Vec<u8> {
        let mut packet = vec![0; HEADER + PAYLOAD];
        packet[0] = match self.family {
            Family::V4 => 8,
            Family::V6 => 128,
        };
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        packet[HEADER..HEADER + TOKEN].copy_from_slice(&self.token);
        if self.family == Family::V4 {
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// Returns whether an ICMP message is the reply to this request. `check_id` is false where the kernel chose the identifier,
    /// and so delivers no replies but ours. The kernel has checked the checksum.
    pub fn is_answered_by(&self, message: &[u8], check_id: bool) -> bool {
        let expected_type = match self.family {
            Family::V4 => 0,
            Family::V6 => 129,
        };
        let Some((header, payload)) = message.split_at_checked(HEADER) else {
            return false;
        };
        header[0] == expected_type
            && header[1] == 0
            && (!check_id || header[4..6] == self.id.to_be_bytes())
            && header[6..8] == self.sequence.to_be_bytes()
            && payload.len() == PAYLOAD
            && payload.starts_with(&self.token)
    }
}

/// The ICMP message in an IPv4 packet, as raw sockets give it; nothing if it is none.
pub fn message_in_ipv4(packet: &[u8]) -> Option<&[u8]> {
    const ICMP: u8 = 1;
    const LEAST: usize = 20;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let is_icmp = packet[0] >> 4 == 4 && header >= LEAST && *packet.get(9)? == ICMP;
    packet.get(header..).filter(|_| is_icmp)
}

/// The Internet checksum (RFC 1071).
fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in data.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded at each step, it fits.
    !(sum as u16)
}

#[cfg(test)]
#[path = "icmp_tests.rs"]
mod tests;
