import statistics

from driver.machine import NAT_DIRECTORY

RUNS = 3
# `none` is a host with a public address; all others are files of nixos-tests/nat.
KINDS = ("none", "full-cone", "address-restricted", "port-restricted", "symmetric")
IMPOSSIBLE = {("symmetric", "symmetric")}


def set_nat(router: Host, kind: str) -> None:
    """Puts other rules, and no memory, into a router."""
    rules = (NAT_DIRECTORY / f"{kind}.nft").read_text()
    router.succeed(f"nft flush ruleset && nft -f - <<'END'\ndefine WAN = \"eth1\"\n{rules}\nEND\nconntrack --flush 2>/dev/null")


start_all()
coord.wait_for_unit("gretun-coord.service")
coord.wait_for_open_port(8443)
for machine in (alice, bob, carol, dave):
    machine.succeed("systemctl start gretun-peer.service")
join(carol, dave)
addresses = {name: tunnel_ip(carol, name) for name in ("alice", "bob", "dave")} | {"carol": tunnel_ip(dave, "carol")}
for machine in (alice, bob, carol, dave):
    machine.succeed("systemctl stop gretun-peer.service", "gretun down")

table = []
for row, first in enumerate(KINDS):
    for second in KINDS[row:]:
        waiting = carol if first == "none" else alice
        starting = dave if second == "none" else bob
        seconds = []
        # An impossible pair is watched once, by its verdict.
        for _ in range(RUNS):
            for router, kind in ((gwa, first), (gwb, second)):
                set_nat(router, "port-restricted" if kind == "none" else kind)
            waiting.succeed("systemctl start gretun-peer.service")

            def knows(last: bool, waiting: Host = waiting, starting: Host = starting) -> bool:
                return starting.name in peers(waiting)

            retry(knows, 60)
            if (first, second) in IMPOSSIBLE:
                starting.succeed("systemctl start gretun-peer.service")
                wait_for_peer(starting, waiting.name, "unreachable")
                starting.succeed("systemctl stop gretun-peer.service", "gretun down")
            else:
                seconds.append(first_ping(starting, addresses[waiting.name]))
                stop_measured(starting)
            waiting.succeed("systemctl stop gretun-peer.service", "gretun down")
            if not seconds:
                break
        seconds.sort()
        cell = f"{statistics.median(seconds):.2f} / {seconds[len(seconds) * 95 // 100]:.2f} s" if seconds else "no"
        starting.log(f"{first} with {second}: {cell}")
        table.append({"one": first, "other": second, "joined": len(seconds), "runs": RUNS if seconds else 1, "cell": cell})

measured("grid", table)
