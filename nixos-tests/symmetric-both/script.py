start_all()

with subtest("neither side claims a path, and both say why"):
    for machine, other in ((alice, "bob"), (bob, "alice")):
        record = wait_for_peer(machine, other, "unreachable")

        def says_why(last: bool, machine: Host = machine, other: str = other) -> bool:
            return "both NATs are symmetric" in peer(machine, other)["reason"]

        retry(says_why, 60)
        assert record["via"] is None, record
        told = explain(machine, other)
        assert told["cause"] == "symmetric-both" and "IPv6 on both hosts" in told["remedies"], told
        # Port mapping would join them, as the scenario port-mapping shows.
        assert sum("UPnP IGD" in remedy for remedy in told["remedies"]) == 2, told
        machine.log(told["verdict"])

with subtest("and so it stays, without a packet of a port search"):
    time.sleep(10)  # in which a search would begin
    never_direct(alice, bob)
    for router in (gwa, gwb):
        searched = {flow for flow in flows(router, "out") if flow[1] == "udp" and flow[2] != PORT and flow[4] not in (3478, 3479)}
        assert not searched, searched
