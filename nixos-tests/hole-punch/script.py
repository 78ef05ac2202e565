start_all()

with subtest("each side sees the other as direct"):
    join(alice, bob)
    for machine, other, endpoint in ((alice, "bob", "203.0.113.20:7777"), (bob, "alice", "203.0.113.10:7777")):
        record = peer(machine, other)
        assert record["via"] == "direct", record
        assert record["endpoint"] == endpoint, record
        wait_for_peer(machine, other, "direct", mtu=TUNNEL_MTU)

with subtest("the command prints what the daemon answers"):
    printed = json.loads(alice.succeed("gretun --json peers"))
    assert {(it["name"], it["state"], it["endpoint"]) for it in printed} == {("bob", "direct", "203.0.113.20:7777")}, printed
    assert printed[0].keys() == peer(alice, "bob").keys(), printed

with subtest("the kernel has one FOU link per peer, to the other's NAT"):
    check_link(alice, "bob", "203.0.113.20")
    check_link(bob, "alice", "203.0.113.10")

with subtest("ping, full packets and TCP cross"):
    check_pair(alice, bob, LONG_TRANSFER_BYTES)

with subtest("explain and ping say what the path is"):
    told = explain(alice, "bob")
    assert told["cause"] == "direct" and "203.0.113.20:7777" in told["verdict"], told
    assert told["remedies"] == [], told
    alice.log(alice.succeed("gretun explain bob"))
    lines = [json.loads(line) for line in alice.succeed("gretun --json ping --timeout 5s bob").splitlines()]
    answered = {(line["kind"], line["endpoint"]) for line in lines if line["rtt_ms"] is not None}
    assert {("disco", "203.0.113.20:7777"), ("data", "203.0.113.20:7777")} <= answered, lines
    alice.fail("gretun explain nobody", "gretun ping nobody")

with subtest("the routers saw UDP between the two ports, and the coordinator's"):
    check_router(gwa, {("192.168.1.2", "203.0.113.20", PORT)}, LONG_TRANSFER_BYTES)
    check_router(gwb, {("192.168.2.2", "203.0.113.10", PORT)}, LONG_TRANSFER_BYTES)

with subtest("netcheck names the NAT, with the daemon and without"):
    for arguments in ("", "--socket /nonexistent --coordinator http://203.0.113.1:8443"):
        checked = json.loads(alice.succeed(f"gretun --json netcheck {arguments}"))
        ipv4 = checked["families"][0]
        seen = (ipv4["family"], ipv4["udp"], ipv4["mapping"], ipv4["filtering"], ipv4["hairpin"])
        assert seen == ("ipv4", "works", "port-independent", "address-and-port-dependent", False), checked
        assert (checked["daemon"] is None) == bool(arguments), checked
        assert checked["port_mapping"] == [], checked
        assert {(it["name"], it["mtu"]) for it in checked["interfaces"]} >= {("eth1", 1500)}, checked
    alice.log(alice.succeed("gretun netcheck"))

with subtest("doctor finds nothing wrong"):
    alice.log(alice.succeed("gretun doctor"))

with subtest("down removes what up made"):
    bob.succeed("systemctl stop gretun-peer.service", "gretun down")
    assert links_left(bob) == "", links_left(bob)

# Takes the data port as any program would.
TAKE_PORT = 'import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("", 7777)); time.sleep(600)'

with subtest("doctor works without a daemon, and names who has the port"):
    bob.succeed("gretun doctor --coordinator http://203.0.113.1:8443")
    bob.succeed(f"python3 -c '{TAKE_PORT}' >/dev/null 2>&1 &")
    bob.wait_until_succeeds("ss -Hulpn 'sport = :7777' | grep -q python3")
    findings = json.loads(bob.fail("gretun --json doctor --coordinator http://203.0.113.9:8443"))
    wrong = {finding["check"]: finding for finding in findings if finding["level"] == "problem"}
    assert "python3" in wrong["port"]["what"], wrong
    assert set(wrong) == {"port", "coordinator", "stun"}, wrong
