# Only the kernel's own UDP input is blocked: the daemon hears disco before the host firewall does its work, data never arrives.
BLOCK = "nft 'table inet block { chain input { type filter hook input priority -10; udp dport 7777 drop; }; }'"
SIDES = ((alice, "bob"), (bob, "alice"))

start_all()
bob.succeed(BLOCK, "systemctl start gretun-peer.service")

with subtest("disco is heard, data is not: no side ever says direct"):
    seen = set()
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while True:
        now = {machine.name: peers(machine).get(other, {}).get("state", "unknown") for machine, other in SIDES}
        seen |= set(now.values())
        assert not {"direct", "relay"} & seen, f"no data can cross, and yet: {now}"
        if set(now.values()) == {"unreachable"}:
            break
        assert time.monotonic() < deadline, f"not unreachable after {JOIN_TIMEOUT_S} s: {now}"
        time.sleep(0.3)
    alice.log(f"states seen: {', '.join(sorted(seen))}")

with subtest("the reason is said, with the evidence, by peers and in the log"):
    for machine, other in SIDES:
        reason = peer(machine, other)["reason"]
        machine.log(reason)
        assert "disco" in reason and "data" in reason and "7777" in reason, reason
        assert reason in unit_log(machine), f"the log of {machine.name} lacks: {reason}"

with subtest("explain names the host whose firewall it is, and what to do"):
    for machine, other, cause in ((alice, "bob", "data-dropped-at-peer"), (bob, "alice", "data-dropped-here")):
        told = explain(machine, other)
        assert told["cause"] == cause, told
        assert peer(machine, other)["reason"] == told["verdict"], told
        assert told["evidence"] and any("7777" in remedy for remedy in told["remedies"]), told
        machine.log(machine.succeed(f"gretun explain {other}"))

with subtest("ping: disco is answered, data is not, and the exit code says so"):
    status, output = alice.execute("gretun ping --count 2 --timeout 2s bob")
    assert status == 1, output
    assert "203.0.113.20:7777  through the tunnel: no answer" in output, output
    assert re.search(r"203\.0\.113\.20:7777  disco: [\d.]+ ?m?s", output), output

with subtest("it stays so while the firewall does"):
    never_direct(alice, bob)
    for machine, other in SIDES:
        assert peer(machine, other)["state"] not in ("direct", "relay"), peer(machine, other)

with subtest("doctor finds the rule"):
    findings = json.loads(bob.fail("gretun --json doctor"))
    wrong = [finding for finding in findings if finding["level"] == "problem"]
    assert [finding["check"] for finding in wrong] == ["host-firewall"], wrong
    assert "inet block input" in wrong[0]["evidence"], wrong

with subtest("its command opens the firewall: direct, and data crosses"):
    bob.succeed(wrong[0]["fix"])
    join(alice, bob)
    check_pair(alice, bob)
    check_router(gwa, {("192.168.1.2", "203.0.113.20", PORT)})

with subtest("the router drops all UDP of one host: netcheck and explain say so"):
    gwa.succeed("nft 'table inet no_udp { chain forward { type filter hook forward priority -10; udp dport 1-65535 drop; }; }'")
    wait_for_peer(alice, "bob", "unreachable")
    # What was heard until a moment ago counts for a while.
    retry(lambda _: explain(alice, "bob")["cause"] == "udp-blocked-here", 120)
    alice.log(explain(alice, "bob")["verdict"])
    status, output = alice.execute("gretun --json netcheck")
    assert status == 1 and json.loads(output)["families"][0]["udp"] == "blocked", output
