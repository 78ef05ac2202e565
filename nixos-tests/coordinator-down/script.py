start_all()

with subtest("two peers are joined"):
    join(alice, bob)

with subtest("the coordinator goes, data stays"):
    ping = BackgroundPing(alice, tunnel_ip(alice, "bob"))
    coord.succeed("systemctl stop gretun-coord.service")
    coord.wait_for_closed_port(8443)
    check_pair(alice, bob)
    assert peer(alice, "bob")["state"] == "direct"

with subtest("a daemon that starts without the coordinator keeps its tunnels"):
    index = link(alice, "bob")["ifindex"]
    alice.succeed("systemctl restart gretun-peer.service")
    wait_for_peer(alice, "bob", "direct")
    assert link(alice, "bob")["ifindex"] == index, "the link was made anew"
    ping.lost_none()

with subtest("the coordinator comes back: nothing is lost, and newcomers join"):
    ping = BackgroundPing(alice, tunnel_ip(alice, "bob"))
    addresses = {name: tunnel_ip(bob, name) for name in peers(bob)}
    coord.succeed("systemctl start gretun-coord.service")
    coord.wait_for_open_port(8443)
    carol.succeed("systemctl start gretun-peer.service")
    join(alice, bob, carol)
    ping.lost_none()
    assert addresses["alice"] == tunnel_ip(bob, "alice") == tunnel_ip(carol, "alice"), "addresses moved"
    check_pair(carol, bob)
