import statistics

RUNS = 10

start_all()
alice.wait_until_succeeds("gretun --json peers")

# Once beforehand: the daemon makes its keys, and the addresses are known.
bob.succeed("systemctl start gretun-peer.service")
join(alice, bob)
address = tunnel_ip(bob, "alice")
bob.succeed("systemctl stop gretun-peer.service", "gretun down")
rtt = coord.succeed("ping -c 5 -i 0.2 -q 203.0.113.20 | sed -n 's|.*= [^/]*/\\([^/]*\\)/.*|\\1|p'").strip()
measured("rtt_ms_coordinator_to_nat", float(rtt))

seconds = []
for run in range(RUNS):
    # Closed holes: what an earlier run opened must not help.
    for router in (gwa, gwb):
        router.succeed("conntrack --flush 2>/dev/null")
    seconds.append(first_ping(bob, address))
    bob.log(f"run {run + 1}: {seconds[-1]:.3f} s")
    join(alice, bob)
    stop_measured(bob)
    retry(lambda last: peer(alice, "bob")["state"] != "direct", 60)

measured("runs_s", [round(s, 3) for s in seconds])
measured("median_s", round(statistics.median(seconds), 3))
