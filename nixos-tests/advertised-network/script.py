PRINTER = "10.20.0.9"

start_all()

with subtest("two peers are joined, and one offers a network"):
    join(alice, bob)
    alice.wait_until_succeeds("ip route show 10.20.0.0/24 | grep -q gretun")
    record = peers(alice)["bob"]
    assert (record["routes"], record["routes_refused"]) == (["10.20.0.0/24"], []), record
    assert bob.succeed("cat /proc/sys/net/ipv4/ip_forward").strip() == "1", "advertise-routes turns forwarding on"
    assert bob.succeed("ip route show 10.20.0.0/24 dev eth2").strip(), "the offering host reaches its own network as before"

with subtest("ping, full packets and TCP reach a host that knows no way back"):
    full = link(alice, "bob")["mtu"] - PING_OVERHEAD
    alice.succeed(f"ping -c 3 -i 0.2 -W 5 {PRINTER} && ping -c 3 -i 0.2 -W 5 -M do -s {full} {PRINTER}")
    there, back = check_tcp(alice, printer, PRINTER)
    alice.log(f"TCP to the printer: {there:.0f} Mbit/s there, {back:.0f} Mbit/s back")

with subtest("a restart adopts the tunnel with its route, and loses nothing"):
    ping = BackgroundPing(alice, PRINTER)
    alice.succeed("systemctl restart gretun-peer.service")
    bob.succeed("systemctl restart gretun-peer.service")
    join(alice, bob)
    ping.lost_none()

with subtest("down removes route and address translation with the tunnel"):
    for machine in (alice, bob):
        machine.succeed("systemctl stop gretun-peer.service", "gretun down")
        assert links_left(machine) == "", links_left(machine)
    alice.fail("ip route show | grep -q 10.20.0.0/24")
    bob.fail("nft list table inet gretun")
