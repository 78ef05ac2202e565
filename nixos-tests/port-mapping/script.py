ROUTER = "45.0.113.10"
# What the router grants: by PCP for at most so many seconds.
LIFETIME_S = 16


def granted() -> str:
    """The router's own rules for the ports that it grants."""
    return gwa.succeed("nft list chain inet miniupnpd prerouting_miniupnpd")


def is_granted() -> bool:
    return "192.168.1.2:7777" in granted() or "dnat ip to 192.168.1.2" in granted()


def port_mapping() -> Record:
    """What alice's daemon knows of it."""
    found: Record = json.loads(alice.succeed("gretun --json netcheck"))["daemon"]["port_mapping"]
    return found


def wait_for_port(protocol: str) -> None:
    def is_there(last: bool) -> bool:
        found = port_mapping()
        assert not last or found["protocol"] == protocol, found
        return bool(found["protocol"] == protocol)

    retry(is_there, 60)
    assert port_mapping()["external"] == f"{ROUTER}:{PORT}", port_mapping()
    assert is_granted(), granted()


def down_gives_back() -> None:
    alice.succeed("gretun down")
    assert not is_granted(), granted()


def only(rule: str) -> None:
    """The router's services from here on: what `rule` does not drop; asked by a daemon that starts anew."""
    gwa.succeed("nft flush chain inet filter asked", f"nft 'add rule inet filter asked {rule}'" if rule else "true")
    alice.succeed("systemctl start gretun-peer.service")


start_all()
gwa.succeed("nft 'add chain inet filter asked { type filter hook input priority filter; }'")

with subtest("PCP: two symmetric NATs are joined"):
    join(alice, bob)
    wait_for_port("pcp")
    record = peer(bob, "alice")
    assert (record["via"], record["endpoint"]) == ("direct", f"{ROUTER}:{PORT}"), record
    check_link(bob, "alice", ROUTER)
    told = explain(bob, "alice")
    assert any(f"router of alice: grants {ROUTER}:{PORT}" in line for line in told["evidence"]), told

with subtest("ping, full packets and TCP cross"):
    check_pair(alice, bob)

with subtest("netcheck and doctor tell of it"):
    checked = json.loads(alice.succeed("gretun --json netcheck"))
    services = {service["protocol"] for service in checked["port_mapping"]}
    assert services == {"pcp", "nat-pmp", "upnp-igd"}, checked
    assert checked["daemon"]["port_mapping"]["expires_in_s"] <= LIFETIME_S, checked
    alice.log(alice.succeed("gretun netcheck"))
    assert f"grants {ROUTER}:{PORT} by pcp" in alice.succeed("gretun doctor"), alice.succeed("gretun doctor")
    assert "grants no port" in bob.succeed("gretun doctor"), bob.succeed("gretun doctor")

with subtest("the lease is renewed: it outlives its time"):
    ends = time.monotonic() + LIFETIME_S + 4
    while time.monotonic() < ends:
        assert is_granted(), granted()
        time.sleep(1)
    assert port_mapping()["protocol"] == "pcp", port_mapping()

with subtest("a router that restarts has forgotten it, and is asked again"):
    gwa.succeed(
        "systemctl stop miniupnpd.service",
        "nft flush chain inet miniupnpd prerouting_miniupnpd",
        "conntrack -F",
        "systemctl start miniupnpd.service",
    )
    retry(lambda last: is_granted(), 60)
    join(alice, bob)
    check_ping(bob, "alice")

with subtest("a stopped daemon keeps the port, as it keeps the tunnels; down gives it back without a daemon"):
    alice.succeed("systemctl stop gretun-peer.service")
    assert is_granted(), granted()
    check_ping(bob, "alice")
    down_gives_back()

with subtest("NAT-PMP alone"):
    # PCP's version is 2; it shares its port with NAT-PMP.
    only("udp dport 5351 @th,64,8 2 drop")
    wait_for_port("nat-pmp")
    join(alice, bob)
    check_ping(alice, "bob")
    down_gives_back()

with subtest("UPnP IGD alone"):
    only("udp dport 5351 drop")
    wait_for_port("upnp-igd")
    join(alice, bob)
    check_ping(alice, "bob")
    down_gives_back()
