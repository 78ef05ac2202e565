V4 = {"alice": "203.0.113.20", "bob": "203.0.113.10"}  # where each sees the other
V6 = {"alice": "2001:db8:b::2", "bob": "2001:db8:a::2"}


def uses(version: int, timeout: int = JOIN_TIMEOUT_S) -> None:
    """Until both sides' links lead over this family, and data crosses."""
    remotes = V4 if version == 4 else V6
    for machine, other in ((alice, bob), (bob, alice)):
        remote = remotes[machine.name]
        endpoint = f"{remote}:{PORT}" if version == 4 else f"[{remote}]:{PORT}"
        wait_for_peer(machine, other.name, "direct", timeout, endpoint=endpoint)
        check_link(machine, other.name, remote)


start_all()

with subtest("the faster family is taken: IPv6"):
    join(alice, bob)
    uses(6)
    check_pair(alice, bob)
    check_ping6(alice, "bob")
    before = {machine.name: link(machine, other)["ifindex"] for machine, other in ((alice, "bob"), (bob, "alice"))}

with subtest("IPv6 dies: IPv4 takes over within seconds, under the same name and index"):
    watch = Watch(alice, tunnel_ip(alice, "bob"))
    watch.wait_for_answer(0)
    for router in (fwa, fwb):
        router.succeed("nft 'table inet cut { chain forward { type filter hook forward priority -5; drop; }; }'")
    uses(4)
    watch.wait_for_answer(watch.now())
    watch.stop()
    gap = watch.longest_gap()
    measured("seconds without data when IPv6 dies", gap)
    assert gap < RECOVERY_BOUND_S, f"data was gone for {gap} s"
    for machine, other in ((alice, "bob"), (bob, "alice")):
        assert link(machine, other)["ifindex"] == before[machine.name], "another interface index"
        assert link(machine, other)["ifname"] == "gretun0", link(machine, other)
    check_pair(alice, bob)
    check_ping6(alice, "bob")

with subtest("IPv6 is back and faster: it is taken again, and what that costs is less than losing the path would"):
    logged = {machine.name: len(unit_log(machine)) for machine in (alice, bob)}
    pings = BackgroundPing(alice, tunnel_ip(alice, "bob"), interval_s=0.02)
    for router in (fwa, fwb):
        router.succeed("nft delete table inet cut")
    uses(6)
    sent, lost = pings.stop()
    measured("packets lost while moving to IPv6, one every 20 ms", len(lost))
    assert len(lost) <= 15, f"{len(lost)} of {sent} packets lost"
    for machine in (alice, bob):
        assert " to=punching" not in unit_log(machine)[logged[machine.name] :], f"{machine.name} lost its path"
    check_pair(alice, bob)
