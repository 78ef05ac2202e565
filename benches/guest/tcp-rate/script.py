import statistics

ROUNDS = 10
SECONDS = 4
# Both tunnels run from NAT to NAT, with the data port on both sides.
PATHS = {"alice": ExpectedPath("203.0.113.20"), "bob": ExpectedPath("203.0.113.10")}
HAND = {"alice": "10.99.0.1", "bob": "10.99.0.2"}


def check_paths() -> None:
    """The daemon's tunnel is where it was when the same was made by hand."""
    for machine, other in ((alice, "bob"), (bob, "alice")):
        check_path(machine, other, PATHS[machine.name])


def measure(name: str) -> float:
    """The rate through one tunnel, while the other stands still."""
    idle = [device for other, device in devices.items() if other != name]
    rate = tcp_rate(alice, bob, addresses[name], SECONDS, devices[name], idle)
    check_paths()
    return rate


start_all()
join(alice, bob)
check_paths()

# The same link by hand: same endpoints, same FOU port, same options, another key.
for machine, other in ((alice, "bob"), (bob, "alice")):
    data = link(machine, other)["linkinfo"]["info_data"]
    machine.succeed(
        f"ip link add hand type gre local {data['local']} remote {data['remote']} key 99 ttl 64 "
        f"encap fou encap-sport {data['encap']['sport']} encap-dport {data['encap']['dport']} encap-csum",
        f"ip addr add {HAND[machine.name]} peer {HAND[other]} dev hand",
        "ip link set hand up",
    )
alice.wait_until_succeeds(f"ping -c 1 -W 1 {HAND['bob']}")

addresses = {"daemon": tunnel_ip(alice, "bob"), "hand": HAND["bob"]}
devices = {"daemon": link(alice, "bob")["ifname"], "hand": "hand"}
rates: dict[str, list[float]] = {name: [] for name in addresses}
for name in addresses:
    alice.log(f"warming up {name}: {measure(name):.0f} Mbit/s")
for number in range(ROUNDS):
    for name in list(addresses)[:: 1 if number % 2 else -1]:
        rates[name].append(measure(name))
    alice.log(f"round {number + 1}: daemon {rates['daemon'][-1]:.0f}, by hand {rates['hand'][-1]:.0f} Mbit/s")

for name, values in rates.items():
    measured(f"{name}_mbit_s", [round(v, 1) for v in values])
    measured(f"{name}_median_mbit_s", round(statistics.median(values), 1))
measured("ratio_of_medians", round(statistics.median(rates["daemon"]) / statistics.median(rates["hand"]), 4))
measured("median_of_ratios", round(statistics.median(d / h for d, h in zip(rates["daemon"], rates["hand"], strict=True)), 4))
