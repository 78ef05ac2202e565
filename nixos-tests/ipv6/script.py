ADDRESSES = {"alice": "2001:db8:a::2", "bob": "2001:db8:b::2", "carol": "2001:db8:c::2"}
COORDINATOR6 = "2001:db8:ffff::1"
STUN = [("udp", PORT, 3478), ("udp", PORT, 3479)]
HOMES = {"10": "2001:db8:a::/64", "20": "2001:db8:b::/64", "30": "2001:db8:c::/64"}

start_all()
for host, prefix in HOMES.items():
    backbone.succeed(f"ip -6 route replace {prefix} via 2001:db8:ffff::{host}")

with subtest("all pairs are direct over IPv6, also with the host that has no IPv4"):
    join(alice, bob, carol)
    for machine in (alice, bob, carol):
        for other in (alice, bob, carol):
            if machine is not other:
                record = wait_for_peer(machine, other.name, "direct", via="direct")
                assert record["endpoint"] == f"[{ADDRESSES[other.name]}]:{PORT}", record
                check_link(machine, other.name, ADDRESSES[other.name])

with subtest("ping of both families, full packets and TCP cross"):
    check_pair(alice, bob, LONG_TRANSFER_BYTES)
    check_pair(alice, carol)
    for machine, other in ((alice, bob), (carol, bob)):
        check_ping6(machine, other.name)
        check_tcp(machine, other, tunnel_ip(machine, other.name, 6))

with subtest("the routers saw UDP between the data ports, and no GRE as such"):
    for router, inside in ((gwa, "alice"), (gwb, "bob"), (gwc, "carol")):
        assert other_protocols(router, 6) <= {"icmpv6"}, other_protocols(router, 6)
        for source, protocol, sport, destination, dport in flows(router, "out", 6):
            flow = (source, protocol, sport, destination, dport)
            assert source == ADDRESSES[inside], flow
            if destination == COORDINATOR6:
                assert (protocol, dport) == ("tcp", 8443) or (protocol, sport, dport) in STUN, flow
            else:
                assert destination in ADDRESSES.values() and (protocol, sport, dport) == ("udp", PORT, PORT), flow
        carried = sum(flows(router, "out", 6).values()) + sum(flows(router, "in", 6).values())
        assert carried > TRANSFER_BYTES, f"{router.name} carried only {carried} bytes of IPv6"
