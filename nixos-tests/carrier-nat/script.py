start_all()
gwc.succeed("nft 'table inet no_udp { chain forward { type filter hook forward priority -10; meta l4proto udp drop; }; }'")
carol.succeed("systemctl start gretun-peer.service")

with subtest("through two NATs on one side and an address-restricted one on the other, both are direct"):
    join(alice, bob)
    check_link(alice, "bob", "203.0.113.20")
    check_link(bob, "alice", "203.0.113.10")

with subtest("ping, full packets and TCP cross"):
    check_pair(alice, bob)

with subtest("all three routers saw UDP between the two ports, and the coordinator's"):
    # It also forwards pings to the private addresses of the others, for it has a default route; the carrier knows no way there.
    assert flows(gwa, "out")[("192.168.1.2", "udp", PORT, "203.0.113.20", PORT)] > TRANSFER_BYTES // 2
    assert other_protocols(gwa) <= {"icmp"}, other_protocols(gwa)
    check_router(carrier, {("100.64.8.10", "203.0.113.20", PORT)})
    check_router(gwb, {("192.168.2.2", "203.0.113.10", PORT)})

with subtest("the NAT at bob is address-restricted: another port of alice's public address comes in, a stranger does not"):
    gwc.succeed("echo stranger >/dev/udp/203.0.113.20/7777")
    carrier.succeed("echo neighbour >/dev/udp/203.0.113.20/7777")

    def neighbour_came(last: bool) -> bool:
        return any(flow[0] == "203.0.113.10" and flow[2] != PORT for flow in flows(gwb, "in"))

    retry(neighbour_came, 30)
    assert not any(flow[0] == "203.0.113.30" for flow in flows(gwb, "in")), flows(gwb, "in")

with subtest("carol, without UDP, is never direct, and both sides say why"):
    for machine, other, cause in ((carol, "alice", "udp-blocked-here"), (alice, "carol", "udp-blocked-at-peer")):
        wait_for_peer(machine, other, "unreachable")
        told = explain(machine, other)
        assert told["cause"] == cause, told
        machine.log(told["verdict"])
    for machine in (alice, bob, carol):
        claims = [line for line in unit_log(machine).splitlines() if "to=direct" in line and ("carol" in line or machine is carol)]
        assert not claims, claims
