"""What scenarios share. Both drivers put this text before every `script.py`."""

import itertools
import json
import re
import time
import typing
from collections.abc import Callable, Collection


class Host(typing.Protocol):
    """The part of a machine object that the helpers use; both drivers' machines have it."""

    name: str

    def succeed(self, *commands: str, timeout: int | None = None) -> str: ...
    def execute(self, command: str, check_return: bool = True, check_output: bool = True, timeout: int | None = 900) -> tuple[int, str]: ...
    def wait_until_succeeds(self, command: str, timeout: int = 900) -> str: ...
    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = 900) -> None: ...
    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: int = 900) -> None: ...
    def log(self, msg: str) -> None: ...


Record = dict[str, typing.Any]

PORT = 7777  # default --fou-port
EXTRA_PORTS = range(20480, 32768)  # source ports of a port search
COORDINATOR = "203.0.113.1"
COORDINATOR_FLOWS = {("tcp", COORDINATOR, 8443), ("udp", COORDINATOR, 3478), ("udp", COORDINATOR, 3479)}
# An IPv4 header and an ICMP header, and the same of IPv6.
PING_OVERHEAD = 28
PING6_OVERHEAD = 48
# Outer IP 20 or 40, UDP 8, GRE 4, key 4.
TUNNEL_OVERHEAD = {4: 36, 6: 56}
TUNNEL_MTU = 1500 - TUNNEL_OVERHEAD[4]
TCP_PORT = 5201  # iperf3's, open in the hosts' firewalls
TRANSFER_BYTES = 1024 * 1024
# Where a transfer is what the scenario is about: long enough for TCP to fill the path.
LONG_TRANSFER_BYTES = 4 * TRANSFER_BYTES
# Software emulation on a busy machine: joining takes a second or two, and may take many.
JOIN_TIMEOUT_S = 120


def until(condition: Callable[[bool], bool], timeout: int) -> None:
    """As `retry`, which this file does not have: its argument says whether it is the last try, which must succeed."""
    deadline = time.monotonic() + timeout
    while not condition(time.monotonic() >= deadline):
        assert time.monotonic() < deadline, f"not so after {timeout} s"
        time.sleep(0.5)


# --- what the daemon says ---------------------------------------------------------------------------------------------


def peers(machine: Host) -> dict[str, Record]:
    """`gretun --json peers`, by name; nothing while the daemon does not answer."""
    # Asked again and again while something is waited for: the local driver asks the daemon as the command does, without a process.
    if (ask_daemon := getattr(machine, "ask_daemon", None)) is not None:
        records = ask_daemon("peers") or []
    else:
        status, output = machine.execute("gretun --json peers")
        records = json.loads(output) if status == 0 else []
    return {record["name"]: record for record in records}


def peer(machine: Host, name: str) -> Record:
    """One peer's record, which must be there."""
    record = peers(machine).get(name)
    assert record is not None, f"{machine.name} does not know {name}"
    return record


def explain(machine: Host, name: str) -> Record:
    """`gretun explain` of one peer."""
    told: Record = json.loads(machine.succeed(f"gretun --json explain {name}"))
    return told


def wait_for_peer(machine: Host, name: str, state: str, timeout: int = JOIN_TIMEOUT_S, **fields: object) -> Record:
    """Until a peer is in a state (and its record has these fields); returns the record."""
    deadline = time.monotonic() + timeout
    while True:
        record = peers(machine).get(name, {})
        if record.get("state") == state and all(record.get(key) == value for key, value in fields.items()):
            return record
        assert time.monotonic() < deadline, f"{name} is not {state} {fields or ''} at {machine.name} after {timeout} s: {record}"
        time.sleep(0.3)


def join(*machines: Host, timeout: int = JOIN_TIMEOUT_S) -> None:
    """Until all see all others as direct."""
    for machine in machines:
        for other in machines:
            if other is not machine:
                wait_for_peer(machine, other.name, "direct", timeout)


def unit_log(machine: Host) -> str:
    """Everything that the machine's daemon has logged."""
    return machine.succeed("journalctl -u gretun-peer.service --no-pager -o cat")


def never_direct(*machines: Host) -> None:
    """No daemon has ever called a peer direct."""
    for machine in machines:
        claims = [line for line in unit_log(machine).splitlines() if " to=direct" in line]
        assert not claims, f"{machine.name}: {claims}"


def daemon_pid(machine: Host) -> int:
    """The process id of the machine's daemon."""
    return int(machine.succeed("systemctl show -p MainPID --value gretun-peer.service"))


# --- what the kernel has ----------------------------------------------------------------------------------------------


def link(machine: Host, name: str) -> Record:
    """The tunnel link towards a peer, as `ip -d link` shows it: looked up by the peer's name, which is its alternative name."""
    found = json.loads(machine.succeed(f"ip -d -j link show dev {name}"))
    assert len(found) == 1, found
    record: Record = found[0]
    return record


def links_left(machine: Host) -> str:
    """What gretun has made in the kernel and not removed: links that carry its mark or have other names, and what is on them or leads to
    them; FOU ports; its nftables tables. No host of a scenario has ingress filters or such routes of its own."""
    records = json.loads(machine.succeed("ip -j link"))
    # Ethernet devices have alternative names from udev.
    named = [it for it in records if it.get("altnames") and it["link_type"] != "ether"]
    marked = [it["ifname"] for it in records if it.get("ifalias", "").startswith("gretun") or it in named]
    filters = [f"filters of {it['dev']}" for it in json.loads(machine.succeed("tc -j qdisc")) if it["kind"] in ("ingress", "clsact")]
    listed = machine.succeed("ip route show table all; ip -6 route show table all").splitlines()
    routes = [line for line in listed if "dev gretun" in line]
    ports = machine.succeed("ip fou show 2>/dev/null || true").split()
    tables = [line for line in machine.succeed("nft list tables").splitlines() if "gretun" in line]
    return " ".join([*marked, *filters, *routes, *ports, *tables])


def family(ip: str) -> int:
    """4 or 6."""
    return 6 if ":" in ip else 4


def check_link(machine: Host, other: str, remote: str, dport: int = PORT, sport: int = PORT, path_mtu: int = 1500) -> str:
    """The link towards a peer is exactly what was meant; returns its GRE key."""
    mtu = path_mtu - TUNNEL_OVERHEAD[family(remote)]

    def has_mtu(last: bool) -> bool:
        # A packet that was late while joining makes it smaller, until the next search.
        found = link(machine, other)["mtu"]
        assert not last or found == mtu, f"{machine.name}: the link to {other} has an MTU of {found}, not {mtu}"
        return bool(found == mtu)

    until(has_mtu, JOIN_TIMEOUT_S)
    record = link(machine, other)
    data = record["linkinfo"]["info_data"]
    encap = data["encap"]
    assert record["linkinfo"]["info_kind"] == {4: "gre", 6: "ip6gre"}[family(remote)], record
    assert "UP" in record["flags"], record
    assert data["remote"] == remote, f"{machine.name} sends to {data['remote']} instead of {remote}"
    assert data["ikey"] == data["okey"] != "0.0.0.0", data
    # Sequence numbers or checksums of GRE would switch segmentation offload off.
    assert not {"iseq", "oseq", "icsum", "ocsum"} & {key for key, value in data.items() if value}, data
    assert encap["type"] == "fou", encap
    assert (encap["sport"], encap["dport"]) == (sport, dport), f"{machine.name}: {encap}"
    assert encap["csum" if family(remote) == 4 else "csum6"] is True, encap
    key: str = data["ikey"]
    return key


class ExpectedPath(typing.NamedTuple):
    """The path that a measurement is about, seen from one end."""

    remote: str
    dports: Collection[int] = (PORT,)
    sports: Collection[int] = (PORT,)
    via: str = "direct"


def compare_path(where: str, record: Record, shown: Record, path: ExpectedPath) -> None:
    """The daemon calls the peer of `record` direct over `path`, and the tunnel link, which `ip -d` has `shown`, sends there."""
    assert (record["state"], record["via"]) == ("direct", path.via), f"{where}: {record}"
    data = shown["linkinfo"]["info_data"]
    encap = data["encap"]
    ip, _, port = record["endpoint"].rpartition(":")
    assert ip.strip("[]") == data["remote"] == path.remote, f"{where} should send to {path.remote}: {record['endpoint']}, {data}"
    assert int(port) == encap["dport"] and encap["dport"] in path.dports, f"{where} sends to the wrong port: {record['endpoint']}, {encap}"
    assert encap["sport"] in path.sports, f"{where} sends from the wrong port: {encap}"


def check_path(machine: Host, other: str, path: ExpectedPath) -> None:
    """A peer is direct over exactly this path."""
    compare_path(f"{machine.name} to {other}", peer(machine, other), link(machine, other), path)


def device_bytes(machine: Host, device: str) -> tuple[int, int]:
    """The bytes that a device has received and sent."""
    received, sent = machine.succeed(f"cd /sys/class/net/{device}/statistics && cat rx_bytes tx_bytes").split()
    return int(received), int(sent)


# --- data -------------------------------------------------------------------------------------------------------------


def tunnel_ip(machine: Host, name: str, version: int = 4) -> str:
    """A peer's address inside the tunnel."""
    ips: list[str] = peer(machine, name)["tunnel_ips"]
    return next(ip for ip in ips if family(ip) == version)


def check_ping(machine: Host, name: str) -> None:
    """Ping crosses, and so does the largest packet that the link promises: unfragmented, there and back."""
    ip = tunnel_ip(machine, name)
    full = link(machine, name)["mtu"] - PING_OVERHEAD
    machine.succeed(f"ping -c 3 -i 0.2 -W 5 {ip} && ping -c 3 -i 0.2 -W 5 -M do -s {full} {ip}")


def check_ping_over(machine: Host, name: str, path: ExpectedPath) -> None:
    """`check_ping`, and its packets went over this path: the peer's link sends there, and carried them."""
    check_path(machine, name, path)
    record = link(machine, name)
    before = device_bytes(machine, record["ifname"])
    check_ping(machine, name)
    moved = [after - early for after, early in zip(device_bytes(machine, record["ifname"]), before, strict=True)]
    assert min(moved) >= 3 * (84 + record["mtu"]), f"{machine.name}: the link to {name} received and sent only {moved} bytes"
    check_path(machine, name, path)


def check_ping6(machine: Host, name: str) -> None:
    """The same with IPv6 inside."""
    ip = tunnel_ip(machine, name, 6)
    full = link(machine, name)["mtu"] - PING6_OVERHEAD
    machine.succeed(f"ping -6 -c 3 -i 0.2 -W 5 {ip} && ping -6 -c 3 -i 0.2 -W 5 -M do -s {full} {ip}")


# Both directions on one connection: the client sends; the server answers with a checksum of what came, and as much of its own.
TCP_SERVER = f"""
import os, socket, sys, zlib
blocks = int(sys.argv[1]) >> 16
with socket.create_server(("", {TCP_PORT}), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    server.settimeout(60)
    connection, _ = server.accept()
    came = 0
    while chunk := connection.recv(1 << 16):
        came = zlib.crc32(chunk, came)
    connection.sendall(came.to_bytes(4))
    block = os.urandom(1 << 16)
    for _ in range(blocks):
        connection.sendall(block)
    connection.sendall(zlib.crc32(block * blocks).to_bytes(4))
"""
TCP_CLIENT = f"""
import os, socket, sys, time, zlib
size = int(sys.argv[2])
block = os.urandom(1 << 16)
for _ in range(200):
    try:
        connection = socket.create_connection((sys.argv[1], {TCP_PORT}), timeout=60)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
began = time.monotonic()
for _ in range(size >> 16):
    connection.sendall(block)
connection.shutdown(socket.SHUT_WR)
stream = connection.makefile("rb")
answer = stream.read(4)
there = time.monotonic() - began
assert answer == zlib.crc32(block * (size >> 16)).to_bytes(4), "damaged on the way there"
began = time.monotonic()
data = stream.read(size)
back = time.monotonic() - began
assert stream.read(4) == zlib.crc32(data).to_bytes(4) and not stream.read(1), "damaged on the way back"
assert len(data) == size, f"{{len(data)}} bytes came back"
print(size * 8 / there / 1e6, size * 8 / back / 1e6)
"""


def check_tcp(client: Host, server: Host, ip: str | None = None, size: int = TRANSFER_BYTES) -> tuple[float, float]:
    """TCP transfers to the server (at its tunnel address, if none is given) and back arrive undamaged; both rates in Mbit/s."""
    server.succeed(f"python3 -ISc '{TCP_SERVER}' {size} >/tmp/tcp-server.log 2>&1 </dev/null &")
    there, back = client.succeed(f"python3 -ISc '{TCP_CLIENT}' {ip or tunnel_ip(client, server.name)} {size}", timeout=120).split()
    return float(there), float(back)


# Data probes, keepalives and MTU searches of the few seconds that a transfer takes.
IDLE_BYTES = 100_000


def tcp_rate(client: Host, server: Host, ip: str, seconds: int, device: str, idle: Collection[str]) -> float:
    """What TCP reaches in so many seconds, in Mbit/s: for measurements. The client's `device` carries the data, the `idle` ones do not."""
    route = client.succeed(f"ip -o route get {ip}")
    assert f"dev {device} " in route, f"{client.name} does not send through {device}: {route}"
    server.succeed("iperf3 --server --daemon --one-off >/dev/null 2>&1")
    server.wait_until_succeeds(f"ss -Hltn sport = :{TCP_PORT} | grep -q .")
    before = {it: sum(device_bytes(client, it)) for it in (device, *idle)}
    report = json.loads(client.succeed(f"iperf3 --client {ip} --time {seconds} --json", timeout=120))
    moved = {it: sum(device_bytes(client, it)) - count for it, count in before.items()}
    received = report["end"]["sum_received"]
    assert moved[device] >= received["bytes"] > 0, f"{client.name} did not send {received['bytes']} bytes through {device}: {moved}"
    assert all(moved[it] < IDLE_BYTES for it in idle), f"{client.name} sent through other devices than {device}: {moved}"
    return float(received["bits_per_second"]) / 1e6


def check_pair(a: Host, b: Host, size: int = TRANSFER_BYTES) -> None:
    """Everything that must work between two joined peers: small and full pings, TCP both ways, links with equal keys."""
    check_ping(a, b.name)
    there, back = check_tcp(a, b, size=size)
    a.log(f"TCP to {b.name}: {there:.0f} Mbit/s there, {back:.0f} Mbit/s back")
    keys = [link(m, o.name)["linkinfo"]["info_data"]["ikey"] for m, o in ((a, b), (b, a))]
    assert keys[0] == keys[1], f"GRE keys differ: {keys}"


# --- what the routers saw ---------------------------------------------------------------------------------------------


Flow = tuple[str, str, int, str, int]  # source, protocol, source port, destination, destination port


def protocol_name(protocol: str | int) -> str:
    """nft prints a number where the machine has no /etc/protocols."""
    return {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "ipv6-icmp": "icmpv6"}.get(str(protocol), str(protocol))


def flows(router: Host, direction: str, version: int = 4) -> dict[Flow, int]:
    """The TCP and UDP flows that the router forwarded `out` or `in`, with their bytes (see nat/watch.nft)."""
    listing = json.loads(router.succeed(f"nft --json list set inet watch {direction}{version}"))
    seen: dict[Flow, int] = {}
    for item in listing["nftables"]:
        for element in item.get("set", {}).get("elem", []):
            source, protocol, sport, destination, dport = element["elem"]["val"]["concat"]
            seen[(source, protocol_name(protocol), int(sport), destination, int(dport))] = element["elem"]["counter"]["bytes"]
    return seen


def peer_packets(router: Host, direction: str) -> int:
    """The UDP packets that the router forwarded `out` or `in`, those with the coordinator left out."""
    listing = json.loads(router.succeed(f"nft --json list set inet watch {direction}4"))
    elements = [element["elem"] for item in listing["nftables"] for element in item.get("set", {}).get("elem", [])]
    return sum(
        element["counter"]["packets"]
        for element in elements
        if protocol_name(element["val"]["concat"][1]) == "udp" and COORDINATOR not in element["val"]["concat"]
    )


def other_protocols(router: Host, version: int = 4) -> set[str]:
    """What the router forwarded that was neither TCP nor UDP, by protocol."""
    listing = json.loads(router.succeed(f"nft --json list set inet watch other{version}"))
    elements = [e for item in listing["nftables"] for e in item.get("set", {}).get("elem", [])]
    return {protocol_name(element["elem"]["val"]["concat"][1]) for element in elements}


def check_router(router: Host, data: set[tuple[str, str, int]], bytes_at_least: int = TRANSFER_BYTES) -> None:
    """The router saw nothing but the coordinator's flows and UDP between the two ports.

    `data` holds (inside host, remote address, remote port) of every data path through it; each must have carried so many bytes in sum
    of both directions. Nothing else may have passed, GRE as such above all. The peers' `aggressive-punch` is to be off: where nothing
    answers for a second, as on a slow machine, they would search for ports.
    """
    assert other_protocols(router) <= {"icmp"}, f"{router.name} forwarded {other_protocols(router)}"
    outwards, inwards = flows(router, "out"), flows(router, "in")
    for inside, remote, port in data:
        there = outwards.get((inside, "udp", PORT, remote, port), 0)
        back = inwards.get((remote, "udp", port, inside, PORT), 0)
        assert there + back >= bytes_at_least, f"{router.name}: {inside} <-> {remote}:{port} carried only {there} + {back} bytes"
    for source, protocol, sport, destination, dport in outwards:
        if (protocol, destination, dport) in COORDINATOR_FLOWS:
            assert protocol == "tcp" or sport == PORT, f"{router.name}: STUN from port {sport}"
        else:
            assert protocol == "udp" and sport == PORT, f"{router.name} forwarded {source}:{sport} -> {destination}:{dport} {protocol}"
            assert (source, destination, dport) in data, f"{router.name} forwarded {source}:{sport} -> {destination}:{dport} {protocol}"


# --- running while something else happens -----------------------------------------------------------------------------


class BackgroundPing:
    """A ping that runs while the scenario does something to the machines."""

    def __init__(self, machine: Host, ip: str, count: int = 100_000, interval_s: float = 0.2) -> None:
        """Without `count`, until it is stopped: how long the scenario takes depends on the machine."""
        self._machine = machine
        self._count = count
        self._interval_s = interval_s
        self._file = f"/tmp/ping-{ip}.log"
        machine.succeed(f"ping -c {count} -i {interval_s} {ip} >{self._file} 2>&1 </dev/null & echo $! >{self._file}.pid")

    def running(self) -> bool:
        """Whether it has not sent its last packet."""
        return self._machine.execute(f"kill -0 $(cat {self._file}.pid) 2>/dev/null")[0] == 0

    def output(self) -> str:
        """What it has printed."""
        return self._machine.succeed(f"cat {self._file}")

    def stop(self) -> tuple[int, list[int]]:
        """Ends it before its time; how many packets it sent that had a second to be answered, and the numbers of those that were not."""
        self._machine.succeed(f"kill -INT $(cat {self._file}.pid)")
        self._machine.wait_until_succeeds(f"grep -q transmitted {self._file}")
        output = self.output()
        found = re.search(r"(\d+) packets transmitted", output)
        assert found is not None, output
        sent = int(found[1]) - int(1 / self._interval_s)
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", output)}
        return sent, [number for number in range(1, sent + 1) if number not in answered]

    def lost_none(self) -> None:
        """Ends it: it was still running, and every packet was answered."""
        assert self.running(), "the ping was over before: nothing is proved"
        # What happened may have taken less than the second that a packet has to be answered.
        time.sleep(2)
        sent, lost = self.stop()
        assert sent > 0 and not lost, f"of {sent} packets these were lost: {lost}"

    def lost(self) -> int:
        """Waits for its end; how many of its packets were not answered."""
        self._machine.wait_until_succeeds(f"! kill -0 $(cat {self._file}.pid) 2>/dev/null")
        output = self.output()
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found is not None and int(found[1]) == self._count, output
        return int(found[1]) - int(found[2])


class Background:
    """A command that runs while the scenario does something else."""

    _count = 0

    def __init__(self, machine: Host, command: str) -> None:
        Background._count += 1
        self._machine = machine
        self._file = f"/tmp/background-{Background._count}"
        machine.succeed(f"{{ if {command}; then echo 0; else echo 1; fi >{self._file}.status; }} >{self._file} 2>&1 </dev/null &")

    def wait(self, timeout: int = 300) -> str:
        """Until it has ended, which must be with success; returns what it printed."""
        self._machine.wait_until_succeeds(f"test -s {self._file}.status", timeout=timeout)
        output = self._machine.succeed(f"cat {self._file}")
        assert self._machine.succeed(f"cat {self._file}.status").strip() == "0", output
        return output


# Recovery takes less than 3 s of the machines' time; an emulated machine on a busy host may take three times that.
RECOVERY_BOUND_S = 9


class Watch:
    """Ten pings a second through a tunnel, to see when data flows."""

    def __init__(self, machine: Host, ip: str) -> None:
        self._machine = machine
        self._file = f"/tmp/watch-{ip}.log"
        machine.succeed(f"ping -D -n -i 0.1 {ip} >{self._file} 2>&1 </dev/null & echo $! >{self._file}.pid")

    def now(self) -> float:
        """The time on the machine's clock, as the answers' times are."""
        return float(self._machine.succeed("date +%s.%N"))

    def answers(self) -> list[float]:
        """When answers came."""
        output = self._machine.succeed(f"grep 'bytes from' {self._file} || true")
        return [float(line[1 : line.index("]")]) for line in output.splitlines()]

    def wait_for_answer(self, since: float, timeout: int = JOIN_TIMEOUT_S) -> float:
        """Until five answers have come since that time; how long after it the first came."""
        deadline = time.monotonic() + timeout
        while True:
            later = [at for at in self.answers() if at > since]
            if len(later) >= 5:
                return round(later[0] - since, 2)
            assert time.monotonic() < deadline, f"no data for {timeout} s"
            time.sleep(0.3)

    def longest_gap(self, since: float = 0) -> float:
        """The longest time between two answers so far, the second of them after `since`."""
        times = self.answers()
        times = times[max(0, sum(at <= since for at in times) - 1) :]
        return round(max(b - a for a, b in itertools.pairwise(times)), 2)

    def stop(self) -> None:
        """Ends the pings."""
        self._machine.succeed(f"kill $(cat {self._file}.pid)")


# --- measuring ------------------------------------------------------------------------------------------------------------


def ticks(machine: Host) -> int:
    """Processor time of the daemon, in hundredths of a second."""
    fields = machine.succeed(f"cat /proc/{daemon_pid(machine)}/stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def memory(machine: Host) -> dict[str, int]:
    """What the daemon has in memory, KiB, by the kernel's names."""
    rollup = machine.succeed(f"grep -E '^(Rss|Pss|Pss_Anon|Private_Dirty):' /proc/{daemon_pid(machine)}/smaps_rollup")
    pairs = (line.split(":", 1) for line in rollup.splitlines())
    return {key: int(value.split()[0]) for key, value in pairs}


FIRST_PING_SIZE = 1028  # of the ten pings that count: no probe looks like them


# Starts the daemon and pings the other side's tunnel address every 10 ms until an answer comes; prints the seconds between. One process,
# already running: starting ping(8) again and again would cost more than what is measured. It then waits until the daemon calls the peer
# direct, sends ten larger pings, and prints how many of these were answered, the bytes that the tunnel link received and sent meanwhile,
# the daemon's record of the peer, and the link.
FIRST_PING = r"""
import json, os, select, socket, struct, subprocess, sys, time

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

def answered(wait, payload=b""):
    global sequence
    sequence = (sequence + 1) & 0xFFFF
    head = struct.pack("!BBHHH", 8, 0, 0, ident, sequence)
    try:
        icmp.sendto(struct.pack("!BBHHH", 8, 0, checksum(head + payload), ident, sequence) + payload, (target, 0))
    except OSError:
        pass
    due = time.monotonic() + wait
    while (left := due - time.monotonic()) > 0:
        if select.select([icmp], [], [], left)[0]:
            answer, source = icmp.recvfrom(2000)
            start = (answer[0] & 15) * 4
            kind, _, _, whose, _ = struct.unpack_from("!BBHHH", answer, start)
            # The first ping may be answered while later ones are under way.
            if kind == 0 and whose == ident and source[0] == target and len(answer) == start + 8 + len(payload):
                return True
    return False

def direct_record():
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.connect("/run/gretun/gretun.sock")
        daemon.sendall(b'"peers"\n')
        peers = json.loads(daemon.makefile().readline())["Ok"]
    return next((it for it in peers if it["name"] == name and it["state"] == "direct" and it["interface"]), None)

def carried():
    return [int(open(f"/sys/class/net/{record['interface']}/statistics/{way}_bytes").read()) for way in ("rx", "tx")]

config, log, target, name = sys.argv[1:]
icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
ident, sequence = os.getpid() & 0xFFFF, 0
output = open(log, "ab")
start = time.monotonic()
subprocess.Popen(["gretun", "up", "--config", config], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
while not answered(0.01):
    if time.monotonic() > start + 30:
        sys.exit("no answer within 30 s")
seconds = time.monotonic() - start
while (record := direct_record()) is None:
    time.sleep(0.05)
before = carried()
answers = sum(answered(2, bytes(@SIZE@ - 28)) for _ in range(10))
moved = [after - early for after, early in zip(carried(), before)]
for _ in range(20):
    record = direct_record() or record
    shown = json.loads(subprocess.check_output(["ip", "-d", "-j", "link", "show", "dev", record["interface"]]))[0]
    # A look while the tunnel moves to a better path is repeated.
    if record["endpoint"].endswith(f":{shown['linkinfo']['info_data']['encap']['dport']}"):
        break
    time.sleep(0.1)
print(json.dumps({"seconds": seconds, "answers": answers, "moved": moved, "record": record, "link": shown}))
""".replace("@SIZE@", str(FIRST_PING_SIZE))


def prepare_first_ping(machine: Host) -> str:
    """Puts what `first_ping` runs on the machine; returns the command, without the address and the peer's name."""
    machine.succeed(f"cat >/tmp/first_ping.py <<'END'\n{FIRST_PING}\nEND")
    config = machine.succeed("sed -n 's/.*--config \\([^ ]*\\).*/\\1/p' $LAB_UNITS/gretun-peer.service/command").strip()
    return f"python3 -IS /tmp/first_ping.py {config} /tmp/first-ping-daemon.log"


def first_ping(machine: Host, command: str, ip: str, name: str, path: ExpectedPath) -> tuple[float, int]:
    """Starts the machine's daemon, outside of its unit, with the command of `prepare_first_ping`.

    Returns the seconds until the peer's tunnel address answers a ping, and how many of ten pings are answered once the daemon calls the
    peer direct. The link carried these ten, and sends over `path`; without an answer, nothing is said about them.
    """
    told = json.loads(machine.succeed(f"{command} {ip} {name}"))
    seconds, answers = float(told["seconds"]), int(told["answers"])
    if answers > 0:
        compare_path(f"{machine.name} to {name}", told["record"], told["link"], path)
        received, sent = told["moved"]
        assert received >= answers * FIRST_PING_SIZE and sent >= 10 * FIRST_PING_SIZE, f"{machine.name}: another way to {name}: {told}"
    return seconds, answers


STOP_MEASURED = "if pkill -TERM -x gretun; then while pgrep -x gretun >/dev/null; do sleep 0.1; done; fi; gretun down"


def stop_measured(machine: Host) -> None:
    """Stops what `first_ping` started, and removes the tunnels."""
    machine.succeed(STOP_MEASURED)


class FreshJoins:
    """Joins two hosts again and again, each time as if they had never met: new processes, no tunnels, routers that remember nothing.

    Neither host's daemon runs before or after. Commands are few, for each costs a second of an emulated machine.
    """

    def __init__(self, one: Host, other: Host, routers: list[Host], paths: dict[str, ExpectedPath]) -> None:
        """`routers` are all that are in front of the two; `paths` has the path from each of the two to the other, by the host's name."""
        self._commands = {host.name: prepare_first_ping(host) for host in (one, other)}
        self._routers = routers
        self._paths = paths
        self.seconds: list[float] = []
        self.false_direct = 0

    def once(self, waiting: Host, starting: Host, ip: str) -> None:
        """One join, from the start of the second daemon to the first answer of the first one's tunnel address `ip`."""
        for router in self._routers:
            router.succeed("conntrack --flush 2>/dev/null")
        start_alone(waiting)
        seconds, answers = first_ping(starting, self._commands[starting.name], ip, waiting.name, self._paths[starting.name])
        self.seconds.append(seconds)
        if answers == 0:
            self.false_direct += 1
            starting.log(f"called {waiting.name} direct, and no ping was answered")
        waiting.succeed(STOP_UNIT)
        starting.succeed(STOP_MEASURED)

    def packets(self, waiting: Host, starting: Host, router: Host) -> dict[str, float]:
        """One more join: the UDP packets between the two that `router` let through until both were direct, and then, idle, in a second."""
        router.succeed("nft flush set inet watch out4; nft flush set inet watch in4; conntrack --flush 2>/dev/null")
        start_alone(waiting)
        starting.succeed("systemctl start gretun-peer.service")
        join(waiting, starting)
        for machine, other in ((waiting, starting), (starting, waiting)):
            check_path(machine, other.name, self._paths[machine.name])
        counted: dict[str, float] = {f"{way} until direct": peer_packets(router, way) for way in ("out", "in")}
        time.sleep(10)  # what the join has set going
        for way in ("out", "in"):
            before, began = peer_packets(router, way), time.monotonic()
            time.sleep(30)
            counted[f"{way} a second, idle"] = round((peer_packets(router, way) - before) / (time.monotonic() - began), 2)
        for machine, other in ((waiting, starting), (starting, waiting)):
            check_path(machine, other.name, self._paths[machine.name])
        for machine in (waiting, starting):
            machine.succeed(STOP_UNIT)
        return counted

    def summary(self) -> str:
        """Median and 95th percentile."""
        ordered = sorted(self.seconds)
        return f"{ordered[len(ordered) // 2]:.2f} / {ordered[len(ordered) * 95 // 100]:.2f} s"


STOP_UNIT = "systemctl stop gretun-peer.service; gretun down"


def start_alone(machine: Host) -> None:
    """Starts a machine's daemon and waits until STUN has answered it, and it has published that."""
    machine.succeed(
        "systemctl start gretun-peer.service; timeout 60 sh -c 'until gretun stun >/dev/null 2>&1; do sleep 0.1; done; sleep 0.5'"
    )
