//! The kernel's refusals: the operation, the errno, and the kernel's own words (extended ack).

use std::io;

use netlink_packet_core::ErrorMessage;
use thiserror::Error;

use crate::error::{Kind, UserError};

/// A netlink operation that failed.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The kernel answered with an error.
    #[error("cannot {operation}: {}{}", source, said.as_deref().map(|said| format!(" ({said})")).unwrap_or_default())]
    Refused {
        /// The operation, such as `create link gretun0`.
        operation: String,
        /// The errno.
        source: io::Error,
        /// The kernel's own words, where it gave any.
        said: Option<String>,
    },
    /// Netlink itself failed: no socket, no answer, an answer that cannot be read.
    #[error("cannot {operation}: netlink: {reason}")]
    Netlink {
        /// The operation.
        operation: String,
        /// The reason in words.
        reason: String,
    },
    /// The table of gretun in nftables could not be changed.
    #[error("cannot {operation}: {reason}")]
    Nftables {
        /// The masquerading that was to be added or removed.
        operation: String,
        /// The errno, where the kernel gave one.
        errno: Option<i32>,
        /// The reason in words.
        reason: String,
    },
}

impl KernelError {
    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            KernelError::Refused { source, .. } => source.raw_os_error(),
            KernelError::Nftables { errno, .. } => *errno,
            KernelError::Netlink { .. } => None,
        }
    }

    /// A device that an operation needs is not there.
    pub(super) fn no_device(operation: impl Into<String>, name: &str) -> Self {
        KernelError::Refused {
            operation: operation.into(),
            source: io::Error::from_raw_os_error(libc::ENODEV),
            said: Some(name.to_owned()),
        }
    }

    /// The table of gretun in nftables could not be changed.
    pub(super) fn nftables(
        operation: impl Into<String>,
        errno: Option<i32>,
        reason: &impl ToString,
    ) -> Self {
        KernelError::Nftables {
            operation: operation.into(),
            errno,
            reason: reason.to_string(),
        }
    }

    /// From the error message of any netlink family.
    pub(super) fn refused(operation: impl Into<String>, message: &ErrorMessage) -> Self {
        KernelError::Refused {
            operation: operation.into(),
            source: message.to_io(),
            said: extended_ack(&message.header),
        }
    }

    /// Netlink itself, or something that asks it, failed.
    pub(crate) fn netlink(operation: impl Into<String>, reason: impl ToString) -> Self {
        KernelError::Netlink {
            operation: operation.into(),
            reason: reason.to_string(),
        }
    }
}

impl UserError for KernelError {
    fn kind(&self) -> Kind {
        match self.errno() {
            Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
                Kind::Environment
            }
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        if let KernelError::Nftables { errno, .. } = self
            && !matches!(errno, Some(libc::EPERM | libc::EACCES))
        {
            return Some(
                "`modprobe -a nft_chain_nat nft_masq` loads what masquerading needs; `nft list table inet gretun` shows what is there"
                    .to_owned(),
            );
        }
        let hint = match self.errno()? {
            libc::EPERM | libc::EACCES => {
                "run as root, or give the process CAP_NET_ADMIN and CAP_NET_RAW"
            }
            libc::EOPNOTSUPP => "load the kernel's tunnel modules: `modprobe -a fou ip_gre`",
            libc::EEXIST => "`ip -d link` shows what is there already",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// The message attribute of an extended ack (`NLMSGERR_ATTR_MSG`). The socket has `NETLINK_CAP_ACK` set, so that the
/// attributes follow the 16 bytes of the request's header directly.
fn extended_ack(payload: &[u8]) -> Option<String> {
    const REQUEST_HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    const HEADER: usize = 4;
    let mut rest = payload.get(REQUEST_HEADER..)?;
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(HEADER..length)?;
        if u16::from_ne_bytes([c, d]) == NLMSGERR_ATTR_MSG {
            let text = value.split(|&byte| byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_found_behind_other_attributes() {
        let mut payload = vec![0; 16];
        payload.extend([8, 0, 2, 0, 1, 2, 3, 4]);
        payload.extend([9, 0, 1, 0, b'm', b't', b'u', b'!', 0, 0, 0, 0]);
        assert_eq!(extended_ack(&payload).as_deref(), Some("mtu!"));
        for length in 0..payload.len() {
            // No truncation panics.
            let _ = extended_ack(&payload[..length]);
        }
        assert_eq!(extended_ack(&[0; 40]), None);
    }
}
