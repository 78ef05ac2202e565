//! Address pools: which addresses a network has to give, and the next free one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Kind, UserError};

/// The first address after the network's own stays free for a gateway, as people expect of a subnet.
const FIRST_OFFSET: u128 = 2;

/// A network whose host addresses are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    network: IpNet,
}

/// The reason why a network is no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Bits right of the prefix are set.
    #[error("{given} is an address in a network, not a network")]
    HostBits {
        /// The network as it was given.
        given: IpNet,
    },
    /// No address is left when network, gateway and broadcast address are taken off.
    #[error("{given} has no address to give")]
    TooSmall {
        /// The network as it was given.
        given: IpNet,
    },
    /// Loopback, multicast, reserved or unspecified addresses.
    #[error("{given} is not made of unicast host addresses")]
    NotUnicast {
        /// The network as it was given.
        given: IpNet,
    },
}

impl UserError for PoolError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            PoolError::HostBits { given } => format!("write {}", given.trunc()),
            PoolError::TooSmall { .. } => "use at least a /30, or a /126 for IPv6".to_owned(),
            PoolError::NotUnicast { .. } => {
                "use a private network such as 100.64.0.0/24, 10.0.0.0/16 or fd00::/64".to_owned()
            }
        })
    }
}

impl Pool {
    /// A pool of IPv4 addresses: all but network, gateway and broadcast address.
    pub fn v4(network: Ipv4Net) -> Result<Pool, PoolError> {
        let unicast = |ip: Ipv4Addr| {
            !ip.is_loopback() && !ip.is_multicast() && !ip.is_broadcast() && ip.octets()[0] != 0
        };
        let fit = unicast(network.network())
            && unicast(network.broadcast())
            && network.broadcast().octets()[0] < 240;
        Pool::new(
            network.into(),
            network.trunc() == network,
            network.prefix_len() <= 30,
            fit,
        )
    }

    /// A pool of IPv6 addresses: all but the network's own (the subnet-router anycast) and the gateway's.
    pub fn v6(network: Ipv6Net) -> Result<Pool, PoolError> {
        let first = network.network();
        let fit = !first.is_loopback() && !first.is_multicast() && !first.is_unspecified();
        Pool::new(
            network.into(),
            network.trunc() == network,
            network.prefix_len() <= 126,
            fit,
        )
    }

    fn new(
        given: IpNet,
        truncated: bool,
        large_enough: bool,
        unicast: bool,
    ) -> Result<Pool, PoolError> {
        if !truncated {
            Err(PoolError::HostBits { given })
        } else if !unicast {
            Err(PoolError::NotUnicast { given })
        } else if !large_enough {
            Err(PoolError::TooSmall { given })
        } else {
            Ok(Pool { network: given })
        }
    }

    /// The network.
    pub fn network(&self) -> IpNet {
        self.network
    }

    /// Returns whether the pool may have assigned `address`.
    pub fn gives(&self, address: IpAddr) -> bool {
        self.network.contains(&address)
            && (FIRST_OFFSET..=self.last_offset()).contains(&self.offset(address))
    }

    /// Returns the number of addresses that the pool can assign.
    pub fn capacity(&self) -> u128 {
        self.last_offset() - FIRST_OFFSET + 1
    }

    /// Returns the position of `address` in the network, counted from the network's own address.
    pub fn offset(&self, address: IpAddr) -> u128 {
        number(address).saturating_sub(number(self.network.network()))
    }

    /// The address at `preferred` when it is free, else the lowest that is; `None` when all are taken.
    pub fn allocate(
        &self,
        preferred: Option<u128>,
        taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let offsets = FIRST_OFFSET..=self.last_offset();
        preferred
            .filter(|offset| offsets.contains(offset))
            .into_iter()
            .chain(offsets.clone())
            .map(|offset| self.address(offset))
            .find(|address| !taken(*address))
    }

    fn last_offset(&self) -> u128 {
        let last = self.offset(self.network.broadcast());
        match self.network {
            IpNet::V4(_) => last - 1,
            IpNet::V6(_) => last,
        }
    }

    fn address(&self, offset: u128) -> IpAddr {
        match self.network {
            // An offset inside an IPv4 network has 32 bits.
            IpNet::V4(net) => Ipv4Addr::from_bits(net.network().to_bits() + offset as u32).into(),
            IpNet::V6(net) => Ipv6Addr::from_bits(net.network().to_bits() + offset).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn v4(text: &str) -> Pool {
        Pool::v4(text.parse().unwrap()).unwrap()
    }

    fn v6(text: &str) -> Pool {
        Pool::v6(text.parse().unwrap()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given() {
        let pool = v4("100.64.0.0/24");
        assert_eq!(pool.capacity(), 253);
        assert_eq!(pool.allocate(None, |_| false), Some(ip("100.64.0.2")));
        for reserved in [
            "100.64.0.0",
            "100.64.0.1",
            "100.64.0.255",
            "100.64.1.2",
            "fd00::2",
        ] {
            assert!(!pool.gives(ip(reserved)), "{reserved}");
        }
        assert!(pool.gives(ip("100.64.0.254")));
        let pool = v6("fd00::/64");
        assert_eq!(pool.allocate(None, |_| false), Some(ip("fd00::2")));
        assert!(!pool.gives(ip("fd00::1")));
    }

    #[test]
    fn a_preferred_offset_is_given_when_it_is_free_and_usable() {
        let pool = v6("fd00::/64");
        assert_eq!(pool.allocate(Some(9), |_| false), Some(ip("fd00::9")));
        assert_eq!(
            pool.allocate(Some(9), |it| it == ip("fd00::9")),
            Some(ip("fd00::2"))
        );
        assert_eq!(
            v4("10.0.0.0/30").allocate(Some(3), |_| false),
            Some(ip("10.0.0.2"))
        );
    }

    #[test]
    fn an_exhausted_pool_gives_none() {
        let pool = v4("10.0.0.0/30");
        assert_eq!(pool.allocate(None, |it| it == ip("10.0.0.2")), None);
    }

    #[test]
    fn networks_that_are_no_pool_are_refused() {
        let v4 = |text: &str| Pool::v4(text.parse().unwrap()).unwrap_err();
        let v6 = |text: &str| Pool::v6(text.parse().unwrap()).unwrap_err();
        assert!(matches!(v4("10.0.0.1/24"), PoolError::HostBits { .. }));
        assert!(matches!(v4("10.0.0.0/31"), PoolError::TooSmall { .. }));
        assert!(matches!(v6("fd00::/127"), PoolError::TooSmall { .. }));
        for odd in [
            "127.0.0.0/8",
            "224.0.0.0/4",
            "0.0.0.0/0",
            "0.0.0.0/8",
            "240.0.0.0/8",
        ] {
            assert!(matches!(v4(odd), PoolError::NotUnicast { .. }), "{odd}");
        }
        for odd in ["ff00::/8", "::/0", "::/64"] {
            assert!(matches!(v6(odd), PoolError::NotUnicast { .. }), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn a_pool_gives_each_of_its_addresses_once(prefix in 24_u8..=30, base: [u8; 3]) {
            let network = Ipv4Net::new(Ipv4Addr::new(10, base[0], base[1], base[2]), prefix).unwrap().trunc();
            let pool = Pool::v4(network).unwrap();
            let mut taken = BTreeSet::new();
            while let Some(address) = pool.allocate(None, |it| taken.contains(&it)) {
                prop_assert!(pool.gives(address));
                prop_assert!(taken.insert(address));
            }
            prop_assert_eq!(taken.len() as u128, pool.capacity());
            prop_assert!(!taken.contains(&network.broadcast().into()));
        }
    }
}
