SIDES = ((alice, "bob"), (bob, "alice"))

alice.log("at 192.168.1.2, behind the port-restricted NAT 203.0.113.10; runs: gretun up --coordinator http://203.0.113.1:8443")
bob.log("at 192.168.2.2, behind the port-restricted NAT 203.0.113.20; runs the same")
coord.log("at 203.0.113.1; runs: gretun-coord --open")
start_all()

with subtest("the daemons find the path"):
    shown: dict[str, str] = {}
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while any(shown.get(machine.name) != "direct" for machine, _ in SIDES):
        for machine, other in SIDES:
            record = peers(machine).get(other, {})
            state = record.get("state", "waiting for the coordinator")
            if shown.get(machine.name) != state:
                shown[machine.name] = state
                where = f" at {record['endpoint']}" if record.get("endpoint") else ""
                machine.log(f"{other}: {state}{where}")
        assert time.monotonic() < deadline, f"not direct after {JOIN_TIMEOUT_S} s: {shown}"

with subtest("the kernel carries the data: this is its link, as `ip -d link show bob` has it"):
    data = link(alice, "bob")["linkinfo"]["info_data"]
    encap = data["encap"]
    alice.log(
        f"{link(alice, 'bob')['ifname']}: gre {data['local']} -> {data['remote']} key {data['okey']}, "
        f"{encap['type']} over UDP {encap['sport']} -> {encap['dport']}, mtu {link(alice, 'bob')['mtu']}"
    )

with subtest("ping"):
    ip = tunnel_ip(alice, "bob")
    ping = BackgroundPing(alice, ip, count=5)
    printed = 0
    while True:
        over = not ping.running()
        lines = [line for line in ping.output().splitlines() if "time=" in line]
        for line in lines[printed:]:
            alice.log(line)
        printed = len(lines)
        if over:
            break
    assert ping.lost() == 0, "packets were lost"
    times = re.findall(r"time=([\d.]+)", ping.output())

with subtest("TCP"):
    there, back = check_tcp(alice, bob)
    alice.log(f"{TRANSFER_BYTES >> 20} MB to bob at {there:.0f} Mbit/s, and {TRANSFER_BYTES >> 20} MB back at {back:.0f} Mbit/s")

for machine, other in SIDES:
    record = peer(machine, other)
    assert record["state"] == "direct", record
    machine.log(f"{other} is {record['state']} at {record['endpoint']}")
alice.log(f"ping {min(map(float, times))} ms, TCP {there:.0f} Mbit/s there, {back:.0f} Mbit/s back (all of it emulated on this machine)")
