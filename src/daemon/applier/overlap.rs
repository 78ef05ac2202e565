//! Links that receive over both paths while a tunnel moves from one to the other. A tunnel's own link takes only what comes from its
//! `remote` to its `local`; what comes over the other path meanwhile is taken by a link of that remote, and handed to the tunnel's own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tracing::{debug, warn};

use super::{Applier, ApplyError, DesiredTunnel, receiving_link};
use crate::daemon::owner_alias::OwnerAlias;
use crate::error::chain;
use crate::kernel::lock::Lock;
use crate::kernel::observe::{Links, ObservedTunnel};
use crate::node::Path;
use crate::proto::keys::NodePublic;
use crate::tunnel::name::MAX_LENGTH;
use crate::tunnel::op::KernelOp;
use crate::tunnel::plan;
use crate::tunnel::state::LinkConfig;

/// The links of each peer that are there for a move.
pub(super) type Overlaps<'a> = BTreeMap<NodePublic, Vec<&'a ObservedTunnel>>;

impl Applier {
    /// What there is, of which `mark` says that it is ours.
    pub(super) fn overlaps<'a>(&self, links: &'a Links) -> Overlaps<'a> {
        let mut found = Overlaps::new();
        for tunnel in &links.tunnels {
            let mark = OwnerAlias::of(tunnel).filter(|it| it.is_of(self.own) && it.is_overlap);
            if let Some(mark) = mark {
                found.entry(mark.peer).or_default().push(tunnel);
            }
        }
        found
    }

    /// Makes what is wanted and not there, before the tunnel's own link, of index `tunnel`, is changed. Gives the indices of all. A
    /// move may lose packets without, so it goes on where the kernel refuses.
    pub(super) async fn open_overlap(
        &self,
        wanted: &DesiredTunnel,
        mark: OwnerAlias,
        tunnel: u32,
        (there, links): (&[&ObservedTunnel], &Links),
    ) -> Vec<u32> {
        let mut indices = Vec::new();
        let mut number = 0;
        for remote in remotes(wanted) {
            let same = |it: &&&ObservedTunnel| it.state.link.remote == Some(remote);
            if let Some(link) = there.iter().find(same) {
                indices.push(link.index);
                continue;
            }
            let name = loop {
                number += 1;
                let name = name(&wanted.inside.name, number);
                if !links.indices.contains_key(&name) {
                    break name;
                }
            };
            let link = LinkConfig {
                name,
                ..receiving_link(wanted, mark.to_string(), remote)
            };
            match self.add_overlap(link, links).await {
                Ok(index) => {
                    indices.push(index);
                    self.redirect(index, tunnel).await;
                }
                Err(error) => {
                    warn!(interface = wanted.inside.name, error = %chain(&error), "packets may be lost while the tunnel moves");
                }
            }
        }
        indices
    }

    async fn add_overlap(&self, link: LinkConfig, links: &Links) -> Result<u32, ApplyError> {
        let _lock = Lock::take().await?;
        self.remove_half_made(&link.name, links).await?;
        debug!(interface = link.name, remote = ?link.remote, "receiving over two paths");
        let name = link.name.clone();
        self.kernel.execute(&[KernelOp::AddLink(link)]).await?;
        Ok(self.kernel.link_index(&name)?)
    }

    /// Has packets come in by the tunnel's own link, for the sake of firewalls and reverse-path filters.
    pub(super) async fn redirect(&self, from: u32, tunnel: u32) {
        if let Err(error) = self.kernel.redirect_received(from, tunnel).await {
            debug!(error = %chain(&error), "they come in by a link of their own");
        }
    }

    /// Removes what is not wanted any more.
    pub(super) async fn close_overlap(
        &self,
        wanted: Option<&DesiredTunnel>,
        there: &[&ObservedTunnel],
        others: &[String],
    ) -> Result<(), ApplyError> {
        let wanted = wanted.map(remotes).unwrap_or_default();
        for tunnel in there {
            let remote = tunnel.state.link.remote;
            if !remote.is_some_and(|it| wanted.contains(&it)) {
                debug!(
                    interface = tunnel.state.link.name,
                    "nothing is under way any more"
                );
                let ops = plan::overlay(Some(&tunnel.state), None, others)?;
                self.kernel.execute(&ops).await?;
            }
        }
        Ok(())
    }
}

/// Where packets may come from besides the tunnel's own remote, and from there to another local address. The tunnel's own is among them,
/// for it is the other one a moment later. Ports are nothing to the kernel here.
fn remotes(wanted: &DesiredTunnel) -> Vec<IpAddr> {
    let ends = |path: Path| (path.local, path.remote.ip());
    let other = wanted
        .outside
        .overlap
        .filter(|it| ends(*it) != ends(wanted.outside.path));
    let Some(other) = other else {
        return Vec::new();
    };
    let mut remotes = vec![wanted.outside.path.remote.ip(), other.remote.ip()];
    remotes.dedup();
    remotes
}

/// The tunnel's own name, cut where need be, and a number.
fn name(tunnel: &str, number: u32) -> String {
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
    use crate::daemon::applier::tests::wanted;

    fn path(local: &str, remote: &str) -> Path {
        Path {
            local: local.parse().unwrap(),
            port: 7777,
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn both_remotes_are_received_from_where_they_differ() {
        let own = wanted().outside.path;
        let cases = [
            (None, 0),
            // Another port alone is nothing to GRE.
            (Some(path("192.0.2.1", "198.51.100.7:1")), 0),
            (Some(path("192.0.2.9", "198.51.100.7:1")), 1),
            (Some(path("192.0.2.1", "192.168.1.2:7777")), 2),
            (Some(path("2001:db8::1", "[2001:db8::2]:7777")), 2),
        ];
        for (overlap, expected) in cases {
            let mut wanted = wanted();
            wanted.outside.overlap = overlap;
            let remotes = remotes(&wanted);
            assert_eq!(remotes.len(), expected, "{overlap:?}");
            assert!(expected == 0 || remotes[0] == own.remote.ip());
        }
    }

    #[test]
    fn names_fit() {
        assert_eq!(name("gretun0", 1), "gretun0~1");
        assert_eq!(name("a-name-of-fiftn", 12), "a-name-of-fi~12");
        assert_eq!(name("ééééééé", 1).len(), 14);
    }
}
