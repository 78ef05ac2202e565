start_all()

neighbours = [alice, anna, arne]
addresses = {"alice": "192.168.1.2", "anna": "192.168.1.3", "arne": "192.168.1.4"}

with subtest("all pairs are direct, the three over their LAN"):
    join(*neighbours, bob)
    for machine in neighbours:
        for other in neighbours:
            if machine is not other:
                wait_for_peer(machine, other.name, "direct", via="lan")
                check_link(machine, other.name, addresses[other.name])

with subtest("the far peer reaches each at its own port of one address, with its own key"):
    ports = {}
    for machine in neighbours:
        record = wait_for_peer(bob, machine.name, "direct", via="direct")
        address, _, port = record["endpoint"].rpartition(":")
        assert address == "203.0.113.10", record
        ports[machine.name] = int(port)
    assert len(set(ports.values())) == 3, f"ports of the NAT: {ports}"
    keys = {check_link(bob, machine.name, "203.0.113.10", ports[machine.name]) for machine in neighbours}
    assert len(keys) == 3, f"GRE keys: {keys}"

with subtest("ping, full packets and TCP cross between all pairs"):
    check_pair(alice, anna)
    check_pair(anna, arne)
    check_pair(arne, alice)
    for machine in neighbours:
        check_link(machine, "bob", "203.0.113.20")
        check_pair(machine, bob)

with subtest("the routers saw UDP between the ports, and the coordinator's"):
    check_router(gwa, {(address, "203.0.113.20", PORT) for address in addresses.values()})
    check_router(gwb, {("192.168.2.2", "203.0.113.10", port) for port in ports.values()})
