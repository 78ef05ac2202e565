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


def outage(version: int, break_it: str, mend: str) -> None:
    """Breaks the path in use; the other family must carry data soon, then the first again."""
    watch = Watch(alice, tunnel_ip(alice, "bob"))
    watch.wait_for_answer(0)
    for router in (gwa, gwb) if version == 4 else (fwa, fwb):
        router.succeed(break_it)
    uses(10 - version)
    watch.wait_for_answer(watch.now())
    watch.stop()
    gap = watch.longest_gap()
    measured(f"seconds without data when IPv{version} dies", gap)
    assert gap < RECOVERY_BOUND_S, f"data was gone for {gap} s"
    for router in (gwa, gwb) if version == 4 else (fwa, fwb):
        router.succeed(mend)


start_all()

with subtest("the faster family is taken: IPv6"):
    join(alice, bob)
    uses(6)
    check_pair(alice, bob)
    check_ping6(alice, "bob")
    before = {machine.name: link(machine, other)["ifindex"] for machine, other in ((alice, "bob"), (bob, "alice"))}

with subtest("IPv6 dies: IPv4 takes over within seconds, under the same name and index"):
    outage(6, "nft 'table inet cut { chain forward { type filter hook forward priority -5; drop; }; }'", "nft delete table inet cut")
    for machine, other in ((alice, "bob"), (bob, "alice")):
        assert link(machine, other)["ifindex"] == before[machine.name], "another interface index"
        assert link(machine, other)["ifname"] == "gretun0", link(machine, other)
    check_pair(alice, bob)
    check_ping6(alice, "bob")
