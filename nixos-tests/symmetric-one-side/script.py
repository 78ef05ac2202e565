start_all()


def encap(machine: Host, other: str) -> Record:
    """How the link towards a peer is wrapped in UDP."""
    data: Record = link(machine, other)["linkinfo"]["info_data"]["encap"]
    return data


def fou_ports(machine: Host) -> set[int]:
    """The UDP ports at which the kernel takes tunnels."""
    return {int(port) for port in re.findall(r"port (\d+)", machine.succeed("ip fou show"))}


with subtest("alice, behind the symmetric NAT, sends from a port of its own; bob sends to what it became outside"):
    join(alice, bob)
    source = encap(alice, "bob")["sport"]
    assert source in EXTRA_PORTS, source
    assert fou_ports(alice) == {PORT, source}, fou_ports(alice)
    assert peer(alice, "bob")["endpoint"] == "203.0.113.20:7777", peer(alice, "bob")
    address, _, outside = peer(bob, "alice")["endpoint"].rpartition(":")
    assert address == "203.0.113.10" and int(outside) not in (PORT, source), outside
    assert (encap(bob, "alice")["sport"], encap(bob, "alice")["dport"]) == (PORT, int(outside)), encap(bob, "alice")
    assert fou_ports(bob) == {PORT}, fou_ports(bob)

with subtest("ping, full packets and TCP cross"):
    check_pair(alice, bob)
    check_pair(bob, alice)

with subtest("a restart leaves the tunnel as it is, and not a packet is lost"):
    pings = BackgroundPing(alice, tunnel_ip(alice, "bob"))
    # Before the restart, for a faster path may have been found since the join. A look in between two moves is tried again.
    source = encap(alice, "bob")["sport"]
    alice.succeed("systemctl restart gretun-peer.service")
    join(alice, bob)
    assert encap(alice, "bob")["sport"] == source, encap(alice, "bob")
    pings.lost_none()

with subtest("when the router forgets its mappings, another port is found and the old one closed"):
    gwa.succeed("conntrack --flush 2>/dev/null")
    # Too soon over for a look at the state every now and then to be sure to see it: what lasts is the other port outside.
    retry(lambda last: peer(bob, "alice")["endpoint"] != f"{address}:{outside}", 60)
    join(alice, bob)

    def has_two_ports(last: bool) -> bool:
        found, wanted = fou_ports(alice), {PORT, encap(alice, "bob")["sport"]}
        assert not last or found == wanted, f"{found}, not {wanted}"
        return found == wanted

    # Which port it is may change once more: a search that the other side began may win later.
    retry(has_two_ports, 120)
    join(alice, bob)
    check_ping(alice, "bob")

with subtest("a port that a killed daemon had opened for no link yet is closed by the next one"):
    stale = next(port for port in EXTRA_PORTS if port not in fou_ports(alice))
    alice.succeed("systemctl stop gretun-peer.service", f"ip fou add port {stale} ipproto 47")
    noted = json.loads(alice.succeed("cat /var/lib/gretun/extra-ports.json"))
    noted[0].append(stale)
    alice.succeed(f"echo '{json.dumps(noted)}' >/var/lib/gretun/extra-ports.json")
    alice.succeed("systemctl start gretun-peer.service")
    retry(lambda last: stale not in fou_ports(alice), 60)
    join(alice, bob)
    check_ping(alice, "bob")

with subtest("down removes what up made, the extra port among it"):
    alice.succeed("systemctl stop gretun-peer.service", "gretun down")
    assert links_left(alice) == "", links_left(alice)
