"""A machine as a scenario sees it: the NixOS test driver's methods, on a `Box`.

Unlike a virtual machine, it starts in a fraction of a second. Like one, it keeps `/var/lib` over `crash()` and loses `/run` and `/tmp`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import miniupnpd
from .container import Container
from .direct import DirectUnits
from .journal import Journal
from .namespace import Box, Inside
from .network import Wire
from .rendered import Firewall, RenderedMachine
from .topology import MachineSpec, Router

HERE = Path(__file__).resolve().parent
NAT_DIRECTORY = HERE.parent / "nat"
POLL_S = 0.25
DEFAULT_TIMEOUT_S = 900
# As long as the daemon gives its clients.
ASK_TIMEOUT_S = 10
DIAGNOSES = (
    "ip -d link",
    "ip addr",
    "ip route show table all",
    "ip -6 route",
    "ip fou show",
    "nft list ruleset",
    "conntrack -L 2>/dev/null",
    "ss -anup",
    "gretun --json peers",
)


class CommandFailed(Exception):
    """A command, or a condition, that a scenario needed and did not get."""


class Machine:
    """See `nixos-tests/README.md` for what scripts may use."""

    def __init__(
        self, spec: MachineSpec, rendered: RenderedMachine, wire: Wire, units: Container | DirectUnits, directory: Path, journal: Journal
    ) -> None:
        self.name = spec.name
        self._spec = spec
        self._rendered = rendered
        self._wire = wire
        self._units = units
        self._directory = directory
        self._journal = journal
        self._box: Box | None = None
        self._inside: Inside | None = None
        (directory / "var-lib").mkdir(parents=True, exist_ok=True)
        self._console = (directory / "console.log").open("ab")
        self._environment = {"HOME": "/root", "LC_ALL": "C.UTF-8", "NO_COLOR": "1", **units.environment}

    # --- power -----------------------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether the machine is on."""
        return self._inside is not None

    def start(self) -> None:
        """Power on: the network first, then the units with `autostart`."""
        if not self.started:
            self.power_on()
            self.start_units()

    def power_on(self) -> None:
        """The machine with its network and firewall, without its units.

        The firewall is there before the network is, as on NixOS: a packet that comes in before would leave a connection tracking
        entry, kept alive by those that follow it, and the NAT would have to give the flow the other way another port.
        """
        box = Box(self.name, self._setup(), self._directory)
        self._box = box
        network = self._wire.plug(self._spec, box)
        steps = "".join(f"echo {value} >/proc/sys/{key.replace('.', '/')}\n" for key, value in self._rendered.sysctl.items())
        if self._spec.router is not None:
            steps += _nft(_router_rules(self._spec.router))
        elif self._spec.firewall:
            steps += _nft(_firewall_rules(self._rendered.firewall))
        box.feed(["sh", "-e"], steps + network)
        self._inside = self._units.boot(box)

    def start_units(self) -> None:
        """Starts the units with `autostart`."""
        for command in self._units.start_commands():
            self.execute(command, check_output=False)

    def crash(self) -> None:
        """Power cut."""
        self._inside = None
        self._units.crash()
        if self._box is not None:
            self._box.kill()
            self._box = None

    def shutdown(self) -> None:
        """Stops the units, then the machine."""
        for command in self._units.stop_commands():
            self.execute(command)
        self.crash()

    def _setup(self) -> str:
        """The machine's own view of the directories that programs write to."""
        return f"""
            busybox mount -t sysfs sysfs /sys
            busybox mount -t tmpfs -o mode=755 run /run
            busybox mount -t tmpfs -o mode=1777 tmp /tmp
            busybox mount --bind {self._directory}/var-lib /var/lib
            busybox ip link set lo up
            echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct
        """

    # --- cable -----------------------------------------------------------------------------------------------------------

    def block(self) -> None:
        """Pulls the cable of eth1."""
        self._wire.set_carrier(self.name, "eth1", False)

    def unblock(self) -> None:
        """Puts the cable of eth1 back."""
        self._wire.set_carrier(self.name, "eth1", True)

    # --- commands --------------------------------------------------------------------------------------------------------

    def execute(
        self, command: str, check_return: bool = True, check_output: bool = True, timeout: float | None = DEFAULT_TIMEOUT_S
    ) -> tuple[int, str]:
        """Exit code and output of a shell command; 124 when it took longer than `timeout` seconds."""
        if self._inside is None:
            self.start()
        assert self._inside is not None
        shell = ["bash", "-c", f"set -eo pipefail\n{command}"]
        if not check_output:
            self._inside.popen(shell, self._environment, subprocess.DEVNULL, self._console)
            return -2, ""
        finished = self._inside.run(shell, self._environment, timeout, self._console)
        self._note(command, finished.status, finished.output)
        return (finished.status if check_return else -1), finished.output

    def succeed(self, *commands: str, timeout: float | None = DEFAULT_TIMEOUT_S) -> str:
        """Each command must exit 0; returns what they printed."""
        output = ""
        for command in commands:
            self._journal.detail(f"{self.name}: must succeed: {command}")
            status, text = self.execute(command, timeout=timeout)
            if status != 0:
                raise CommandFailed(f"{self.name}: `{command}` failed with exit code {status}: {_tail(text)}{self._console_tail()}")
            output += text
        return output

    def fail(self, *commands: str, timeout: float | None = DEFAULT_TIMEOUT_S) -> str:
        """Each command must exit non-zero; returns what they printed."""
        output = ""
        for command in commands:
            self._journal.detail(f"{self.name}: must fail: {command}")
            status, text = self.execute(command, timeout=timeout)
            if status == 0:
                raise CommandFailed(f"{self.name}: `{command}` succeeded, but must fail: {_tail(text)}")
            output += text
        return output

    def wait_until_succeeds(self, command: str, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        """Repeats the command until it exits 0."""
        return self._wait_for_status(command, timeout, lambda status: status == 0, "succeed")

    def wait_until_fails(self, command: str, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        """Repeats the command until it exits non-zero."""
        return self._wait_for_status(command, timeout, lambda status: status != 0, "fail")

    def _wait_for_status(self, command: str, timeout: float, done: Callable[[int], bool], word: str) -> str:
        self._journal.detail(f"{self.name}: waiting for it to {word}: {command}")
        deadline = time.monotonic() + timeout
        while True:
            left = max(1.0, deadline - time.monotonic())
            status, output = self.execute(command, timeout=left)
            if done(status):
                return output
            if time.monotonic() >= deadline:
                raise CommandFailed(
                    f"{self.name}: `{command}` did not {word} within {timeout:g} s; last exit code {status}: {_tail(output)}"
                )
            time.sleep(POLL_S)

    # --- conditions ------------------------------------------------------------------------------------------------------

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Until the unit is active; an error at once when it has failed."""
        if user is not None:
            raise CommandFailed("the local driver has no user units")
        deadline = time.monotonic() + timeout
        while True:
            _, state = self.systemctl(f"is-active {unit}")
            match state.strip():
                case "active":
                    return
                case "failed":
                    raise CommandFailed(f"{self.name}: the unit {unit} has failed")
            if time.monotonic() >= deadline:
                raise CommandFailed(f"{self.name}: the unit {unit} is not active after {timeout:g} s")
            time.sleep(POLL_S)

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Until something accepts TCP connections there."""
        self.wait_until_succeeds(f"timeout 2 bash -c ': </dev/tcp/{addr}/{port}' 2>/dev/null", timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Until nothing does."""
        self.wait_until_fails(f"timeout 2 bash -c ': </dev/tcp/{addr}/{port}' 2>/dev/null", timeout)

    def wait_for_file(self, filename: str, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Until the file exists."""
        self.wait_until_succeeds(f"test -e {filename}", timeout)

    # --- units -----------------------------------------------------------------------------------------------------------

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        """`systemctl` with these arguments."""
        if user is not None:
            raise CommandFailed("the local driver has no user units")
        return self.execute(f"systemctl {q}")

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """Starts a unit."""
        return self.systemctl(f"start {jobname}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        """Stops a unit."""
        return self.systemctl(f"stop {jobname}", user)

    # --- log -------------------------------------------------------------------------------------------------------------

    def log(self, msg: str) -> None:
        """A line in the scenario's log."""
        self._journal.line(f"{self.name}: {msg}")

    @contextlib.contextmanager
    def nested(self, msg: str, attrs: dict[str, str] | None = None) -> Iterator[None]:
        """A named step in the scenario's log."""
        del attrs
        with self._journal.step(f"{self.name}: {msg}"):
            yield

    def _note(self, command: str, status: int, output: str) -> None:
        self._console.write(f"$ {command}\n{output}[exit code {status}]\n".encode())
        self._console.flush()

    def _console_tail(self) -> str:
        lines = (self._directory / "console.log").read_text(errors="replace").splitlines()
        return "".join(f"\n    {self.name} | {line}" for line in lines[-8:])

    # --- for the driver --------------------------------------------------------------------------------------------------

    def unasked_ends(self) -> list[str]:
        """Units that ended, and the script had not asked for it; nothing of a machine that is off."""
        return [] if self._inside is None else self._units.unasked_ends(self._inside)

    def ask_daemon(self, request: str) -> object:
        """What the daemon answers to a request of its local API, without a process for it; None while it does not answer."""
        if self._inside is None:
            return None
        try:
            with socket.socket(socket.AF_UNIX) as daemon:
                daemon.settimeout(ASK_TIMEOUT_S)
                # By its path in the machine's own mounts: a socket of the file system belongs to no network.
                daemon.connect(f"/proc/{self._inside.pid}/root/run/gretun/gretun.sock")
                daemon.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(daemon.makefile().readline())
        except (OSError, ValueError):
            return None
        if not isinstance(answer, dict):
            return None
        result: object = answer.get("Ok")
        return result

    def save(self, destination: Path, diagnose: bool) -> None:
        """Copies the machine's logs; with `diagnose`, also the state of its kernel network."""
        destination.mkdir(parents=True, exist_ok=True)
        if diagnose and self._inside is not None:
            with (destination / "diagnosis.txt").open("wb") as file:
                for command in DIAGNOSES:
                    file.write(f"\n### {command}\n".encode())
                    finished = self._inside.run(["bash", "-c", command], self._environment, 20, file)
                    file.write(finished.output.encode())
        self._console.flush()
        shutil.copyfile(self._directory / "console.log", destination / "console.log")
        self._units.save(self._inside, destination)


def _nft(rules: str) -> str:
    return f"nft -f - <<'END'\n{rules}\nEND\n"


def _router_rules(router: Router) -> str:
    rules = [f'define WAN = "{router.wan}"']
    rules += [(NAT_DIRECTORY / name).read_text() for name in (f"{router.nat}.nft", "watch.nft")]
    if router.port_mapping is not None:
        rules += [(NAT_DIRECTORY / "port-mapping.nft").read_text(), miniupnpd.TABLE]
    return "\n".join(rules)


def _firewall_rules(firewall: Firewall) -> str:
    rules = (HERE / "host-firewall.nft").read_text()
    if firewall.loose_reverse_path:
        rules = rules.replace("fib saddr . mark . iif oif", "fib saddr . mark oif")
    for name, elements in (
        ("tcp-ports", firewall.tcp_ports),
        ("udp-ports", firewall.udp_ports),
        ("trusted", [json.dumps(pattern) for pattern in firewall.trusted_interfaces]),
    ):
        if elements:
            rules += f"add element inet nixos-fw {name} {{ {', '.join(map(str, elements))} }}\n"
    return rules


def _tail(text: str) -> str:
    return text[-2000:].strip()
