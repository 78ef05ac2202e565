ROUTER = "45.0.113.10"
# What the router grants: by PCP for at most so many seconds.
LIFETIME_S = 12


def granted() -> str:
    """The router's own rules for the ports that it grants."""
    return gwa.succeed("nft list chain inet miniupnpd prerouting_miniupnpd")


def is_granted() -> bool:
    return f"dnat ip to 192.168.1.2:{PORT}" in granted()


def wait_for_port(protocol: str) -> None:
    """Until alice's daemon has been granted its port by this protocol, and the router has a rule for it."""

    def is_there(last: bool) -> bool:
        # What the daemon keeps of its lease.
        _, text = alice.execute("cat /var/lib/gretun/router-port.json")
        lease = json.loads(text or "null")
        assert not last or lease, "alice has no port"
        return bool(lease) and (lease["protocol"], lease["external"]) == (protocol, f"{ROUTER}:{PORT}")

    retry(is_there, 60)
    assert is_granted(), granted()


def down_gives_back() -> None:
    alice.succeed("gretun down")
    assert not is_granted(), granted()


def only(rule: str) -> None:
    """The router's services from here on: what `rule` does not drop; asked by a daemon that starts anew."""
    gwa.succeed("nft flush chain inet filter asked", f"nft 'add rule inet filter asked {rule}'")
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
    found = checked["daemon"]["port_mapping"]
    assert (found["protocol"], found["external"], found["behind_another_nat"]) == ("pcp", f"{ROUTER}:{PORT}", False), found
    # A lease counts for two minutes at least, however short the router keeps it.
    assert found["expires_in_s"] <= max(LIFETIME_S, 120), found
    findings = alice.succeed("gretun doctor")
    assert f"grants {ROUTER}:{PORT} by pcp" in findings, findings

with subtest("the lease is renewed: it outlives its time"):
    ends = time.monotonic() + LIFETIME_S + 3
    while time.monotonic() < ends:
        assert is_granted(), granted()
        time.sleep(1)
    assert "has not renewed its port" not in unit_log(alice), unit_log(alice)

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
