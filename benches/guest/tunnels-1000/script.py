import statistics

TUNNELS = 1000
ROUNDS = 3
# Runs a command; prints its wall-clock and processor time in seconds.
STOPWATCH = """
import os, resource, subprocess, sys, time
began = time.monotonic()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - began, used.ru_utime, used.ru_stime)
"""


def timed(command: str) -> tuple[float, float, float]:
    """Seconds that a command took: on the wall clock, in user mode, in the kernel."""
    wall, user, kernel = alice.succeed(f"python3 -ISc '{STOPWATCH}' {command}").split()
    return float(wall), float(user), float(kernel)


def links() -> int:
    """How many of the tunnels there are."""
    return int(alice.succeed("ip -o link show type gre | grep -c ' t[0-9]' || true"))


numbers = range(1, TUNNELS + 1)
address = {i: f"10.{i // 256}.{i % 256}.1/30" for i in numbers}
toml = "\n".join(f'[tunnels.t{i}]\nlocal = "203.0.113.30"\nremote = "203.0.113.31"\nkey = {i}\ntunnel-ip = "{address[i]}"' for i in numbers)
create = "\n".join(
    f"link add name t{i} mtu 1472 type gre local 203.0.113.30 remote 203.0.113.31 ttl 64 key {i}\n"
    f"addr add {address[i]} dev t{i}\nlink set dev t{i} up"
    for i in numbers
)
delete = "\n".join(f"link del dev t{i}" for i in numbers)

start_all()
for file, text in (("tunnels.toml", toml), ("none.toml", ""), ("create.batch", create), ("delete.batch", delete)):
    lines = text.splitlines()
    alice.succeed(f": >/tmp/{file}")
    # A command has to fit into one argument.
    for first in range(0, len(lines), 1000):
        part = "\n".join(lines[first : first + 1000])
        alice.succeed(f"cat >>/tmp/{file} <<'END'\n{part}\nEND")
# What takes longer the first time: the modules, and the programs' own pages.
alice.succeed("modprobe ip_gre", "gretun list", "ip -batch /dev/null")

STEPS = {
    "gretun_create": ("gretun apply /tmp/tunnels.toml", TUNNELS),
    "gretun_list": ("gretun list", TUNNELS),
    "gretun_list_json": ("gretun --json list", TUNNELS),
    "ip_list": ("ip -d -s link show type gre", TUNNELS),
    "gretun_no_change": ("gretun apply /tmp/tunnels.toml", TUNNELS),
    "gretun_remove": ("gretun apply /tmp/none.toml", 0),
    "ip_create": ("ip -batch /tmp/create.batch", TUNNELS),
    "ip_remove": ("ip -batch /tmp/delete.batch", 0),
}
taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in STEPS}
for _ in range(ROUNDS):
    for name, (command, left) in STEPS.items():
        taken[name].append(timed(command))
        assert links() == left, f"{name}: {links()} tunnels"
for name, times in taken.items():
    wall, user, kernel = (statistics.median(column) for column in zip(*times, strict=True))
    measured(f"{name}_s", round(wall, 2))
    measured(f"{name}_user_ms", round(1000 * user))
    measured(f"{name}_kernel_ms", round(1000 * kernel))
measured(
    "create_gretun_to_ip",
    round(statistics.median(t[0] for t in taken["gretun_create"]) / statistics.median(t[0] for t in taken["ip_create"]), 2),
)
measured(
    "remove_gretun_to_ip",
    round(statistics.median(t[0] for t in taken["gretun_remove"]) / statistics.median(t[0] for t in taken["ip_remove"]), 2),
)
