start_all()

with subtest("each side sees the other as direct"):
    join(alice, bob)

with subtest("the NATs are full-cone: a stranger's datagram comes in"):
    coord.succeed("echo stranger >/dev/udp/203.0.113.10/7777")
    retry(lambda last: any(flow[0] == COORDINATOR and flow[3:] == ("192.168.1.2", PORT) for flow in flows(gwa, "in")), 30)

with subtest("ping, full packets and TCP cross"):
    check_link(alice, "bob", "203.0.113.20")
    check_link(bob, "alice", "203.0.113.10")
    check_pair(alice, bob)

with subtest("the routers saw UDP between the two ports, and the coordinator's"):
    check_router(gwa, {("192.168.1.2", "203.0.113.20", PORT)})
    check_router(gwb, {("192.168.2.2", "203.0.113.10", PORT)})

with subtest("netcheck sees that the NAT admits anyone"):
    ipv4 = json.loads(alice.succeed("gretun --json netcheck"))["families"][0]
    assert (ipv4["mapping"], ipv4["filtering"]) == ("port-independent", "port-independent"), ipv4
