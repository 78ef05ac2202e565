def wait_for_end_of_move(machine: Host) -> None:
    """Until the links that are there for the time of a move only are gone."""
    retry(lambda _: not any("~" in it["ifname"] for it in json.loads(machine.succeed("ip -j link"))), 60)


start_all()
for machine in (alice, bob):
    machine.succeed("ip link set eth2 down", "systemctl start gretun-peer.service")

with subtest("they are joined over the internet"):
    join(alice, bob)
    wait_for_peer(alice, "bob", "direct", via="direct", endpoint=f"203.0.113.20:{PORT}")
    wait_for_peer(bob, "alice", "direct", via="direct", endpoint=f"203.0.113.10:{PORT}")
    before = {machine.name: link(machine, other)["ifindex"] for machine, other in ((alice, "bob"), (bob, "alice"))}


def lost_by_moving() -> list[int] | None:
    """Plugs a cable in while pings go; those that were lost. `None` when a side lost its path: so slow a machine says nothing of moves."""
    logged = [len(unit_log(machine)) for machine in (alice, bob)]
    ping = BackgroundPing(alice, tunnel_ip(alice, "bob"), interval_s=0.02)
    for machine in (alice, bob):
        machine.succeed("ip link set eth2 up")
    wait_for_peer(alice, "bob", "direct", via="lan", endpoint=f"192.168.9.3:{PORT}")
    wait_for_peer(bob, "alice", "direct", via="lan", endpoint=f"192.168.9.2:{PORT}")
    for machine in (alice, bob):
        wait_for_end_of_move(machine)
    sent, lost = ping.stop()
    measured("packets, one every 20 ms", sent)
    news = [unit_log(machine)[seen:] for machine, seen in zip((alice, bob), logged, strict=True)]
    return None if lost and any(" to=punching" in it for it in news) else lost


with subtest("a cable between them: the tunnel moves to it, and no packet is lost"):
    lost = lost_by_moving()
    for _ in range(3):
        if lost is not None:
            break
        for machine in (alice, bob):
            machine.succeed("ip link set eth2 down")
        for machine, other in ((alice, "bob"), (bob, "alice")):
            wait_for_peer(machine, other, "direct", via="direct")
        lost = lost_by_moving()
    assert lost == [], f"these were lost: {lost}"
    check_link(alice, "bob", "192.168.9.3")
    check_link(bob, "alice", "192.168.9.2")
    check_pair(alice, bob)

with subtest("without the cable data flows again over the internet, through the same interfaces"):
    watch = Watch(alice, tunnel_ip(alice, "bob"))
    watch.wait_for_answer(0)
    began = watch.now()
    for machine in (alice, bob):
        machine.succeed("ip link set eth2 down")
    for machine, other in ((alice, "bob"), (bob, "alice")):
        wait_for_peer(machine, other, "direct", via="direct")
    watch.wait_for_answer(watch.now())
    took = watch.longest_gap(began)
    measured("seconds without data after the cable was pulled", took)
    assert took < RECOVERY_BOUND_S, f"{took} s"
    watch.stop()
    wait_for_peer(alice, "bob", "direct", via="direct")
    check_pair(alice, bob)
    for machine, other in ((alice, "bob"), (bob, "alice")):
        assert link(machine, other)["ifindex"] == before[machine.name], "the link was made anew"
