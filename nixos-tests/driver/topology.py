"""`topology.toml`, parsed into values that cannot be wrong.

The format is described in `nixos-tests/README.md`. Everything that a scenario could get wrong is refused here, with the place in the
file, so that no later step needs to check again.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAT_KINDS = ("none", "full-cone", "address-restricted", "port-restricted", "symmetric")
MACHINE_NAME = re.compile(r"^[a-z][a-z0-9]*$")
UNIT_GRADES = ("direct", "systemd", "package")
DRIVERS = ("nixos", "local")
DEFAULT_TIMEOUT_S = 600
DEFAULT_PORT_LIFETIME_S = 7200

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class TopologyError(Exception):
    """A topology file that does not follow the format."""


@dataclass(frozen=True)
class Network:
    """One Ethernet segment."""

    name: str
    ipv4: ipaddress.IPv4Network
    ipv6: ipaddress.IPv6Network | None
    latency_ms: float
    loss_percent: float
    mtu: int  # of the local driver, which carries jumbo frames

    @property
    def impaired(self) -> bool:
        """Whether interfaces on it need netem."""
        return self.latency_ms > 0 or self.loss_percent > 0


@dataclass(frozen=True)
class Interface:
    """One network card of a machine; `device` is eth1, eth2, ... in the order of the file."""

    device: str
    network: Network
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class PortMapping:
    """A router that grants ports to inside hosts which ask for them."""

    lifetime_s: int  # the longest that it grants one by PCP


@dataclass(frozen=True)
class Router:
    """What makes a machine a router."""

    nat: str
    wan: str  # device on the outside network
    port_mapping: PortMapping | None


@dataclass(frozen=True)
class MachineSpec:
    """One machine."""

    name: str
    interfaces: tuple[Interface, ...]
    gateways: tuple[str, ...]
    router: Router | None
    firewall: bool
    under_systemd: bool  # runs its units under a systemd of its own
    from_package: bool  # has none of gretun but the Debian packages, to be installed
    is_coordinator: bool

    @property
    def start_rank(self) -> int:
        """Coordinators start first, then routers, then the rest."""
        if self.is_coordinator:
            return 0
        return 1 if self.router else 2


@dataclass(frozen=True)
class Topology:
    """A whole scenario's machines and networks; `raw` is the parsed file as the script sees it."""

    description: str
    drivers: tuple[str, ...]  # those that can run it
    timeout_s: int
    networks: tuple[Network, ...]
    machines: tuple[MachineSpec, ...]
    raw: dict[str, object]


def load(path: Path) -> Topology:
    """Reads and checks a topology file."""
    try:
        raw = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise TopologyError(f"{path}: {error}") from error
    try:
        return _topology(Table(raw, ""))
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from error


class Table:
    """A TOML table that remembers where it is and which keys were asked for."""

    def __init__(self, values: object, place: str) -> None:
        if not isinstance(values, dict):
            raise TopologyError(f"{place} must be a table")
        self.values: dict[str, object] = values
        self.place = place
        self.known: set[str] = set()

    def at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def get(self, key: str) -> object | None:
        self.known.add(key)
        return self.values.get(key)

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise TopologyError(f"{self.at(key)} must be a string")
        return value

    def required_text(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise TopologyError(f"{self.at(key)} is missing")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise TopologyError(f"{self.at(key)} must be a number, zero or greater")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise TopologyError(f"{self.at(key)} must be true or false")
        return value

    def ports(self, key: str) -> tuple[int, ...]:
        value = self.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(p, int) and 0 < p < 65536 for p in value):
            raise TopologyError(f"{self.at(key)} must be a list of ports")
        return tuple(value)

    def table(self, key: str) -> Table | None:
        value = self.get(key)
        return None if value is None else Table(value, self.at(key))

    def tables(self, key: str) -> list[tuple[str, Table]]:
        table = self.table(key)
        if table is None:
            return []
        return [(name, Table(value, table.at(name))) for name, value in table.values.items()]

    def finish(self) -> None:
        """Refuses what nobody asked for."""
        unknown = sorted(set(self.values) - self.known)
        if unknown:
            raise TopologyError(f"unknown key {self.at(unknown[0])}")


def _topology(table: Table) -> Topology:
    networks = {name: _network(name, t) for name, t in table.tables("networks")}
    machines = [_machine(name, t, networks) for name, t in table.tables("machines")]
    topology = Topology(
        description=table.required_text("description"),
        drivers=_drivers(table),
        timeout_s=int(table.number("timeout", DEFAULT_TIMEOUT_S)),
        networks=tuple(networks.values()),
        machines=tuple(sorted(machines, key=lambda m: m.start_rank)),
        raw=table.values,
    )
    table.finish()
    _refuse_duplicate_addresses(topology)
    return topology


def _drivers(table: Table) -> tuple[str, ...]:
    listed = table.get("drivers")
    if listed is None:
        return DRIVERS
    if not isinstance(listed, list) or not listed or not all(name in DRIVERS for name in listed):
        raise TopologyError(f"{table.at('drivers')} must be a list of {', '.join(DRIVERS)}")
    return tuple(listed)


def _refuse_duplicate_addresses(topology: Topology) -> None:
    owners: dict[tuple[str, str], str] = {}
    for machine in topology.machines:
        for interface in machine.interfaces:
            for address in interface.addresses:
                key = (interface.network.name, str(address.ip))
                if key in owners:
                    raise TopologyError(f"{address.ip} is given to both {owners[key]} and {machine.name}")
                owners[key] = machine.name


def _network(name: str, table: Table) -> Network:
    try:
        ipv4 = ipaddress.IPv4Network(table.required_text("ipv4"))
        ipv6_text = table.text("ipv6")
        ipv6 = ipaddress.IPv6Network(ipv6_text) if ipv6_text else None
    except ValueError as error:
        raise TopologyError(f"{table.place}: {error}") from error
    network = Network(
        name=name,
        ipv4=ipv4,
        ipv6=ipv6,
        latency_ms=table.number("latency-ms", 0),
        loss_percent=table.number("loss-percent", 0),
        mtu=int(table.number("local-mtu", table.number("mtu", 1500))),
    )
    table.finish()
    return network


def _machine(name: str, table: Table, networks: Mapping[str, Network]) -> MachineSpec:
    if not MACHINE_NAME.match(name):
        raise TopologyError(f"{table.place}: a machine's name is a letter, then letters and digits, all small")
    listed = table.get("interfaces") or []
    if not isinstance(listed, list):
        raise TopologyError(f"{table.at('interfaces')} must be a list")
    interfaces = tuple(
        _interface(f"eth{i}", Table(value, f"{table.at('interfaces')}[{i - 1}]"), networks) for i, value in enumerate(listed, start=1)
    )
    units = table.text("units") or UNIT_GRADES[0]
    if units not in UNIT_GRADES:
        raise TopologyError(f"{table.at('units')}: {units!r} is none of {', '.join(UNIT_GRADES)}")
    # What they lead to is evaluated with the NixOS modules, which check it too: see rendered.py.
    gretun = table.table("gretun")
    table.get("switch")
    machine = MachineSpec(
        name=name,
        interfaces=interfaces,
        gateways=tuple(g for g in (table.text("gateway4"), table.text("gateway6")) if g),
        router=_router(table.table("router"), interfaces),
        firewall=_firewall(table.table("firewall")),
        under_systemd=units != "direct",
        from_package=units == "package",
        is_coordinator=gretun is not None and gretun.get("coordinator") is not None,
    )
    table.finish()
    if machine.from_package and gretun is not None:
        raise TopologyError(
            f"{table.at('units')}: on a machine of the grade package nothing of gretun is there until the script installs it"
        )
    if machine.under_systemd and machine.router is not None and machine.router.port_mapping is not None:
        raise TopologyError(f"{table.at('units')}: a router with port-mapping must be of the grade direct")
    return machine


def _interface(device: str, table: Table, networks: Mapping[str, Network]) -> Interface:
    network_name = table.required_text("network")
    network = networks.get(network_name)
    if network is None:
        raise TopologyError(f"{table.at('network')}: there is no network {network_name!r}")
    addresses: list[Address] = []
    for key, prefix in (("ipv4", network.ipv4), ("ipv6", network.ipv6)):
        text = table.text(key)
        if text is None:
            continue
        if prefix is None:
            raise TopologyError(f"{table.at(key)}: the network {network_name!r} has no {key}")
        try:
            ip = ipaddress.ip_address(text)
        except ValueError as error:
            raise TopologyError(f"{table.at(key)}: {error}") from error
        if ip not in prefix:
            raise TopologyError(f"{table.at(key)}: {text} is not in {prefix}")
        addresses.append(ipaddress.ip_interface(f"{text}/{prefix.prefixlen}"))
    table.finish()
    return Interface(device, network, tuple(addresses))


def _router(table: Table | None, interfaces: tuple[Interface, ...]) -> Router | None:
    if table is None:
        return None
    nat = table.required_text("nat")
    if nat not in NAT_KINDS:
        raise TopologyError(f"{table.at('nat')}: {nat!r} is none of {', '.join(NAT_KINDS)}")
    outside = table.required_text("outside")
    wan = next((i.device for i in interfaces if i.network.name == outside), None)
    if wan is None:
        raise TopologyError(f"{table.at('outside')}: the machine has no interface on {outside!r}")
    port_mapping = _port_mapping(table.table("port-mapping"))
    table.finish()
    return Router(nat, wan, port_mapping)


def _port_mapping(table: Table | None) -> PortMapping | None:
    if table is None:
        return None
    lifetime_s = int(table.number("lifetime", DEFAULT_PORT_LIFETIME_S))
    table.finish()
    return PortMapping(lifetime_s)


def _firewall(table: Table | None) -> bool:
    """Whether the host has one; which ports it opens is NixOS's to say."""
    if table is None:
        return True
    enable = table.flag("enable", True)
    for key in ("allowed-tcp-ports", "allowed-udp-ports"):
        table.ports(key)
    table.finish()
    return enable
