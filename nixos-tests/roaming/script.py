def recovers(what: str, began: float, off_s: float = 0) -> None:
    """Data flows again soon after `began`, of which so many seconds were an outage that no daemon could repair."""
    watch.wait_for_answer(watch.now())
    join(alice, bob)
    # From the last answer before it: by the time a command has returned, the outage is often over.
    took = round(max(0, watch.longest_gap(began) - off_s), 2)
    measured(f"seconds without data after {what}", took)
    assert took < RECOVERY_BOUND_S, f"{what}: {took} s"


def recovers_at_last(what: str, began: float) -> None:
    """The same where the outage was long, and the new network was up at `began`."""
    took = watch.wait_for_answer(began)
    measured(f"seconds without data after {what}", took)
    assert took < RECOVERY_BOUND_S, f"{what}: {took} s"
    join(alice, bob)


start_all()
alice.succeed("ip link set eth2 down", "systemctl start gretun-peer.service")
join(alice, bob)
watch = Watch(alice, tunnel_ip(alice, "bob"))
watch.wait_for_answer(0)
names = [link(machine, other)["ifname"] for machine, other in ((alice, "bob"), (bob, "alice"))]

with subtest("the host gets another address"):
    began = watch.now()
    alice.succeed("ip addr del 192.168.1.2/24 dev eth1; ip addr add 192.168.1.77/24 dev eth1; ip route replace default via 192.168.1.1")
    recovers("an address change", began)

with subtest("the host goes to another network, behind another NAT"):
    # The link keeps its address. The kernel must not send from it into the other network, whose NAT would give it the port.
    alice.succeed("ip link set eth1 down")
    retry(lambda _: peer(alice, "bob")["state"] != "direct", 60)
    began = watch.now()
    alice.succeed("ip link set eth2 up; ip route replace default via 192.168.43.1")
    recovers_at_last("a change of the network", began)
    wait_for_peer(bob, "alice", "direct", endpoint=f"203.0.113.30:{PORT}")
    check_pair(alice, bob)

with subtest("the NAT forgets its mapping and makes another"):
    began = watch.now()
    phone.succeed(
        f"nft insert rule ip nat postrouting oifname eth1 ip saddr 192.168.43.0/24 udp sport {PORT} snat to 203.0.113.30:40007",
        "conntrack -F 2>/dev/null",
    )
    recovers("a NAT rebind", began)
    wait_for_peer(bob, "alice", "direct", endpoint="203.0.113.30:40007")

with subtest("the far router is switched off and on"):
    began = watch.now()
    gwb.crash()
    gwb.start()
    recovers("a reboot of the router", began, off_s=watch.now() - began)

with subtest("the host sleeps, and its NAT forgets it"):
    alice.succeed("systemctl kill -s STOP gretun-peer.service", "ip link set eth2 down")
    retry(lambda _: peer(bob, "alice")["state"] != "direct", 60)
    phone.succeed("conntrack -F 2>/dev/null")
    began = watch.now()
    alice.succeed("ip link set eth2 up", "ip route replace default via 192.168.43.1", "systemctl kill -s CONT gretun-peer.service")
    recovers_at_last("a suspend", began)

with subtest("ping, full packets and TCP cross, through the same interfaces"):
    watch.stop()
    check_pair(alice, bob)
    assert names == [link(machine, other)["ifname"] for machine, other in ((alice, "bob"), (bob, "alice"))]
