"""What two hundred peers cost a daemon. The far ends are `swarm.rs`, forty of them on each machine."""

EACH = 40
SWARM = (swarm1, swarm2, swarm3, swarm4, swarm5)
PEERS = EACH * len(SWARM)
IDLE_S = 30


def direct() -> int:
    """How many peers are direct."""
    return sum(it["state"] == "direct" for it in peers(alice).values())


def until_all_are_direct(began: float) -> float:
    """Waits for it; how many seconds after `began` that was, to the next two: the daemon is to have little to do with asking."""
    while (count := direct()) < PEERS:
        alice.log(f"{count} of {PEERS} are direct, {ticks(alice) / 100} s of processor time")
        assert time.monotonic() < began + 600, f"only {count} of {PEERS} are direct"
        time.sleep(2)
    return round(time.monotonic() - began, 1)


def packets(way: str) -> int:
    """What the host has received (`rx`) or sent (`tx`) so far, all protocols."""
    return int(alice.succeed(f"cat /sys/class/net/eth1/statistics/{way}_packets"))


def links() -> dict[str, Record]:
    """All tunnel links with their counters, by the peers' names: one command for two hundred."""
    return {name: it for it in json.loads(alice.succeed("ip -s -d -j link")) for name in it.get("altnames", [])}


def bytes_of(shown: Record) -> tuple[int, int]:
    """What a link has received and sent."""
    return shown["stats64"]["rx"]["bytes"], shown["stats64"]["tx"]["bytes"]


def check_paths(shown: dict[str, Record]) -> None:
    """Every peer is direct at the address that its name has, and its link sends there."""
    told = peers(alice)
    assert len(told) == PEERS, len(told)
    for name, record in told.items():
        compare_path(name, record, shown[name], ExpectedPath(remote(name)))


def remote(name: str) -> str:
    """The address of a far end."""
    return name.removeprefix("swarm-").replace("-", ".")


start_all()
# Registered: the far ends look for it once, when they register themselves.
alice.wait_until_succeeds("gretun stun")
with subtest(f"{PEERS} peers become direct"):
    idle, began = ticks(alice), time.monotonic()
    for number, machine in enumerate(SWARM):
        first = 20 + number * EACH
        machine.succeed(f"seq {first} {first + EACH - 1} | sed 's|.*|address add 203.0.113.&/24 dev eth1|' | ip -batch -")
        machine.succeed(f"swarm http://203.0.113.1:8443 203.0.113.{first} {EACH} >/tmp/swarm.log 2>&1 </dev/null &")
    for machine in SWARM:
        machine.succeed("pgrep -x swarm || { cat /tmp/swarm.log; false; }")
    measured("join_all_s", until_all_are_direct(began))
    measured("join_cpu_s", (ticks(alice) - idle) / 100)
    for name in (f"swarm-203-0-113-{last}" for last in (20, 99, 219)):
        check_ping_over(alice, name, ExpectedPath(remote(name)))

with subtest("at rest"):
    time.sleep(10)  # what the joins have set going
    before = links()
    check_paths(before)
    began, cpu, received, sent = time.monotonic(), ticks(alice), packets("rx"), packets("tx")
    time.sleep(IDLE_S)
    # In hundredths of a second, so that it is a percentage.
    cpu, received, sent, took_s = ticks(alice) - cpu, packets("rx") - received, packets("tx") - sent, time.monotonic() - began
    measured("idle_cpu_percent", round(cpu / took_s, 2))
    measured("idle_packets_received_per_second_and_peer", round(received / took_s / PEERS, 2))
    measured("idle_packets_sent_per_second_and_peer", round(sent / took_s / PEERS, 2))
    shown = links()
    check_paths(shown)
    # Data probes, each through the link of its own peer.
    for name, early in before.items():
        moved = [after - at_first for after, at_first in zip(bytes_of(shown[name]), bytes_of(early), strict=True)]
        assert min(moved) > 0, f"the link to {name} received and sent {moved} bytes in {IDLE_S} s"
    for key, kib in memory(alice).items():
        measured(f"daemon_{key.lower()}_kib", kib)

with subtest("a restart loses nothing, and all are direct again"):
    pings = BackgroundPing(alice, tunnel_ip(alice, "swarm-203-0-113-20"), 50)
    alice.succeed("systemctl restart gretun-peer.service")
    measured("restart_until_all_direct_s", until_all_are_direct(time.monotonic()))
    check_paths(links())
    assert pings.lost() == 0, pings.output()
