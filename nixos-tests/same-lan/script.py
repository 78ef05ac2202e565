start_all()

with subtest("each side uses the LAN"):
    join(alice, bob)
    assert wait_for_peer(alice, "bob", "direct", via="lan")["endpoint"] == "192.168.1.3:7777"
    assert wait_for_peer(bob, "alice", "direct", via="lan")["endpoint"] == "192.168.1.2:7777"

with subtest("ping, full packets and TCP cross"):
    check_link(alice, "bob", "192.168.1.3")
    check_link(bob, "alice", "192.168.1.2")
    check_pair(alice, bob)

with subtest("the router saw the coordinator's flows and nothing else"):
    check_router(gwa, set())
