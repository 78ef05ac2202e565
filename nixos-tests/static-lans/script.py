ALICE = ("192.168.1.2", "fd00:a::2")
BOB = ("192.168.2.2", "fd00:b::2")
# 1500 - IPv4 20 - GRE 4.
MTU = 1476
# What a ping's data leaves to the headers: IPv4 or IPv6, and ICMP.
OVERHEADS = (28, 48)


def create(gateway: Host, remote: str, number: int, networks: str) -> None:
    """One end of the tunnel, with the networks behind the other."""
    gateway.succeed(
        f"gretun create --name lans --remote {remote} --tunnel-ip 10.255.0.{number}/30 --tunnel-ip fd00:ab::{number}/64 {networks}"
    )


start_all()

with subtest("each router makes its end, with routes to the networks behind the other"):
    alice.fail(f"ping -c 1 -W 1 {BOB[0]}")
    create(gwa, "203.0.113.20", 1, "--route 192.168.2.0/24 --route fd00:b::/64")
    create(gwb, "203.0.113.10", 2, "--route 192.168.1.0/24 --route fd00:a::/64")
    for gateway in (gwa, gwb):
        assert link(gateway, "lans")["mtu"] == MTU, link(gateway, "lans")

with subtest("ping, full packets and TCP from LAN to LAN, both ways"):
    for source, target, addresses in ((alice, bob, BOB), (bob, alice, ALICE)):
        for ip, overhead in zip(addresses, OVERHEADS, strict=True):
            source.wait_until_succeeds(f"ping -c 1 -W 5 {ip}", timeout=60)
            source.succeed(f"ping -c 3 -i 0.2 -W 5 -M do -s {MTU - overhead} {ip}")
            # Its own network carries more than the tunnel: path MTU discovery has to tell the hosts.
            there, back = check_tcp(source, target, ip)
            source.log(f"TCP to {ip}: {there:.0f} Mbit/s there, {back:.0f} Mbit/s back")

with subtest("list and status say what there is"):
    [shown] = json.loads(gwa.succeed("gretun --json list"))
    assert (shown["name"], shown["mode"], shown["remote"], shown["encap"]) == ("lans", "gre", "203.0.113.20", "none"), shown
    assert sorted(shown["routes"]) == ["192.168.2.0/24", "fd00:b::/64"], shown
    status = json.loads(gwb.succeed("gretun --json status lans"))
    assert status["up"] and status["rx_bytes"] > 2 * TRANSFER_BYTES and status["rx_errors"] == 0, status

with subtest("delete leaves nothing, and the LANs are apart again"):
    for gateway in (gwa, gwb):
        gateway.succeed("gretun delete lans")
        assert links_left(gateway) == "", links_left(gateway)
        assert json.loads(gateway.succeed("gretun --json list")) == []
        gateway.fail("ip route show | grep -q 10.255.0.0", "ip -6 route show | grep -q fd00:ab::")
    alice.fail(f"ping -c 1 -W 1 {BOB[0]}")
