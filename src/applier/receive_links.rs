//! Links that receive over both paths while a tunnel moves from one path to the other (make before break, RFC 3753 section 4.3).
//! A tunnel's own link takes only packets from its `remote` to its `local`. Packets over the other path meanwhile are taken by a
//! link of that remote, and handed to the tunnel's own link.

use std::net::IpAddr;

use crate::node::{DesiredTunnel, Path};
use crate::tunnel::name::MAX_LENGTH;

/// The remotes that need a receiving link. Besides the other path's remote, the tunnel's own remote is among them: its own link
/// takes another remote's packets a moment later. A link that would have the same ends as the tunnel's own is never among
/// them, because the kernel has one link for each pair of ends and key. GRE has no ports.
pub(super) fn remotes(desired: &DesiredTunnel) -> Vec<IpAddr> {
    let ends = |path: Path| (path.local, path.remote.ip());
    let other = desired
        .outside
        .overlap
        .filter(|it| ends(*it) != ends(desired.outside.path));
    let Some(other) = other else {
        return Vec::new();
    };
    let own = desired.outside.path.remote.ip();
    let mut remotes = vec![own, other.remote.ip()];
    remotes.dedup();
    if desired.outside.path.local.is_unspecified() {
        remotes.retain(|it| *it != own);
    }
    remotes
}

/// The first name for a receiving link that is not taken: the tunnel's own, cut where need be, and a number.
pub(super) fn free_name(tunnel: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut names = (1..).map(|number: u32| numbered(tunnel, number));
    let free = names.find(|name| !is_taken(name));
    free.unwrap_or_else(|| numbered(tunnel, 0))
}

fn numbered(tunnel: &str, number: u32) -> String {
    let number = format!("~{number}");
    let mut name = tunnel.to_owned();
    while name.len() + number.len() > MAX_LENGTH {
        name.pop();
    }
    name + &number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applier::desired::tests::desired;

    fn path(local: &str, remote: &str) -> Path {
        Path {
            local: local.parse().unwrap(),
            port: 7777,
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn both_remotes_are_received_from_where_they_differ() {
        let own = desired().outside.path;
        let cases = [
            (None, 0),
            // Another port alone is nothing to GRE.
            (Some(path("192.0.2.1", "198.51.100.7:1")), 0),
            (Some(path("192.0.2.9", "198.51.100.7:1")), 1),
            (Some(path("192.0.2.1", "192.168.1.2:7777")), 2),
            (Some(path("2001:db8::1", "[2001:db8::2]:7777")), 2),
        ];
        for (overlap, expected) in cases {
            let mut desired = desired();
            desired.outside.overlap = overlap;
            let remotes = remotes(&desired);
            assert_eq!(remotes.len(), expected, "{overlap:?}");
            assert!(expected == 0 || remotes[0] == own.remote.ip());
        }
    }

    #[test]
    fn a_tunnel_from_any_address_needs_no_link_for_its_own_remote() {
        let without_local = |overlap| {
            let mut desired = desired();
            desired.outside.path = path("0.0.0.0", "198.51.100.7:1");
            desired.outside.overlap = Some(overlap);
            desired
        };
        let same = without_local(path("192.0.2.1", "198.51.100.7:1"));
        assert_eq!(remotes(&same), [] as [IpAddr; 0]);
        let other = without_local(path("192.0.2.1", "203.0.113.9:1"));
        assert_eq!(remotes(&other), ["203.0.113.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn names_fit() {
        let none = |_: &str| false;
        assert_eq!(free_name("gretun0", none), "gretun0~1");
        assert_eq!(
            free_name("gretun0", |name| name == "gretun0~1"),
            "gretun0~2"
        );
        assert_eq!(numbered("a-name-of-fiftn", 12), "a-name-of-fi~12");
        assert_eq!(numbered("ééééééé", 1).len(), 14);
    }
}
