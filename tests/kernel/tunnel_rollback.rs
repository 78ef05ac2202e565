//! A failure at any step of a plan leaves the kernel as it was before.

use std::cell::Cell;
use std::net::UdpSocket;

use gretun::kernel::tunnel::transaction::{Backend, StepError, execute};
use gretun::kernel::{Kernel, KernelError};
use gretun::tunnel::encap::Encap;
use gretun::tunnel::header_fields::InheritOrFixed;
use gretun::tunnel::mode::{Family, Mode};
use gretun::tunnel::op::{KernelOp, Stage};
use gretun::tunnel::plan;
use gretun::tunnel::spec::TunnelOptions;
use gretun::tunnel::state::{Observed, TunnelState};

use ipnet::IpNet;

use crate::lab::in_own_thread;
use crate::tunnel_lab::{Node, difference, encaps, inner, is_able, options, sort, state};

const SET: &str = "test";

/// The fate of the other operations of a stage when one fails: all are on their way to the kernel already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    /// They are all done.
    Done,
    /// The operations behind the failed one are refused as well.
    DoneBefore,
}

impl Others {
    const BOTH: [Others; 2] = [Others::Done, Others::DoneBefore];
}

/// The kernel, but for one operation that fails. Steps back are left to the kernel.
struct Failing<'a> {
    kernel: &'a Kernel,
    at: usize,
    others: Others,
    seen: Cell<usize>,
}

impl Backend for Failing<'_> {
    fn apply(&self, ops: &[KernelOp]) -> Vec<Result<(), KernelError>> {
        let first = self.seen.get();
        self.seen.set(first + ops.len());
        let Some(here) = self.at.checked_sub(first).filter(|here| *here < ops.len()) else {
            return self.kernel.apply(ops);
        };
        // No step back is counted as the one to fail.
        self.seen.set(usize::MAX / 2);
        let is_done = |i: usize| i < here || (i > here && self.others == Others::Done);
        let done: Vec<_> = (0..ops.len()).filter(|&i| is_done(i)).collect();
        let to_do: Vec<_> = done.iter().map(|&i| ops[i].clone()).collect();
        let mut outcomes: Vec<_> = ops.iter().map(|op| Err(refusal(op))).collect();
        for (i, outcome) in done.into_iter().zip(self.kernel.apply(&to_do)) {
            outcomes[i] = outcome;
        }
        outcomes
    }
}

fn refusal(op: &KernelOp) -> KernelError {
    KernelError::Netlink {
        operation: op.to_string(),
        reason: "refused for a test".to_owned(),
    }
}

/// Everything that can be seen of the tunnels of a host, in an order of its own.
async fn view(node: &Node, with_snat: bool) -> (Vec<TunnelState>, Vec<String>) {
    node.host.enter();
    let mut links = node.kernel.links().unwrap();
    if with_snat {
        node.kernel.add_snat(&mut links);
    }
    assert!(links.half_made.is_empty(), "{:?}", links.half_made);
    let mut tunnels: Vec<_> = links
        .tunnels
        .into_iter()
        .inspect(|tunnel| assert!(tunnel.state.link.up && tunnel.exact, "{tunnel:?}"))
        .map(|tunnel| tunnel.state)
        .collect();
    sort(&mut tunnels);
    let mut remains = node.remains().await;
    remains.sort();
    (tunnels, remains)
}

/// A tunnel with something of everything.
fn rich(mode: Mode, encap: Encap, with_snat: bool) -> TunnelOptions {
    let mut tunnel = options(mode, encap, 1);
    tunnel.alt_name = Some("another-name-of-t0".to_owned());
    for family in inner(mode) {
        let network: IpNet = match family {
            Family::V4 => "10.77.0.0/16".parse().unwrap(),
            Family::V6 => "fd77::/64".parse().unwrap(),
        };
        tunnel.routes.push(network);
        tunnel.snat.extend(with_snat.then_some(network));
    }
    tunnel
}

/// A second version of the tunnel, with every kind of setting changed that can be changed in place.
fn changed(mut tunnel: TunnelOptions) -> TunnelOptions {
    tunnel.ttl = InheritOrFixed::Fixed(9);
    tunnel.tos = InheritOrFixed::Inherit;
    tunnel.alt_name = Some("yet-another-name".to_owned());
    if let Encap::Fou(udp) | Encap::Gue(udp) = &mut tunnel.encap {
        udp.dport += 1;
    }
    for address in &mut tunnel.addresses {
        let other = match Family::of_net(address.net) {
            Family::V4 => "10.254.0.1/30",
            Family::V6 => "fd00:254::1/64",
        };
        address.net = other.parse().unwrap();
    }
    tunnel.routes.remove(0);
    tunnel.snat.drain(..tunnel.snat.len() / 2);
    tunnel
}

/// A device of another kind, which cannot be had by changing this one.
fn of_other_kind(mode: Mode) -> Mode {
    let place = Mode::ALL.iter().position(|other| *other == mode).unwrap();
    Mode::ALL[(place + 1) % Mode::ALL.len()]
}

#[test]
fn whichever_step_fails_everything_is_as_before() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let (node, _far) = Node::pair().await;
        let mut steps = 0;
        for mode in Mode::ALL {
            for encap in encaps() {
                let full = state(rich(mode, encap, false));
                let other = state(changed(rich(mode, encap, false)));
                let remade = state(rich(of_other_kind(mode), encap, false));
                // Every kind is made and removed in each encapsulation. The rest of a way is the same in all three, and
                // what becomes of the other operations of a stage does not depend on any.
                let (ways, others) = match encap {
                    Encap::None => (vec![full, remade], &Others::BOTH[..]),
                    Encap::Fou(_) => (vec![full, other], &[Others::Done][..]),
                    Encap::Gue(_) => (vec![full], &[Others::Done][..]),
                };
                for to in &ways {
                    steps += fail_steps(&node, std::slice::from_ref(to), others, None).await;
                }
                steps += fail_steps(&node, &[], others, None).await;
            }
        }
        println!("{steps} failures");
        assert!(steps > 300, "{steps}");
        assert_eq!(node.host.run("nft list ruleset"), "");
    });
}

#[test]
fn whichever_step_of_address_translation_fails_everything_is_as_before() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let (node, _far) = Node::pair().await;
        let full = rich(Mode::Gre, Encap::None, true);
        let other = changed(full.clone());
        let mut steps = 0;
        for to in [&[state(full)][..], &[state(other)], &[]] {
            steps += fail_steps(&node, to, &Others::BOTH, Some(Stage::Snat)).await;
        }
        println!("{steps} failures");
        assert!(steps >= 5, "{steps}");
        assert_eq!(node.host.run("nft list ruleset"), "");
    });
}

/// Fails each step, or each of one stage, on the way to these tunnels, then takes the way.
async fn fail_steps(
    node: &Node,
    to: &[TunnelState],
    others: &[Others],
    stage: Option<Stage>,
) -> usize {
    let with_snat = stage == Some(Stage::Snat);
    let before = view(node, with_snat).await;
    let observed = observe(node, with_snat).await;
    let ops = plan::apply(to, &observed, SET).unwrap();
    let mut failures = 0;
    for at in (0..ops.len()).filter(|&at| stage.is_none_or(|stage| ops[at].stage() == stage)) {
        for &others in others {
            let is_last_of_stage = ops
                .get(at + 1)
                .is_none_or(|next| next.stage() != ops[at].stage());
            if others == Others::DoneBefore && is_last_of_stage {
                continue;
            }
            let backend = Failing {
                kernel: &node.kernel,
                at,
                others,
                seen: Cell::new(0),
            };
            let error = execute(&backend, &ops).unwrap_err();
            failures += 1;
            let what = format!("{} failed, others {others:?}, of {ops:#?}", ops[at]);
            assert_eq!((error.index, &*error.step), (at, &*ops[at].to_string()));
            assert!(error.left.is_empty(), "{what}: {error}");
            let after = view(node, with_snat).await;
            assert_eq!(after.0, before.0, "{what}");
            let left = difference(&before.1, &after.1);
            assert!(
                left.iter().all(|line| is_of_new_device(line)),
                "{what}: {left:#?}"
            );
        }
    }
    assert!(failures > 0, "{ops:#?}");
    node.execute(&ops).await.unwrap();
    let observed = observe(node, with_snat).await;
    assert_eq!(plan::apply(to, &observed, SET).unwrap(), []);
    failures
}

/// Returns gretun's view of this node. Address translation is read only if there is some, because it needs a program.
async fn observe(node: &Node, with_snat: bool) -> Observed {
    match with_snat {
        true => node.observe_all().await,
        false => node.observe().await,
    }
}

/// An Ethernet device that was removed and made again has another hardware address, and with it another link-local one.
fn is_of_new_device(line: &str) -> bool {
    line.contains(" fe80")
}

/// Refusals of the kernel itself: everything that another program can have done between the dump and the change.
#[test]
fn whatever_the_kernel_refuses_leaves_nothing() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let (node, _far) = Node::pair().await;
        node.host.run(
            "ip link add taken0 type dummy; ip link property add dev taken0 altname taken-name
             ip route add 10.88.0.0/16 dev eth0; ip -6 route add fd88::/64 dev eth0",
        );
        // For both IP versions.
        node.host.enter();
        let _taken = UdpSocket::bind(("::", TAKEN_PORT)).unwrap();
        let mut refusals = 0;
        for mode in Mode::ALL {
            for encap in encaps() {
                for (change, word) in sabotages(mode, encap) {
                    let mut tunnel = rich(mode, encap, false);
                    change(&mut tunnel);
                    let error = refused(&node, &[state(tunnel)]).await;
                    assert!(error.to_string().contains(word), "{mode}: {error}");
                    refusals += 1;
                }
                let twins = ["t1", "t2"].map(|name| {
                    let mut tunnel = options(mode, encap, 1);
                    tunnel.name = name.to_owned();
                    tunnel.addresses.clear();
                    state(tunnel)
                });
                let error = refused(&node, &twins).await;
                assert!(error.to_string().contains("link t2"), "{mode}: {error}");
                refusals += 1;
            }
        }
        println!("{refusals} refusals");
    });
}

/// A UDP port that another program has.
const TAKEN_PORT: u16 = 5999;

type Sabotage = fn(&mut TunnelOptions);

/// Changes that make the kernel refuse a tunnel, with a word of the step that it refuses.
fn sabotages(mode: Mode, encap: Encap) -> Vec<(Sabotage, &'static str)> {
    let mut sabotages: Vec<(Sabotage, &str)> = vec![
        (|tunnel| tunnel.name = "taken0".to_owned(), "link taken0"),
        (|tunnel| tunnel.dev = Some("none0".to_owned()), "none0"),
        (
            |tunnel| tunnel.alt_name = Some("taken-name".to_owned()),
            "taken-name",
        ),
    ];
    if encap != Encap::None {
        sabotages.push((
            |tunnel| {
                if let Encap::Fou(udp) | Encap::Gue(udp) = &mut tunnel.encap {
                    udp.dport = TAKEN_PORT;
                }
            },
            "FOU port 5999",
        ));
    }
    sabotages.push(if mode.carries(Family::V4) {
        (
            |tunnel| tunnel.routes.push("10.88.0.0/16".parse().unwrap()),
            "10.88.0.0/16",
        )
    } else {
        (
            |tunnel| tunnel.routes.push("fd88::/64".parse().unwrap()),
            "fd88::/64",
        )
    });
    sabotages
}

/// Carries out a plan for an empty host, which the kernel must refuse.
async fn refused(node: &Node, wanted: &[TunnelState]) -> StepError {
    let before = view(node, false).await;
    let ops = plan::apply(wanted, &Observed::default(), SET).unwrap();
    let error = node.execute(&ops).await.unwrap_err();
    assert!(error.left.is_empty(), "{error}");
    let after = view(node, false).await;
    assert_eq!(after.0, before.0, "{error}");
    let left = difference(&before.1, &after.1);
    assert!(left.is_empty(), "{error}: {left:#?}");
    error
}

#[test]
fn a_refusal_of_nft_takes_the_tunnel_back() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let (node, _far) = Node::pair().await;
        let conflict =
            "add table inet gretun; add set inet gretun tunnels_snat4 { type inet_service; }";
        node.host.run(&format!("nft \"{conflict}\""));
        let before = node.host.run("nft list ruleset");
        let wanted = [state(rich(Mode::Gre, Encap::None, true))];
        let error = refused(&node, &wanted).await;
        assert!(error.to_string().contains("nft"), "{error}");
        assert!(matches!(
            plan::apply(&wanted, &Observed::default(), SET).unwrap().last(),
            Some(op) if op.stage() == Stage::Snat
        ));
        assert_eq!(node.host.run("nft list ruleset"), before);
    });
}
