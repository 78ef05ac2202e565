PRINTER = "10.20.0.9"
SAME = "--key 42 --encap fou --encap-dport 5555"

start_all()
gateway.succeed("sysctl -qw net.ipv4.ip_forward=1")

with subtest("a tunnel by hand at both ends, without address translation: the LAN does not answer"):
    alice.succeed(f"gretun create --name office --remote 203.0.113.20 {SAME} --tunnel-ip 10.255.0.1/30 --route 10.20.0.0/24")
    gateway.succeed(f"gretun create --name alice --remote 203.0.113.30 {SAME} --tunnel-ip 10.255.0.2/30")
    alice.succeed("ping -c 3 -i 0.2 -W 5 10.255.0.2")
    alice.fail(f"ping -c 2 -i 0.2 -W 1 {PRINTER}")

with subtest("with it ping, full packets and TCP reach a host that knows no way back"):
    gateway.succeed(
        f"gretun create --name alice --replace --remote 203.0.113.30 {SAME} --tunnel-ip 10.255.0.2/30 --snat 10.20.0.0/24",
    )
    assert link(alice, "office")["mtu"] == TUNNEL_MTU, link(alice, "office")
    alice.succeed(f"ping -c 3 -i 0.2 -W 5 {PRINTER} && ping -c 3 -i 0.2 -W 5 -M do -s {TUNNEL_MTU - PING_OVERHEAD} {PRINTER}")
    there, back = check_tcp(alice, printer, PRINTER)
    alice.log(f"TCP to the printer: {there:.0f} Mbit/s there, {back:.0f} Mbit/s back")

with subtest("list and status say what there is"):
    [shown] = json.loads(alice.succeed("gretun --json list"))
    expected = {"name": "office", "mode": "gre", "remote": "203.0.113.20", "ikey": 42, "encap": "fou", "mtu": TUNNEL_MTU, "up": True}
    assert {key: shown[key] for key in expected} == expected, shown
    assert shown["addresses"] == ["10.255.0.1/30"] and shown["routes"] == ["10.20.0.0/24"], shown
    status = json.loads(gateway.succeed("gretun --json status alice"))
    assert status["rx_bytes"] > TRANSFER_BYTES and status["tx_bytes"] > TRANSFER_BYTES, status
    assert "none: the traffic is readable on the path" in gateway.succeed("gretun status alice")

with subtest("delete leaves nothing"):
    alice.succeed("gretun delete office")
    gateway.succeed("gretun delete alice")
    for machine in (alice, gateway):
        assert links_left(machine) == "", links_left(machine)
        assert json.loads(machine.succeed("gretun --json list")) == []
        machine.fail("nft list table inet gretun")
    alice.fail("ip route show | grep -q 10.20.0.0/24")
