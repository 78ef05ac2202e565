//! gretun's own file.

use std::collections::BTreeMap;

use super::{Exported, FormatError, Imported, OutFile, Source, Unsupported};
use crate::tunnel::file::TunnelFile;
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::spec::TunnelSpec;
use crate::tunnel::state::TunnelAddress;
use crate::tunnel::tunnel_flags::{Text, TunnelTable};

pub(super) fn read(sources: &[Source]) -> Result<Imported, FormatError> {
    let mut imported = Imported::default();
    for source in sources {
        let own = |error| FormatError::Own {
            file: source.name.clone(),
            error,
        };
        let file = TunnelFile::parse(&source.text).map_err(own)?;
        imported.specs.extend(file.specs().map_err(own)?);
    }
    Ok(imported)
}

pub(super) fn write(specs: &[TunnelSpec]) -> Result<Exported, FormatError> {
    let (file, unsupported) = file(specs);
    let text = ::toml::to_string(&file)?;
    let name = "tunnels.toml".to_owned();
    let files = vec![OutFile { name, text }];
    Ok(Exported { files, unsupported })
}

/// Returns the file that describes these tunnels, and the settings that it cannot express.
pub fn file(specs: &[TunnelSpec]) -> (TunnelFile, Vec<Unsupported>) {
    let mut unsupported = Vec::new();
    let mut tunnels = BTreeMap::new();
    for spec in specs {
        let (table, lost) = table(spec);
        tunnels.insert(spec.name.clone(), table);
        unsupported.extend(lost);
    }
    (TunnelFile { set: None, tunnels }, unsupported)
}

/// Returns the table of a tunnel with the settings that differ from the defaults. Lists the settings that no key can express.
pub fn table(spec: &TunnelSpec) -> (TunnelTable, Vec<Unsupported>) {
    let mut unsupported = Vec::new();
    let text = |value: &dyn ToString| Some(Text(value.to_string()));
    let mut table = TunnelTable {
        local: spec.local.map(|ip| ip.to_string()),
        remote: Some(spec.remote.to_string()),
        mode: Some(spec.mode.to_string()),
        dev: spec.dev.clone(),
        mtu: spec.mtu.and_then(|mtu| text(&mtu)),
        route: spec.routes.iter().map(ToString::to_string).collect(),
        snat: spec.snat.iter().map(ToString::to_string).collect(),
        pmtudisc: (!spec.pmtudisc).then_some(false),
        ..TunnelTable::default()
    };
    if spec.ikey == spec.okey {
        table.key = spec.ikey.and_then(|key| text(&key));
    } else {
        table.ikey = spec.ikey.and_then(|key| text(&key));
        table.okey = spec.okey.and_then(|key| text(&key));
    }
    if spec.ttl != InheritOrFixed::TTL {
        table.ttl = text(&spec.ttl);
    }
    if spec.tos != InheritOrFixed::TOS {
        table.tos = text(&spec.tos);
    }
    if let Some(udp) = spec.encap.udp() {
        table.encap = Some(spec.encap.name().to_owned());
        table.encap_sport = (udp.sport != 0).then(|| Text(udp.sport.to_string()));
        table.encap_dport = text(&udp.dport);
        table.encap_csum = (!udp.csum).then_some(false);
    }
    // A far end goes with the first address of its version that has none yet: those with a far end come first.
    let mut addresses = spec.addresses.clone();
    addresses.sort_by_key(|address| address.peer.is_none());
    let reordered = |v4: bool| {
        let of = |list: &[TunnelAddress]| -> Vec<_> {
            let list = list.iter().map(|address| address.net);
            list.filter(|net| net.addr().is_ipv4() == v4).collect()
        };
        of(&addresses) != of(&spec.addresses)
    };
    if reordered(true) || reordered(false) {
        let why = "the addresses with a far end come first now, and are the preferred sources";
        unsupported.push(Unsupported::of_tunnel(spec, "tunnel-ip", why));
    }
    table.tunnel_ip = addresses
        .iter()
        .map(|address| address.net.to_string())
        .collect();
    let peers = addresses.iter().filter_map(|address| address.peer);
    table.peer_ip = peers.map(|peer| peer.to_string()).collect();
    if spec.alt_name.is_some() {
        let why = "a file has no alternative names";
        unsupported.push(Unsupported::of_tunnel(spec, "alt-name", why));
    }
    (table, unsupported)
}
