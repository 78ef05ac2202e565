//! What tunnels carry, without any peer's machine: a few peers, their records and tunnels, and a book of what was handed out.

use proptest::prelude::*;

use super::*;
use crate::peer::Path;
use crate::proto::DiscoPublic;

const LAN: &str = "10.1.0.0/24";
const OWN: &str = "10.9.0.0/16";
const POOL: &str = "100.64.0.0/10";

fn key(peer: u8) -> NodePublic {
    NodePublic::from_bytes([peer; 32])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn record(peer: u8, routes: &[&str]) -> PeerRecord {
    PeerRecord {
        name: format!("peer{peer}"),
        node_key: key(peer),
        disco_key: DiscoPublic::from_bytes([peer; 32]),
        tunnel_ips: vec![format!("100.64.0.{peer}").parse().unwrap()],
        endpoints: Vec::new(),
        nat_mapping: crate::proto::NatMapping::Unknown,
        routes: routes.iter().map(|it| net(it)).collect(),
        online: true,
    }
}

fn outside(remote: &str) -> Outside {
    Outside {
        number: 1,
        path: Path {
            local: "192.0.2.1".parse().unwrap(),
            port: 7777,
            remote: format!("{remote}:7777").parse().unwrap(),
        },
        overlap: None,
        path_mtu: None,
        gre_key: 1,
    }
}

/// A network, and the tunnels as last handed out.
struct Bench {
    network: Network,
    records: BTreeMap<u8, PeerRecord>,
    tunnels: BTreeMap<NodePublic, DesiredTunnel>,
    numbers: Option<InterfaceNumbers>,
    handed_out: usize,
}

impl Bench {
    fn new(accept_routes: bool) -> Self {
        let settings = NetworkSettings {
            advertise_routes: vec![net(OWN)],
            accept_routes,
            ..NetworkSettings::default()
        };
        let mut bench = Bench {
            network: Network::new(settings, InterfaceNumbers::default()),
            records: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            numbers: None,
            handed_out: 0,
        };
        let own = vec!["100.64.0.200".parse().unwrap()];
        bench.network.set_own(own, vec![net(POOL)]);
        bench
    }

    /// Peers 1, 2, ... that offer these networks, each with a tunnel to 203.0.113.N.
    fn with_peers(offers: &[&[&str]]) -> Self {
        let mut bench = Bench::new(true);
        for (peer, routes) in (1..).zip(offers) {
            bench.records.insert(peer, record(peer, routes));
        }
        bench.tell_records();
        for (peer, _) in (1..).zip(offers) {
            bench.ask(peer, &format!("203.0.113.{peer}"));
        }
        bench
    }

    fn tell_records(&mut self) {
        self.network.set_records(self.records.values());
        self.tunnels
            .retain(|peer, _| self.network.members.contains_key(peer));
        self.collect();
    }

    fn ask(&mut self, peer: u8, remote: &str) {
        self.network.ask(key(peer), outside(remote));
        self.collect();
    }

    fn verify(&mut self, peer: u8, is_connected: bool) {
        self.network.set_connected(key(peer), is_connected);
        self.collect();
    }

    fn leave(&mut self, peer: u8) {
        self.records.remove(&peer);
        self.tell_records();
    }

    fn collect(&mut self) {
        let mut out = VecDeque::new();
        self.network.update(&mut out);
        for output in out {
            self.handed_out += 1;
            match output {
                Output::SetTunnel { peer, tunnel } => {
                    self.tunnels.insert(peer, tunnel);
                }
                Output::KeepInterfaceNumbers => {
                    self.numbers = Some(self.network.interface_numbers().clone());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn routes(&self, peer: u8) -> &[IpNet] {
        let tunnel = self.tunnels.get(&key(peer));
        tunnel.map_or(&[], |it| &it.inside.routes)
    }

    fn carriers(&self, network: IpNet) -> Vec<u8> {
        let peers = self.records.keys().copied();
        peers
            .filter(|it| self.routes(*it).contains(&network))
            .collect()
    }

    fn refusal(&self, peer: u8, network: &str) -> Option<RouteRefusal> {
        let offers = self.network.offers(key(peer)).iter();
        let mut offers = offers.filter(|it| it.network == net(network));
        offers.next().expect("the peer offers it").refusal
    }
}

#[test]
fn what_a_peer_offers_is_routed_into_its_tunnel() {
    let bench = Bench::with_peers(&[&[LAN, "2001:db8:1::/48"]]);
    assert_eq!(bench.routes(1), [net(LAN), net("2001:db8:1::/48")]);
    assert_eq!(bench.refusal(1, LAN), None);
    let inside = &bench.tunnels[&key(1)].inside;
    assert_eq!(
        (&inside.name[..], &inside.alt_name[..]),
        ("gretun0", "peer1")
    );
    assert_eq!(inside.own_ips, ["100.64.0.200".parse::<IpAddr>().unwrap()]);
    assert_eq!(inside.peer_ips, ["100.64.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn nothing_is_routed_without_accept_routes() {
    let mut bench = Bench::new(false);
    bench.records.insert(1, record(1, &[LAN]));
    bench.tell_records();
    bench.ask(1, "203.0.113.1");
    assert!(bench.routes(1).is_empty());
    assert_eq!(bench.refusal(1, LAN), Some(RouteRefusal::NotAccepted));
}

#[test]
fn no_peer_takes_all_traffic_or_a_range_of_the_host() {
    use RouteRefusal::{Advertised, DefaultRoute, LinkLocal, Loopback, Multicast, Overlay};
    let refused = [
        ("0.0.0.0/0", DefaultRoute),
        ("::/0", DefaultRoute),
        ("127.0.0.0/8", Loopback),
        ("127.8.0.0/16", Loopback),
        ("0.0.0.0/1", Loopback),
        ("::1/128", Loopback),
        ("169.254.169.254/32", LinkLocal),
        ("fe80::/64", LinkLocal),
        ("224.0.0.0/4", Multicast),
        ("192.0.0.0/2", Multicast),
        ("ff02::/16", Multicast),
        // The pool, a part of it, and a network around it.
        (POOL, Overlay),
        ("100.64.0.1/32", Overlay),
        ("100.64.0.0/9", Overlay),
        // What this host offers itself.
        (OWN, Advertised),
        ("10.9.3.0/24", Advertised),
        ("10.8.0.0/15", Advertised),
    ];
    let offered: Vec<&str> = refused.iter().map(|(it, _)| *it).collect();
    let bench = Bench::with_peers(&[&offered]);
    assert!(bench.routes(1).is_empty(), "{:?}", bench.routes(1));
    for (network, reason) in refused {
        let network = net(network).trunc().to_string();
        assert_eq!(bench.refusal(1, &network), Some(reason), "{network}");
    }
}

#[test]
fn an_overlay_address_outside_every_pool_is_refused_too() {
    let mut bench = Bench::with_peers(&[&["192.168.7.0/24"], &[]]);
    assert_eq!(bench.refusal(1, "192.168.7.0/24"), None);
    let other = bench.records.get_mut(&2).unwrap();
    other.tunnel_ips = vec!["192.168.7.9".parse().unwrap()];
    bench.tell_records();
    assert!(bench.routes(1).is_empty());
    let refusal = bench.refusal(1, "192.168.7.0/24");
    assert_eq!(refusal, Some(RouteRefusal::Overlay));
}

#[test]
fn a_network_that_the_outer_packets_go_to_is_not_routed_into_the_tunnel() {
    let mut bench = Bench::with_peers(&[&["203.0.113.0/24", LAN]]);
    assert_eq!(bench.routes(1), [net(LAN)]);
    let refusal = bench.refusal(1, "203.0.113.0/24");
    assert_eq!(refusal, Some(RouteRefusal::ContainsEndpoint));
    bench.ask(1, "198.51.100.1");
    assert_eq!(bench.routes(1), [net(LAN), net("203.0.113.0/24")]);
    // During a path switch the peer's data may come from both ends.
    let overlap = Outside {
        overlap: Some(outside("10.1.0.7").path),
        ..outside("198.51.100.1")
    };
    bench.network.ask(key(1), overlap);
    bench.collect();
    assert_eq!(bench.routes(1), [net("203.0.113.0/24")]);
}

#[test]
fn host_bits_are_cut_off_and_a_network_is_routed_once() {
    let bench = Bench::with_peers(&[&["10.1.0.7/24", LAN]]);
    assert_eq!(bench.routes(1), [net(LAN)]);
    assert_eq!(bench.network.offers(key(1)).len(), 1);
}

#[test]
fn of_two_peers_with_one_network_the_lower_key_carries_it() {
    let bench = Bench::with_peers(&[&[LAN], &[LAN]]);
    assert_eq!(bench.carriers(net(LAN)), [1]);
    assert_eq!(bench.refusal(2, LAN), Some(RouteRefusal::CarriedBy(key(1))));
}

#[test]
fn a_verified_tunnel_carries_the_network_and_keeps_it() {
    let mut bench = Bench::with_peers(&[&[LAN], &[LAN], &[LAN]]);
    bench.verify(2, true);
    assert_eq!(bench.carriers(net(LAN)), [2]);
    bench.verify(1, true);
    assert_eq!(
        bench.carriers(net(LAN)),
        [2],
        "both work: no reason to move"
    );
    bench.verify(2, false);
    assert_eq!(bench.carriers(net(LAN)), [1]);
    bench.verify(2, true);
    assert_eq!(bench.carriers(net(LAN)), [1]);
    bench.verify(1, false);
    bench.verify(2, false);
    assert_eq!(bench.carriers(net(LAN)), [2], "the last that worked");
}

#[test]
fn the_network_of_a_peer_that_leaves_goes_to_another_at_once() {
    let mut bench = Bench::with_peers(&[&[LAN], &[LAN]]);
    bench.leave(1);
    assert_eq!(bench.carriers(net(LAN)), [2]);
    // The same when the carrier only withdraws its offer.
    let mut bench = Bench::with_peers(&[&[LAN], &[LAN]]);
    bench.records.insert(1, record(1, &[]));
    bench.tell_records();
    assert_eq!(bench.carriers(net(LAN)), [2]);
}

#[test]
fn a_peer_without_a_tunnel_carries_nothing() {
    let mut bench = Bench::new(true);
    bench.records.insert(1, record(1, &[LAN]));
    bench.records.insert(2, record(2, &[LAN]));
    bench.tell_records();
    assert_eq!(bench.refusal(1, LAN), Some(RouteRefusal::NoTunnel));
    bench.ask(2, "203.0.113.2");
    assert_eq!(bench.carriers(net(LAN)), [2]);
}

#[test]
fn a_tunnel_found_at_start_stays_as_it_is_until_its_peer_is_known() {
    let mut bench = Bench::new(true);
    let inside = Inside {
        name: "gretun7".to_owned(),
        alt_name: "bob".to_owned(),
        own_ips: vec!["100.64.0.99".parse().unwrap()],
        peer_ips: vec!["100.64.0.2".parse().unwrap()],
        routes: vec![net(LAN)],
        snat: vec![net(OWN)],
    };
    let found = DesiredTunnel {
        outside: outside("203.0.113.2"),
        inside,
    };
    bench.network.adopt(key(2), found.clone());
    bench.collect();
    assert_eq!(bench.tunnels[&key(2)], found);
    // It goes on carrying the network, though another peer has the lower key.
    bench.records.insert(1, record(1, &[LAN]));
    bench.records.insert(2, record(2, &[LAN]));
    bench.tell_records();
    bench.ask(1, "203.0.113.1");
    assert_eq!(bench.carriers(net(LAN)), [2]);
    let inside = &bench.tunnels[&key(2)].inside;
    assert_eq!(
        (&inside.name[..], &inside.alt_name[..]),
        ("gretun7", "peer2")
    );
    assert_eq!(inside.own_ips, ["100.64.0.200".parse::<IpAddr>().unwrap()]);
    assert!(inside.snat.is_empty());
}

#[test]
fn interface_numbers_are_kept_and_used_again() {
    let mut bench = Bench::with_peers(&[&[], &[]]);
    let name = |bench: &Bench, peer| bench.tunnels[&key(peer)].inside.name.clone();
    assert_eq!(
        (name(&bench, 1), name(&bench, 2)),
        ("gretun0".into(), "gretun1".into())
    );
    bench.leave(1);
    bench.records.insert(3, record(3, &[]));
    bench.tell_records();
    bench.ask(3, "203.0.113.3");
    assert_eq!(
        (name(&bench, 3), name(&bench, 2)),
        ("gretun0".into(), "gretun1".into())
    );
    let mut kept = bench.numbers.clone().expect("they are to be kept");
    assert_eq!((kept.number(key(2)), kept.number(key(3))), (1, 0));
    // A link that was found keeps its number, unless somebody has it.
    kept.keep(key(4), 1);
    kept.keep(key(5), 9);
    assert_eq!((kept.number(key(4)), kept.number(key(5))), (2, 9));
}

#[test]
fn a_tunnel_is_handed_out_when_asked_for_and_when_it_carries_something_else() {
    let mut bench = Bench::with_peers(&[&[LAN]]);
    let before = bench.handed_out;
    bench.tell_records();
    bench.verify(1, true);
    assert_eq!(bench.handed_out, before);
    bench.ask(1, "203.0.113.1");
    assert_eq!(bench.handed_out, before + 1, "asked for again");
    bench.records.get_mut(&1).unwrap().name = "renamed".to_owned();
    bench.tell_records();
    assert_eq!(bench.handed_out, before + 2);
    assert_eq!(bench.tunnels[&key(1)].inside.alt_name, "renamed");
}

#[test]
fn the_template_makes_names() {
    let template: IfaceTemplate = "ov%d".parse().unwrap();
    assert_eq!(template.name(12), "ov12");
    assert_eq!(template.number("ov12"), Some(12));
    assert_eq!(template.number("eth0"), None);
}

/// One thing that happens to the network.
#[derive(Clone, Debug)]
enum Step {
    Record(u8, Vec<usize>),
    Leave(u8),
    Ask(u8, u8),
    Verify(u8, bool),
}

/// Networks that peers offer: acceptable ones with and without host bits, one with the tunnels' remotes, refused ones.
const OFFERED: [&str; 8] = [
    LAN,
    "10.1.0.9/24",
    "10.1.0.0/16",
    "203.0.113.0/28",
    "203.0.113.8/29",
    "2001:db8::/32",
    "0.0.0.0/0",
    "10.9.1.0/24",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = || 1..5_u8;
    let offers = proptest::collection::vec(0..OFFERED.len(), 0..5);
    let step = prop_oneof![
        3 => (peer(), offers).prop_map(|(peer, offers)| Step::Record(peer, offers)),
        1 => peer().prop_map(Step::Leave),
        3 => (peer(), 0..16_u8).prop_map(|(peer, remote)| Step::Ask(peer, remote)),
        3 => (peer(), any::<bool>()).prop_map(|(peer, it)| Step::Verify(peer, it)),
    ];
    proptest::collection::vec(step, 1..40)
}

impl Bench {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Record(peer, offers) => {
                let offers: Vec<&str> = offers.iter().map(|it| OFFERED[*it]).collect();
                self.records.insert(*peer, record(*peer, &offers));
                self.tell_records();
            }
            Step::Leave(peer) => self.leave(*peer),
            Step::Ask(peer, remote) => self.ask(*peer, &format!("203.0.113.{remote}")),
            Step::Verify(peer, is_connected) => self.verify(*peer, *is_connected),
        }
    }

    /// The peers that could carry `network`, by the rules and apart from the code under test.
    fn could_carry(&self, network: IpNet) -> Vec<u8> {
        let acceptable = network.prefix_len() > 0 && !net(OWN).contains(&network);
        let could = self.records.iter().filter(|(peer, record)| {
            let offers = record.routes.iter().any(|it| it.trunc() == network);
            let member = &self.network.members[&key(**peer)];
            let remote = member.outside.map(|it| it.path.remote.ip());
            acceptable && offers && remote.is_some_and(|it| !network.contains(&it))
        });
        could.map(|(peer, _)| *peer).collect()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let networks: BTreeSet<IpNet> = OFFERED.iter().map(|it| net(it).trunc()).collect();
        for network in networks {
            let could = self.could_carry(network);
            let carriers = self.carriers(network);
            prop_assert_eq!(
                carriers.len(),
                could.len().min(1),
                "{}: {:?}",
                network,
                could
            );
            let verified = |peer: &u8| self.network.members[&key(*peer)].is_connected;
            for carrier in carriers {
                prop_assert!(could.contains(&carrier), "{} by {}", network, carrier);
                prop_assert!(
                    verified(&carrier) || !could.iter().any(verified),
                    "{} by {}, which is not verified",
                    network,
                    carrier
                );
            }
        }
        for (peer, tunnel) in &self.tunnels {
            for route in &tunnel.inside.routes {
                let remote = tunnel.outside.path.remote.ip();
                prop_assert!(!route.contains(&remote), "{} takes {}", peer, route);
                prop_assert_eq!(*route, route.trunc());
            }
            let offers = self.network.offers(*peer).iter();
            let taken = offers
                .filter(|it| it.refusal.is_none())
                .map(|it| it.network);
            prop_assert_eq!(&tunnel.inside.routes, &taken.collect::<Vec<_>>());
        }
        Ok(())
    }
}

proptest! {
    /// Whatever happens: each acceptable network has one carrier, a verified one if there is any, and no tunnel's outer packets
    /// are routed into it.
    #[test]
    fn every_acceptable_network_has_one_carrier(steps in steps()) {
        let mut bench = Bench::new(true);
        for step in &steps {
            bench.step(step);
            bench.check()?;
            // Nothing new: nothing to do.
            let before = bench.handed_out;
            bench.tell_records();
            bench.collect();
            prop_assert_eq!(bench.handed_out, before);
        }
    }

    /// A network that learns everything at once comes to the same, except that it knows no carriers of before.
    #[test]
    fn the_order_of_news_does_not_matter(steps in steps()) {
        let mut bench = Bench::new(true);
        for step in &steps {
            bench.step(step);
        }
        let mut at_once = Bench::new(true);
        at_once.records = bench.records.clone();
        let mut reversed = Bench::new(true);
        reversed.records = bench.records.clone();
        let members: Vec<_> = bench.network.members.iter().collect();
        for (other, backwards) in [(&mut at_once, false), (&mut reversed, true)] {
            let mut members = members.clone();
            let mut records: Vec<&PeerRecord> = bench.records.values().collect();
            if backwards {
                members.reverse();
                records.reverse();
            }
            other.network.carriers = bench.network.carriers.clone();
            other.network.set_records(records.into_iter());
            for (peer, member) in members {
                other.network.set_connected(*peer, member.is_connected);
                if let Some(outside) = member.outside {
                    other.network.ask(*peer, outside);
                }
            }
            other.collect();
        }
        let routes = |bench: &Bench| -> Vec<(NodePublic, Vec<IpNet>)> {
            let tunnels = bench.tunnels.iter();
            tunnels.map(|(peer, it)| (*peer, it.inside.routes.clone())).collect()
        };
        prop_assert_eq!(routes(&at_once), routes(&reversed));
        prop_assert_eq!(routes(&at_once), routes(&bench));
    }
}
