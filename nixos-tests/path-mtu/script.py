SILENCE = "nft 'table ip silence { chain output { type filter hook output priority 0; icmp type destination-unreachable drop; }; }'"


# One TCP connection: half is sent before the hop shrinks (the file tells when, and that it may go on), the rest after it.
SLOW_SERVER = f"""
import socket, zlib
with socket.create_server(("", {TCP_PORT})) as server:
    server.settimeout(120)
    connection, _ = server.accept()
    connection.settimeout(120)
    came = 0
    while chunk := connection.recv(1 << 16):
        came = zlib.crc32(chunk, came)
    connection.sendall(came.to_bytes(4))
"""
SLOW_CLIENT = f"""
import os, pathlib, socket, sys, time, zlib
for _ in range(200):
    try:
        connection = socket.create_connection((sys.argv[1], {TCP_PORT}), timeout=120)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
half = os.urandom({LONG_TRANSFER_BYTES} >> 1)
flag = pathlib.Path("/tmp/halfway")
connection.sendall(half)
flag.touch()
while flag.exists():
    time.sleep(0.05)
connection.sendall(half)
connection.shutdown(socket.SHUT_WR)
assert connection.makefile("rb").read() == zlib.crc32(half + half).to_bytes(4)
"""


# The size in use is confirmed every 4 s, with three tries. Larger ones are tried 30 s after the last search, which takes some seconds.
SHRINK_BOUND_S = 8
GROW_BOUND_S = 38


def set_hop(mtu: int) -> None:
    """Both routers' interfaces on the hop."""
    for router in (gwa, gwb):
        router.succeed(f"ip link set eth1 mtu {mtu}")


def wait_for_mtu(path_mtu: int, timeout: int = JOIN_TIMEOUT_S) -> float:
    """Until both links have exactly the MTU that fits, and the daemons say so; how many seconds that took."""
    began = time.monotonic()
    for machine, other in ((alice, "bob"), (bob, "alice")):
        wait_for_peer(machine, other, "direct", timeout, mtu=path_mtu - TUNNEL_OVERHEAD[4])
    return time.monotonic() - began


def crosses(path_mtu: int) -> None:
    """The largest packet and TCP cross, and nothing larger is promised."""
    check_link(alice, "bob", "198.51.100.2", path_mtu=path_mtu)
    check_link(bob, "alice", "192.0.2.2", path_mtu=path_mtu)
    check_ping(alice, "bob")
    check_tcp(alice, bob, size=LONG_TRANSFER_BYTES)


start_all()
for router in (gwa, gwb):
    router.succeed(SILENCE)

whole = int(gwa.succeed("cat /sys/class/net/eth1/mtu"))
with subtest(f"{whole} bytes all the way are found and used"):
    join(alice, bob)
    wait_for_mtu(whole)
    crosses(whole)

for mtu in (1500, 1492, 1400, 1280):
    with subtest(f"the hop shrinks to {mtu} bytes and says nothing"):
        set_hop(mtu)
        took = wait_for_mtu(mtu)
        measured(f"seconds until the tunnel fits a hop that shrank to {mtu}", took)
        assert took < SHRINK_BOUND_S, f"{took} s"
        crosses(mtu)

with subtest("the hop grows"):
    set_hop(1500)
    took = wait_for_mtu(1500)
    measured("seconds until the tunnel uses a hop that grew to 1500", took)
    assert took < GROW_BOUND_S, f"{took} s"
    crosses(1500)

with subtest("the hop shrinks under a TCP connection, which goes on"):
    server = Background(bob, f"python3 -ISc '{SLOW_SERVER}'")
    client = Background(alice, f"python3 -ISc '{SLOW_CLIENT}' {tunnel_ip(alice, 'bob')}")
    alice.wait_until_succeeds("test -e /tmp/halfway")
    set_hop(1400)
    alice.succeed("rm /tmp/halfway")
    client.wait()
    server.wait()
    wait_for_mtu(1400)
    crosses(1400)

with subtest("a host that starts behind the small hop joins, and TCP crosses at once"):
    alice.succeed("gretun down")
    bob.succeed("systemctl restart gretun-peer.service")
    alice.succeed("systemctl start gretun-peer.service")
    join(alice, bob)
    check_tcp(alice, bob, size=LONG_TRANSFER_BYTES)
    wait_for_mtu(1400)

with subtest("every change was done at once, though IPv6 leaves a link whose MTU falls below 1280"):
    for machine in (alice, bob):
        refused = [line for line in unit_log(machine).splitlines() if "cannot be set up" in line]
        assert not refused, f"{machine.name}: {refused}"
