PUBLIC = "203.0.113.10"
# What makes the carrier's NAT turn packets round as RFC 4787 section 6 asks: both the destination and the source become public ones.
# NAT rules are asked for the first packet of a flow only, and the peers' pings keep the flows alive that met no rule: these are forgotten.
HAIRPIN = (
    f"nft add rule ip nat prerouting iifname eth2 ip daddr {PUBLIC} meta l4proto udp dnat ip to udp dport map @mapped",
    f"nft add rule ip nat postrouting oifname eth2 ct status dnat meta l4proto udp snat to {PUBLIC}",
    "conntrack --flush 2>/dev/null",
)

start_all()

with subtest("without hairpin there is no way, and nobody says that there is one"):
    for machine, other in ((alice, "bob"), (bob, "alice")):
        wait_for_peer(machine, other, "unreachable")
    never_direct(alice, bob)

with subtest("with hairpin the two are direct by the public address that they share"):
    carrier.succeed(*HAIRPIN)
    join(alice, bob)
    wait_for_peer(alice, "bob", "direct", via="direct", endpoint=f"{PUBLIC}:7778")
    wait_for_peer(bob, "alice", "direct", via="direct", endpoint=f"{PUBLIC}:7777")
    check_link(alice, "bob", PUBLIC, dport=7778)
    check_link(bob, "alice", PUBLIC, sport=7778)

with subtest("ping, full packets and TCP cross, turned round by the carrier"):
    check_pair(alice, bob)
    for router, inside, sport, dport in ((gwa, "192.168.1.2", 7777, 7778), (gwb, "192.168.2.2", 7778, 7777)):
        carried = flows(router, "out").get((inside, "udp", sport, PUBLIC, dport), 0)
        assert carried > TRANSFER_BYTES // 2, f"{router.name} carried {carried} bytes"
        assert other_protocols(router) <= {"icmp"}, other_protocols(router)
