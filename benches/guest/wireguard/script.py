import statistics

ROUNDS = 6
SECONDS = 4
WG = {"alice": "10.98.0.1", "bob": "10.98.0.2"}
NAT = {"alice": "203.0.113.10", "bob": "203.0.113.20"}
# gretun's tunnel runs from NAT to NAT, and not inside WireGuard.
PATHS = {"alice": ExpectedPath(NAT["bob"]), "bob": ExpectedPath(NAT["alice"])}


def rtt(ip: str) -> float:
    """Median round trip in milliseconds."""
    return statistics.median(float(t) for t in re.findall(r"time=([\d.]+)", alice.succeed(f"ping -c 50 -i 0.05 {ip}")))


def check_paths() -> None:
    """The daemon's tunnel is where it is meant to be."""
    for machine, other in ((alice, "bob"), (bob, "alice")):
        check_path(machine, other, PATHS[machine.name])


def measure(name: str) -> float:
    """The rate through one device, while the other stands still."""
    check_paths()
    idle = [device for other, device in devices.items() if other != name]
    rate = tcp_rate(alice, bob, addresses[name], SECONDS, devices[name], idle)
    check_paths()
    return rate


start_all()
join(alice, bob)

public = {}
for machine in (alice, bob):
    machine.succeed("modprobe wireguard", "umask 077; wg genkey >/tmp/wg.key")
    public[machine.name] = machine.succeed("wg pubkey </tmp/wg.key").strip()
for machine, other in ((alice, "bob"), (bob, "alice")):
    machine.succeed(
        "ip link add wg0 type wireguard",
        # The NATs keep the port, so the endpoints are known: WireGuard alone could not have learned them.
        f"wg set wg0 listen-port 51820 private-key /tmp/wg.key peer {public[other]} allowed-ips {WG[other]}/32 "
        f"endpoint {NAT[other]}:51820 persistent-keepalive 1",
        f"ip addr add {WG[machine.name]} peer {WG[other]} dev wg0",
        "ip link set wg0 up",
    )
alice.wait_until_succeeds(f"ping -c 1 -W 1 {WG['bob']}")

addresses = {"gretun": tunnel_ip(alice, "bob"), "wireguard": WG["bob"]}
devices = {"gretun": peer(alice, "bob")["interface"], "wireguard": "wg0"}
rates: dict[str, list[float]] = {name: [] for name in addresses}
for name in addresses:
    alice.log(f"warming up {name}: {measure(name):.0f} Mbit/s")
for number in range(ROUNDS):
    for name in list(addresses)[:: 1 if number % 2 else -1]:
        rates[name].append(measure(name))
for name, values in rates.items():
    measured(f"{name}_median_mbit_s", round(statistics.median(values), 1))
    measured(f"{name}_ping_median_ms", rtt(addresses[name]))
measured("ratio", round(statistics.median(rates["gretun"]) / statistics.median(rates["wireguard"]), 3))
