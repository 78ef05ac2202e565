use super::*;
use crate::applier::desired::tests::desired;

const OWN: NodePublic = NodePublic::from_bytes([1; 32]);
const PEER: NodePublic = NodePublic::from_bytes([2; 32]);

/// The link of a tunnel as the kernel shows it.
fn observed(tunnel: &DesiredTunnel, owner: &OwnerAlias) -> ObservedTunnel {
    ObservedTunnel {
        index: 5,
        state: tunnel.state(owner.to_string(), 1500),
        other_routes: Vec::new(),
        exact: true,
        counters: Default::default(),
    }
}

#[test]
fn a_tunnel_of_this_node_is_adopted_as_it_is() {
    let mut tunnel = desired();
    tunnel.inside.routes = vec!["10.0.0.0/8".parse().unwrap()];
    let own = OwnerAlias::new(OWN, PEER);
    let (peer, adopted) = adopt(&observed(&tunnel, &own), OWN, 7777).unwrap();
    assert_eq!(peer, PEER);
    assert_eq!(adopted.outside.path, tunnel.outside.path);
    assert_eq!(adopted.outside.path_mtu, Some(1500));
    assert_eq!(adopted.outside.gre_key, tunnel.outside.gre_key);
    let state = |it: &DesiredTunnel| it.state(own.to_string(), 1500);
    assert_eq!(
        state(&adopted),
        state(&tunnel),
        "the applier has nothing to do"
    );
}

#[test]
fn other_tunnels_are_not_adopted() {
    let tunnel = desired();
    let own = OwnerAlias::new(OWN, PEER);
    let neighbour = OwnerAlias::new(NodePublic::from_bytes([3; 32]), PEER);
    for (what, owner, port) in [
        ("of another daemon on this host", &neighbour, 7777),
        ("that only receives", &own.clone().of_overlap(), 7777),
        ("of another data port", &own, 7778),
    ] {
        let adopted = adopt(&observed(&tunnel, owner), OWN, port);
        assert_eq!(adopted, None, "{what}");
    }
}
