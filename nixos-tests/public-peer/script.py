start_all()

with subtest("each side sees the other as direct"):
    join(alice, bob)
    assert peer(alice, "bob")["endpoint"] == "203.0.113.30:7777", peer(alice, "bob")
    assert peer(bob, "alice")["endpoint"] == "203.0.113.10:7777", peer(bob, "alice")

with subtest("ping, full packets and TCP cross"):
    check_link(alice, "bob", "203.0.113.30")
    check_link(bob, "alice", "203.0.113.10")
    check_pair(alice, bob)

with subtest("the router saw UDP between the two ports, and the coordinator's"):
    check_router(gwa, {("192.168.1.2", "203.0.113.30", PORT)})
