import statistics

RUNS = 10
# From NAT to NAT, with the data port on both sides.
ALICE_TO_BOB, BOB_TO_ALICE = ExpectedPath("203.0.113.20"), ExpectedPath("203.0.113.10")

start_all()
alice.wait_until_succeeds("gretun --json peers")

# Once beforehand: the daemon makes its keys, and the addresses are known.
bob.succeed("systemctl start gretun-peer.service")
join(alice, bob)
address = tunnel_ip(bob, "alice")
bob.succeed("systemctl stop gretun-peer.service", "gretun down")
rtt = coord.succeed("ping -c 5 -i 0.2 -q 203.0.113.20 | sed -n 's|.*= [^/]*/\\([^/]*\\)/.*|\\1|p'").strip()
measured("rtt_ms_coordinator_to_nat", float(rtt))

command = prepare_first_ping(bob)
seconds = []
for run in range(RUNS):
    # Closed holes: what an earlier run opened must not help.
    for router in (gwa, gwb):
        router.succeed("conntrack --flush 2>/dev/null")
    took_s, answers = first_ping(bob, command, address, "alice", BOB_TO_ALICE)
    bob.log(f"run {run + 1}: {took_s:.3f} s")
    seconds.append(took_s)
    assert answers > 0, "alice is direct, and no ping is answered"
    join(alice, bob)
    check_path(alice, "bob", ALICE_TO_BOB)
    stop_measured(bob)
    retry(lambda last: peer(alice, "bob")["state"] != "direct", 60)

measured("runs_s", [round(s, 3) for s in seconds])
measured("median_s", round(statistics.median(seconds), 3))
