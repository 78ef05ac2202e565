from driver.machine import NAT_DIRECTORY

RUNS = 5  # of every pair; the sides take turns in starting
# `none` is a host with a public address, `carrier` a home's NAT behind a carrier's; all others are files of nixos-tests/nat.
KINDS = ("none", "full-cone", "address-restricted", "port-restricted", "symmetric", "carrier")
IMPOSSIBLE = {("symmetric", "symmetric")}
# Two sides of each kind: the host, and the routers in front of it.
SIDES = (
    {"none": (carol, []), "carrier": (erin, [gwe, cge])} | {kind: (alice, [gwa]) for kind in KINDS[1:5]},
    {"none": (dave, []), "carrier": (frank, [gwf, cgf])} | {kind: (bob, [gwb]) for kind in KINDS[1:5]},
)
# Where a host's packets come from, for all others.
OUTSIDE = {
    "alice": "203.0.113.10",
    "bob": "203.0.113.20",
    "carol": "203.0.113.30",
    "dave": "203.0.113.40",
    "erin": "203.0.113.50",
    "frank": "203.0.113.60",
}
# A port search joins a symmetric NAT with these kinds; all others let in a packet from another port of it.
SEARCHED = ("port-restricted", "carrier")
HOSTS = (alice, bob, carol, dave, erin, frank)


def set_nat(router: Host, kind: str) -> None:
    """Puts other rules into a router."""
    rules = "\n".join((NAT_DIRECTORY / name).read_text() for name in (f"{kind}.nft", "watch.nft"))
    router.succeed(f"nft flush ruleset; nft -f - <<'END'\ndefine WAN = \"eth1\"\n{rules}\nEND")


def expected(kind: str, other: Host, other_kind: str) -> ExpectedPath:
    """The path from a host behind a NAT of one kind to another host: all NATs but symmetric ones keep the data port."""
    return ExpectedPath(
        OUTSIDE[other.name],
        dports=range(1024, 65536) if other_kind == "symmetric" else (PORT,),
        sports=EXTRA_PORTS if kind == "symmetric" and other_kind in SEARCHED else (PORT,),
    )


def refused(waiting: Host, starting: Host) -> bool:
    """Whether a pair that cannot be joined is called so by both, and was never called direct meanwhile."""
    before = [len(unit_log(machine)) for machine in (waiting, starting)]
    start_alone(waiting)
    starting.succeed("systemctl start gretun-peer.service")
    wait_for_peer(starting, waiting.name, "unreachable")
    wait_for_peer(waiting, starting.name, "unreachable")
    claims = [" to=direct" in unit_log(machine)[seen:] for machine, seen in zip((waiting, starting), before, strict=True)]
    for machine in (waiting, starting):
        machine.succeed(STOP_UNIT)
    return not any(claims)


start_all()
coord.wait_for_unit("gretun-coord.service")
coord.wait_for_open_port(8443)
for machine in HOSTS:
    machine.succeed("systemctl start gretun-peer.service")
join(carol, dave)
for machine in HOSTS[:2] + HOSTS[4:]:
    wait_for_peer(carol, machine.name, "direct")
addresses = {machine.name: tunnel_ip(dave if machine is carol else carol, machine.name) for machine in HOSTS}
for machine in HOSTS:
    machine.succeed(STOP_UNIT)

table = []
false_direct = 0
not_joined = 0
for row, first in enumerate(KINDS):
    for second in KINDS[row:]:
        (one, routers), (other, more) = SIDES[0][first], SIDES[1][second]
        for router, kind in ((gwa, first), (gwb, second)):
            if router in [*routers, *more]:
                set_nat(router, kind)
        if (first, second) in IMPOSSIBLE:
            assert refused(one, other), f"{first} with {second} was called direct"
            cell, runs = "no", 1
        else:
            paths = {one.name: expected(first, other, second), other.name: expected(second, one, first)}
            joins = FreshJoins(one, other, [*routers, *more], paths)
            for run in range(RUNS):
                waiting, starting = (one, other) if run % 2 == 0 else (other, one)
                try:
                    joins.once(waiting, starting, addresses[waiting.name])
                except Exception as failure:  # the table shows it, and the run fails at its end
                    coord.log(f"{first} with {second}, run {run + 1}: {failure}")
                    for machine in (waiting, starting):
                        machine.succeed(f"{STOP_UNIT}; {STOP_MEASURED}")
            runs = len(joins.seconds)
            cell = joins.summary() if runs == RUNS else f"joined in {runs} of {RUNS} runs"
            not_joined += RUNS - runs
            false_direct += joins.false_direct
            if first == second == "port-restricted":
                measured("packets at a port-restricted NAT", joins.packets(one, other, gwa))
        coord.log(f"{first} with {second}: {cell}")
        table.append({"one": first, "other": second, "runs": runs, "cell": cell})

measured("grid", table)
measured("false_direct", false_direct)
assert not_joined == 0, f"{not_joined} joins failed: see the log"
assert false_direct == 0, f"{false_direct} times direct without data"
