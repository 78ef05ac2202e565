start_all()

with subtest("the daemons ask one server at one port, which shows nothing of the mapping; they are joined by a port search"):
    join(alice, bob)
    for machine in (alice, bob):
        servers = [answer["server"] for answer in json.loads(machine.succeed("gretun --json stun"))]
        assert servers == ["203.0.113.1:3478"], servers
    # Alice's NAT gives each flow a port of its own, so her tunnel has one that the search found.
    sport = link(alice, "bob")["linkinfo"]["info_data"]["encap"]["sport"]
    assert sport in EXTRA_PORTS, sport
    address, _, outside = peer(bob, "alice")["endpoint"].rpartition(":")
    assert address == "203.0.113.10" and int(outside) not in (PORT, sport), outside

with subtest("ping, full packets and TCP cross"):
    check_pair(alice, bob)
    check_pair(bob, alice)
