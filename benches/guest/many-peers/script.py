"""What two hundred peers cost a daemon. The far ends are `swarm.rs`, forty of them on each machine."""

EACH = 40
PEERS = EACH * 5
IDLE_S = 60


def direct() -> int:
    """How many peers are direct."""
    return sum(it["state"] == "direct" for it in peers(alice).values())


def until_all_are_direct() -> float:
    """Waits for it; how long it took."""
    began = time.monotonic()

    def are_all(last: bool) -> bool:
        count = direct()
        assert not last or count == PEERS, count
        return count == PEERS

    retry(are_all, 600)
    return round(time.monotonic() - began, 1)


def packets() -> int:
    """Packets of IPv4 that the host received and sent; that of the tunnels in them counts as well."""
    names, values = (line.split()[1:] for line in alice.succeed("grep ^Ip: /proc/net/snmp").splitlines())
    counts = dict(zip(names, map(int, values), strict=True))
    return counts["InReceives"] + counts["OutRequests"]


start_all()
alice.wait_until_succeeds("gretun --json peers")
with subtest(f"{PEERS} peers become direct"):
    for number, machine in enumerate((swarm1, swarm2, swarm3, swarm4, swarm5)):
        first = 20 + number * EACH
        machine.succeed(f"for last in $(seq {first} {first + EACH - 1}); do ip address add 203.0.113.$last/24 dev eth1 || exit; done")
        machine.succeed(f"swarm http://203.0.113.1:8443 203.0.113.{first} {EACH} >/tmp/swarm.log 2>&1 </dev/null &")
    measured("join_all_s", until_all_are_direct())
    measured("join_cpu_s", ticks(alice) / 100)
    for name in (f"swarm-203-0-113-{last}" for last in (20, 99, 219)):
        check_ping(alice, name)

with subtest("at rest"):
    time.sleep(30)
    before, cpu = packets(), ticks(alice)
    time.sleep(IDLE_S)
    measured("idle_cpu_percent", round((ticks(alice) - cpu) / IDLE_S, 2))
    measured("idle_packets_per_second_and_peer", round((packets() - before) / IDLE_S / PEERS, 2))
    assert direct() == PEERS, direct()
    for key, kib in memory(alice).items():
        measured(f"daemon_{key.lower()}_kib", kib)

with subtest("a restart loses nothing, and all are direct again"):
    pings = BackgroundPing(alice, tunnel_ip(alice, "swarm-203-0-113-20"), 50)
    alice.succeed("systemctl restart gretun-peer.service")
    measured("restart_until_all_direct_s", until_all_are_direct())
    assert pings.lost() == 0, pings.output()
