"""The scenario's cables and switches: one bridge per network, one veth pair per interface, netem on what machines send.

All bridges live in one `Box`, so that they vanish with the scenario.
"""

from __future__ import annotations

from pathlib import Path

from .namespace import Box
from .topology import Interface, MachineSpec, Network, Topology

# Enough for 100 Mbit/s at 200 ms; netem drops beyond it.
NETEM_QUEUE_PACKETS = 20000


class Wire:
    """The network between the machines."""

    def __init__(self, topology: Topology, directory: Path) -> None:
        self._networks = [network.name for network in topology.networks]
        self._machines = [machine.name for machine in topology.machines]
        self._box = Box("wire", "", directory)
        commands = []
        for network in topology.networks:
            bridge = self._bridge(network)
            commands.append(f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
            commands.append(f"link set {bridge} mtu {network.mtu} addrgenmode none up")
        self._box.ip_batch(commands)

    def plug(self, machine: MachineSpec, box: Box) -> str:
        """Connects a machine that was just started; returns the shell text that configures its side (addresses, routes, netem)."""
        outside, inside, lines = [], [], []
        for interface in machine.interfaces:
            port, device, network = self._port(machine.name, interface.device), interface.device, interface.network
            outside += [
                f"link add {port} mtu {network.mtu} type veth "
                f"peer name {device} address {self._mac(machine.name, device)} mtu {network.mtu} netns {box.pid}",
                f"link set {port} master {self._bridge(network)} addrgenmode none up",
            ]
            for address in interface.addresses:
                inside.append(f"addr add {address} dev {device}" + (" nodad" if address.version == 6 else " brd +"))
            inside.append(f"link set {device} up")
            # Or a tunnelled segment leaves with an unfinished checksum that a NAT then spoils.
            lines.append(f"ethtool -K {device} tx off >/dev/null")
            if network.impaired:
                lines.append(_netem(interface))
        inside += [f"route add default via {gateway}" for gateway in machine.gateways]
        # The far end's namespace is named by a process id of the guest, so this runs in the wire's network namespace only.
        self._box.ip_batch(outside)
        return "\n".join([*lines, "ip -batch - <<END", *inside, "END"]) + "\n"

    def set_carrier(self, machine: str, device: str, up: bool) -> None:
        """Pulls or replaces one cable."""
        self._box.ip_batch([f"link set {self._port(machine, device)} {'up' if up else 'down'}"])

    def close(self) -> None:
        """Removes all of it."""
        self._box.kill()

    def _bridge(self, network: Network) -> str:
        return f"net{self._networks.index(network.name)}"

    def _mac(self, machine: str, device: str) -> str:
        """The same each time that the machine starts, as with real cards: neighbours take a minute to notice another."""
        return f"02:00:00:00:{self._machines.index(machine):02x}:{int(device.removeprefix('eth')):02x}"

    def _port(self, machine: str, device: str) -> str:
        return f"m{self._machines.index(machine)}{device}"


def _netem(interface: Interface) -> str:
    network = interface.network
    parts = [f"tc qdisc add dev {interface.device} root netem limit {NETEM_QUEUE_PACKETS}"]
    if network.latency_ms:
        parts.append(f"delay {network.latency_ms:g}ms")
    if network.loss_percent:
        parts.append(f"loss {network.loss_percent:g}%")
    return " ".join(parts)
