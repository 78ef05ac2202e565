start_all()

with subtest("two peers are joined"):
    join(alice, bob)
    index = link(alice, "bob")["ifindex"]
    pid = daemon_pid(alice)

ping = BackgroundPing(bob, tunnel_ip(bob, "alice"))

with subtest("systemctl restart"):
    alice.succeed("systemctl restart gretun-peer.service")
    wait_for_peer(alice, "bob", "direct")
    assert daemon_pid(alice) != pid
    pid = daemon_pid(alice)

with subtest("kill -9"):
    alice.succeed("systemctl kill -s KILL gretun-peer.service")
    retry(lambda last: daemon_pid(alice) not in (0, pid), 60)
    wait_for_peer(alice, "bob", "direct")

with subtest("the ping ran through both and lost nothing"):
    ping.lost_none()

with subtest("the tunnel is the same one, and works"):
    assert link(alice, "bob")["ifindex"] == index, "the link was made anew"
    check_link(alice, "bob", "203.0.113.20")
    check_link(bob, "alice", "203.0.113.10")
    check_pair(alice, bob)

with subtest("somebody takes the link down: the daemon takes it up again, with all that the kernel took away with it"):
    alice.succeed("ip link set dev bob down")
    alice.wait_until_succeeds("ip link show dev bob | grep -q '[<,]UP[,>]'")
    wait_for_peer(alice, "bob", "direct")
    assert link(alice, "bob")["ifindex"] == index, "the link was made anew"
    check_pair(alice, bob)

with subtest("the routers saw UDP between the two ports, and the coordinator's"):
    check_router(gwa, {("192.168.1.2", "203.0.113.20", PORT)})
    check_router(gwb, {("192.168.2.2", "203.0.113.10", PORT)})
