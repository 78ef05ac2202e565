//! Whether the links of the overlay let in their peers alone.

use super::{Finding, Level};
use crate::kernel::tunnel::dump::Links;
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::owner::Owner;
use crate::tunnel::sources::Sources;

const CHECK: &str = "sources";

/// Asks the kernel; `None` where there is no link of the overlay.
pub(super) fn check(kernel: &Kernel) -> Option<Finding> {
    let links = kernel.links_without_routes().ok()?;
    judge(&links, kernel.sources())
}

fn judge(links: &Links, sources: Result<Sources, KernelError>) -> Option<Finding> {
    let overlay = links.tunnels.iter().map(|it| &it.state);
    let overlay: Vec<_> = overlay.filter(|it| it.owner() == Owner::Overlay).collect();
    if overlay.is_empty() {
        return None;
    }
    let evidence = match &sources {
        Ok(sources) if sources.is_empty() => {
            "the table inet gretun has no rules for it: something flushed nftables' ruleset"
                .to_owned()
        }
        Ok(_) => {
            let open = overlay.iter().map(|it| &it.link);
            let open = open.filter(|it| !it.checks_sources);
            let open: Vec<&str> = open.map(|it| it.name.as_str()).collect();
            if open.is_empty() {
                let what = "peers can send by their tunnels only from their own addresses";
                return Some(Finding::ok(CHECK, what));
            }
            format!(
                "not in the device group of the overlay: {}",
                open.join(", ")
            )
        }
        Err(error) => error.to_string(),
    };
    Some(Finding::new(
        CHECK,
        Level::Problem,
        "a peer can send by its tunnel from any address, also from another peer's",
        evidence,
        "start the daemon, which mends it within a second: systemctl restart gretun-peer",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tunnel::dump::{Counters, ObservedTunnel};
    use crate::tunnel::mode::Mode;
    use crate::tunnel::spec::{TunnelOptions, TunnelSpec};
    use crate::tunnel::state::TunnelState;

    fn link(alias: &str, checks_sources: bool) -> ObservedTunnel {
        let options = TunnelOptions::new("gretun0", Mode::Gre, "192.0.2.2".parse().unwrap());
        let spec = TunnelSpec::new(options).unwrap();
        let mut state: TunnelState = spec.state(1476, alias.to_owned());
        state.link.checks_sources = checks_sources;
        ObservedTunnel {
            index: 1,
            state,
            other_routes: Vec::new(),
            exact: true,
            counters: Counters::default(),
        }
    }

    #[test]
    fn an_open_link_and_missing_rules_are_problems_and_no_link_is_none() {
        let alias = format!("gretun overlay {} {}", "1".repeat(16), "2".repeat(64));
        let level = |links: Vec<ObservedTunnel>, let_in: &[&str]| {
            let links = Links {
                tunnels: links,
                ..Links::default()
            };
            let networks = let_in.iter().map(|it| it.parse().unwrap()).collect();
            let sources = Sources::from([("gretun0".to_owned(), networks)]);
            let sources = sources.into_iter().filter(|_| !let_in.is_empty()).collect();
            judge(&links, Ok(sources)).map(|it| it.level)
        };
        let own = &["100.64.0.2/32"][..];
        assert_eq!(level(vec![link(&alias, true)], own), Some(Level::Ok));
        assert_eq!(level(vec![link(&alias, true)], &[]), Some(Level::Problem));
        assert_eq!(level(vec![link(&alias, false)], own), Some(Level::Problem));
        assert_eq!(level(vec![link("gretun static a", false)], own), None);
        assert_eq!(level(vec![], own), None);
    }
}
