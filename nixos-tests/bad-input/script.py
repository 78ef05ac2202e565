# The files that the daemon keeps in its state directory.
KEYS = {"node.key", "disco.key"}
FILES = {"network.json", "links.json", "extra-ports.json", "router-port.json"}
# How much of it comes.
COUNT = "nft 'table inet shouts { chain came { type filter hook prerouting priority -400; ip saddr 203.0.113.1 counter; }; }'"
UP = "gretun up --coordinator http://203.0.113.1:8443 --node-name alice"


def refused(command: str, code: int, *words: str) -> None:
    """The command ends with this exit code and an error that has these words, and leaves nothing in the kernel."""
    status, output = alice.execute(f"timeout 60 {command} 2>&1 </dev/null")
    alice.log(f"{status}: {output.strip()}")
    assert status == code, f"exit code {status} instead of {code}: {output}"
    for word in words:
        assert word in output, f"no {word!r} in: {output}"
    assert "panicked" not in output, output


start_all()

with subtest("wrong configuration: usage errors before anything is touched"):
    alice.succeed("echo 'coordinatr = \"x\"' >/tmp/bad.toml", "echo 'coordinator = ' >/tmp/broken.toml")
    refused("gretun up --config /tmp/bad.toml", 2, "coordinatr")
    refused("gretun up --config /tmp/broken.toml", 2, "/tmp/broken.toml")
    refused("gretun up --config /tmp/none.toml", 2, "/tmp/none.toml")
    refused("gretun up --node-name alice --coordinator nonsense", 2, "nonsense")
    refused(f"{UP} --fou-port 70000", 2, "70000")
    refused(f"{UP} --iface 'a/b'", 2, "a/b")
    assert links_left(alice) == ""

with subtest("no capability: said before any kernel call"):
    unprivileged = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    refused(f"{unprivileged} {UP} --state-dir /tmp/state --socket /tmp/socket", 3, "CAP_NET_ADMIN")
    refused(f"setpriv --bounding-set -net_raw {UP}", 3, "CAP_NET_RAW")
    assert links_left(alice) == ""

with subtest("the port is taken"):
    alice.succeed(
        "python3 -c 'import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); s.bind((\"\", 7777)); time.sleep(600)' "
        ">/dev/null 2>&1 </dev/null & echo $! >/tmp/taker.pid"
    )
    alice.wait_until_succeeds("ss -Huln sport = :7777 | grep -q .")
    refused(UP, 1, "7777")
    alice.succeed("kill $(cat /tmp/taker.pid)")
    alice.wait_until_fails("ss -Huln sport = :7777 | grep -q .")
    assert links_left(alice) == ""

with subtest("a module is missing and cannot be loaded"):
    helper = alice.succeed("cat /proc/sys/kernel/modprobe").strip()
    alice.wait_until_succeeds("modprobe --remove ip_gre ip6_gre fou6 fou", timeout=60)
    alice.succeed("echo /nonexistent >/proc/sys/kernel/modprobe")
    try:
        without_modprobe = 'unshare --mount bash -c \'mount --bind /dev/null "$(readlink -f "$(command -v modprobe)")"; exec "$@"\' -'
        refused(f"{without_modprobe} {UP}", 3, "modprobe", "fou")
        assert links_left(alice) == ""
    finally:
        alice.succeed(f"echo {helper} >/proc/sys/kernel/modprobe", "modprobe --all ip_gre ip6_gre fou fou6")

with subtest("corrupt state: said, never overwritten"):
    # The unit itself is started: its directory belongs to a user that systemd makes up, and is a link.
    unit = "gretun-peer.service"
    bob.succeed(f"systemctl start {unit}", "gretun --json peers", f"systemctl stop {unit}")
    state = bob.succeed("readlink -f /var/lib/gretun").strip()
    assert state == "/var/lib/private/gretun", state
    bob.succeed(f"cp -a {state} /tmp/good")
    there = set(bob.succeed(f"ls {state}").split())
    assert KEYS <= there <= KEYS | FILES | {"lock"}, there
    for name in sorted(KEYS | FILES):
        bob.succeed(f"head -c 20 /dev/urandom >{state}/{name}")
        digest = bob.succeed(f"sha256sum <{state}/{name}")
        cursor = bob.succeed("journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'").strip()
        status, _ = bob.execute(f"systemctl start {unit}")
        output = bob.succeed(f"journalctl -u {unit} -o cat --no-pager --after-cursor '{cursor}'")
        bob.log(f"{name}: {status}: {output.strip().splitlines()[-1:]}")
        assert "panicked" not in output, output
        if name in KEYS:
            assert status != 0 and "/var/lib/gretun" in output, f"{name}: started on a corrupt key: {output}"
            assert bob.succeed(f"sha256sum <{state}/{name}") == digest, f"{name} was overwritten"
        else:
            assert status == 0, f"{name}: {output}"
            bob.succeed("gretun --json peers")
            aside = name.replace(".json", ".corrupt")
            assert bob.succeed(f"sha256sum <{state}/{aside}") == digest, f"{name} was not put aside"
        bob.succeed(f"systemctl stop {unit}", f"rm -r {state}", f"cp -a /tmp/good {state}")
    bob.succeed(f"systemctl start {unit}", "gretun --json peers", f"systemctl stop {unit}", "gretun down || true")
    assert links_left(bob) == "", links_left(bob)

with subtest("two peers are joined, and then shouted at"):
    for machine in (alice, bob):
        machine.succeed("systemctl start gretun-peer.service")
    join(alice, bob)
    before = [daemon_pid(alice), daemon_pid(bob)]
    # What bob really received, said again from elsewhere; then noise, with and without disco's magic and STUN's cookie.
    bob.succeed("timeout 60 tcpdump -i eth1 -c 3 -w /tmp/disco.pcap 'udp dst port 7777 and udp[8:4] = 0x5453f09f' 2>/dev/null")
    capture = bob.succeed("base64 -w0 /tmp/disco.pcap").strip()
    for machine in (alice, bob):
        machine.succeed(COUNT)
    coord.succeed(f"""python3 - <<'END'
import base64, os, random, socket, struct
pcap = base64.b64decode("{capture}")
replayed, at = [], 24
while at < len(pcap):
    size = struct.unpack_from("<I", pcap, at + 8)[0]
    replayed.append(pcap[at + 16 + 14 + 20 + 8 : at + 16 + size])
    at += 16 + size
assert replayed and all(r.startswith(bytes.fromhex("5453f09f92ac")) for r in replayed)
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(("", 7777))
rng = random.Random(1)
for target in ("203.0.113.30", "203.0.113.31"):
    for envelope in replayed * 20:
        s.sendto(envelope, (target, 7777))
        s.sendto(envelope[: rng.randrange(len(envelope))], (target, 7777))
    for _ in range(500):
        start = rng.choice([b"", bytes.fromhex("5453f09f92ac"), b"\\0\\1\\0\\0" + bytes.fromhex("2112a442"), b"\\0\\0\\x88\\xb5"])
        s.sendto(start + rng.randbytes(rng.randrange(1400)), (target, 7777))
END""")
    for machine, other in ((alice, "bob"), (bob, "alice")):
        counted = re.search(r"counter packets (\d+)", machine.succeed("nft list table inet shouts"))
        # Three envelopes or more, each twenty times and as often cut off, and the noise. Of the coordinator's answers there are few.
        assert counted is not None and int(counted[1]) >= 620, f"{machine.name} was not shouted at: {counted}"
        wait_for_peer(machine, other, "direct")
        assert "panicked" not in unit_log(machine), unit_log(machine)
    assert [daemon_pid(alice), daemon_pid(bob)] == before, "a daemon was restarted"
    check_link(alice, "bob", "203.0.113.31")
    check_link(bob, "alice", "203.0.113.30")
    check_pair(alice, bob)

with subtest("the coordinator is shouted at, and serves on"):
    alice.succeed("""python3 - <<'END'
import random, socket
rng = random.Random(2)
stalled = [socket.create_connection(("203.0.113.1", 8443)) for _ in range(20)]
for s in stalled:
    s.sendall(b"POST /v1/register HTTP/1.1\\r\\nContent-Length: 1000\\r\\n")
for request in [
    rng.randbytes(2000),
    b"GET /v1/peers HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
    b"POST /v1/register HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 5\\r\\n\\r\\n{{{{{",
    b"POST /v1/register HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 99999999999\\r\\n\\r\\n{",
    b"POST /v1/register HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: -1\\r\\n\\r\\n{",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\\r\\n\\r\\n",
    b"GET / HTTP/1.1\\r\\n" + b"X: y\\r\\n" * 20000 + b"\\r\\n",
]:
    with socket.create_connection(("203.0.113.1", 8443), timeout=20) as s:
        try:
            s.sendall(request)
            answer = s.recv(200)
        except OSError:
            continue
        assert not answer.startswith(b"HTTP/1.1 2") and not answer.startswith(b"HTTP/1.1 5"), (request[:60], answer)
END""")
    coord.wait_for_unit("gretun-coord.service")
    assert "panicked" not in coord.succeed("journalctl -u gretun-coord.service --no-pager -o cat")
    bob.succeed("systemctl restart gretun-peer.service")
    wait_for_peer(bob, "alice", "direct")
