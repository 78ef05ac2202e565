import statistics

ROUNDS = 10
SECONDS = 4
HAND = {"alice": "10.99.0.1", "bob": "10.99.0.2"}


start_all()
join(alice, bob)

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
rates: dict[str, list[float]] = {name: [] for name in addresses}
for name, ip in addresses.items():
    alice.log(f"warming up {name}: {tcp_rate(alice, bob, ip, SECONDS):.0f} Mbit/s")
for number in range(ROUNDS):
    for name in list(addresses)[:: 1 if number % 2 else -1]:
        rates[name].append(tcp_rate(alice, bob, addresses[name], SECONDS))
    alice.log(f"round {number + 1}: daemon {rates['daemon'][-1]:.0f}, by hand {rates['hand'][-1]:.0f} Mbit/s")

for name, values in rates.items():
    measured(f"{name}_mbit_s", [round(v, 1) for v in values])
    measured(f"{name}_median_mbit_s", round(statistics.median(values), 1))
measured("ratio_of_medians", round(statistics.median(rates["daemon"]) / statistics.median(rates["hand"]), 4))
measured("median_of_ratios", round(statistics.median(d / h for d, h in zip(rates["daemon"], rates["hand"], strict=True)), 4))
