RUNS = 50
BOUND_S = 3.0

start_all()
coord.wait_for_unit("gretun-coord.service")
coord.wait_for_open_port(8443)

# Once beforehand: the daemons make their keys, and the addresses are known.
for machine in (alice, bob):
    machine.succeed("systemctl start gretun-peer.service")
join(alice, bob)
addresses = {"alice": tunnel_ip(bob, "alice"), "bob": tunnel_ip(alice, "bob")}
for machine in (alice, bob):
    machine.succeed(STOP_UNIT)

# Alice sends from a port of the search to bob's data port; bob to whatever that port became at alice's NAT.
PATHS = {
    "alice": ExpectedPath("203.0.113.20", sports=EXTRA_PORTS),
    "bob": ExpectedPath("203.0.113.10", dports=range(1024, 65536)),
}
joins = FreshJoins(alice, bob, [gwa, gwb], PATHS)
for run in range(RUNS):
    waiting, starting = (alice, bob) if run % 2 == 0 else (bob, alice)
    joins.once(waiting, starting, addresses[waiting.name])
    starting.log(f"run {run + 1}: {joins.seconds[-1]:.3f} s")

measured("runs_s", [round(s, 3) for s in joins.seconds])
measured("share_within_3_s", sum(s <= BOUND_S for s in joins.seconds) / RUNS)
measured("median / 95 %", joins.summary())
measured("slowest_s", round(max(joins.seconds), 3))
measured("packets at the symmetric NAT", joins.packets(alice, bob, gwa))
measured("false_direct", joins.false_direct)
