//! Whether the router grants the daemon a port, where that would help.

use super::{Finding, Level};
use crate::local_api::DaemonNetView;
use crate::local_api::PortMappingView;

const CHECK: &str = "port-mapping";

/// Nothing where no port is needed, or none was asked for.
pub(super) fn check(daemon: &DaemonNetView) -> Option<Finding> {
    let view = daemon.port_mapping.as_ref()?;
    let gateway = view.gateway?;
    match (view.external, view.protocol) {
        (Some(external), Some(protocol)) if view.behind_another_nat => Some(Finding::new(
            CHECK,
            Level::Note,
            format!(
                "the router grants {external}, which is itself a private address: another NAT is in front of it"
            ),
            format!("{protocol} at {gateway}"),
            "put the router in front into bridge mode, or forward that port in it too",
        )),
        (Some(external), Some(protocol)) => Some(Finding::ok(
            CHECK,
            format!("the router {gateway} grants {external} by {protocol}"),
        )),
        _ if daemon.mapping.is_symmetric() => Some(Finding::new(
            CHECK,
            Level::Note,
            "the NAT is symmetric, and the router grants no port: a peer whose NAT is symmetric too cannot be joined",
            findings(view),
            format!("switch on UPnP IGD, NAT-PMP or PCP in the router ({gateway})"),
        )),
        _ => None,
    }
}

fn findings(view: &PortMappingView) -> String {
    let each = view.protocols.iter();
    let each: Vec<String> = each
        .map(|it| format!("{}: {}", it.protocol, it.finding))
        .collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portmap::Protocol;
    use crate::proto::NatMapping;

    fn found(mapping: NatMapping, external: Option<&str>, behind: bool) -> Option<Finding> {
        let view = PortMappingView {
            gateway: Some("192.168.1.1".parse().unwrap()),
            protocol: external.map(|_| Protocol::Pcp),
            external: external.map(|it| it.parse().unwrap()),
            expires_in_s: Some(7200),
            behind_another_nat: behind,
            protocols: Vec::new(),
        };
        check(&DaemonNetView {
            port: 7777,
            mapping,
            servers: Vec::new(),
            coordinator: String::new(),
            state_dir: "/".into(),
            port_mapping: Some(view),
        })
    }

    #[test]
    fn only_what_would_help_is_noted() {
        let level = |it: Option<Finding>| it.map(|it| it.level);
        let symmetric = NatMapping::AddressAndPortDependent;
        let open = Some("203.0.113.9:7777");
        assert_eq!(level(found(symmetric, open, false)), Some(Level::Ok));
        assert_eq!(
            level(found(symmetric, Some("10.0.0.5:7777"), true)),
            Some(Level::Note)
        );
        assert_eq!(level(found(symmetric, None, false)), Some(Level::Note));
        assert_eq!(level(found(NatMapping::PortIndependent, None, false)), None);
    }
}
