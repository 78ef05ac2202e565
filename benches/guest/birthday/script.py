import statistics

RUNS = 50
BOUND_S = 3.0

start_all()
coord.wait_for_unit("gretun-coord.service")
coord.wait_for_open_port(8443)

# Once beforehand: the daemons make their keys, and the addresses are known.
for machine in (alice, bob):
    machine.succeed("systemctl start gretun-peer.service")
join(alice, bob)
address = tunnel_ip(bob, "alice")
bob.succeed("systemctl stop gretun-peer.service", "gretun down")

seconds = []
for run in range(RUNS):
    # Both start anew, and what an earlier run opened is closed.
    alice.succeed("systemctl stop gretun-peer.service", "gretun down")
    for router in (gwa, gwb):
        router.succeed("conntrack --flush 2>/dev/null")
    alice.succeed("systemctl start gretun-peer.service")
    retry(lambda last: "bob" in peers(alice), 60)
    seconds.append(first_ping(bob, address))
    bob.log(f"run {run + 1}: {seconds[-1]:.3f} s")
    stop_measured(bob)

seconds.sort()
measured("runs_s", [round(s, 3) for s in seconds])
measured("share_within_3_s", sum(s <= BOUND_S for s in seconds) / RUNS)
measured("median_s", round(statistics.median(seconds), 3))
measured("p95_s", round(seconds[RUNS * 95 // 100], 3))
measured("slowest_s", round(seconds[-1], 3))
