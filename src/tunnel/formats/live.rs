//! Tunnels that are in the kernel, whoever made them.

use super::Unsupported;
use crate::tunnel::spec::{Problem, SpecError, TunnelOptions, TunnelSpec};
use crate::tunnel::state::TunnelState;

/// Returns the options by which gretun would create this tunnel, and the settings that gretun cannot carry over.
///
/// # Errors
/// When gretun makes no such tunnel at all, such as one without a far end.
pub fn spec(state: &TunnelState) -> Result<(TunnelSpec, Vec<Unsupported>), SpecError> {
    let link = &state.link;
    let remote = link.remote.ok_or(SpecError {
        key: "remote",
        problem: Problem::Missing,
    })?;
    let mut options = TunnelOptions {
        name: link.name.clone(),
        alt_name: state.alt_names.first().cloned(),
        mode: link.mode,
        local: link.local,
        remote,
        dev: link.dev.clone(),
        ikey: link.ikey,
        okey: link.okey,
        ttl: link.ttl,
        tos: link.tos,
        pmtudisc: link.pmtudisc,
        encap: link.encap,
        mtu: Some(link.mtu),
        addresses: state.addresses.clone(),
        routes: state.routes.iter().map(|route| route.network).collect(),
        snat: state.snat.clone(),
    };
    let mut unsupported = Vec::from_iter(Unsupported::of_fragments(&mut options, &link.name));
    let spec = TunnelSpec::new(options)?;
    for name in state.alt_names.iter().skip(1) {
        let why = format!("{name}: gretun gives one alternative name");
        unsupported.push(Unsupported::of_tunnel(&spec, "alt-name", why));
    }
    let made = spec.state(link.mtu, String::new());
    for (route, ours) in state.routes.iter().zip(&made.routes) {
        if let Some(via) = route.via.filter(|_| route.via != ours.via) {
            let why = format!("{}: the gateway {via} is left out", route.network);
            unsupported.push(Unsupported::of_tunnel(&spec, "route", why));
        }
    }
    Ok((spec, unsupported))
}
