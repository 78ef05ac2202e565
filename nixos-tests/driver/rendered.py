"""What the NixOS modules render for the machines of a scenario, as `nixos-tests/eval/run --update` has written it down.

Beside the scenarios of a directory stands `golden/scenarios/NAME.json` for each of them, and in `golden/scenarios/units/` the texts of
the units, one file for each different text. Both grades of the local driver run exactly these command lines and files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The hash of every store path in a golden file; see nixos-tests/eval/pkgs.nix.
STAND_IN = "/nix/store/" + 32 * "0" + "-"
UPDATE = "GRETUN_NIXPKGS_LIB=NIXPKGS/lib nixos-tests/eval/run --update (NIXPKGS: a nixpkgs tree, or nix-community/nixpkgs.lib)"


class RenderedError(Exception):
    """What the modules render is not known for this scenario."""


@dataclass(frozen=True)
class Configuration:
    """gretun's units and configuration files on one machine, by name, with stand-ins for store paths."""

    units: Mapping[str, str]
    files: Mapping[str, str]

    def placed(self, store: str) -> Configuration:
        """The same with real paths below `store`: like Nix's, the path of a configuration file changes with its content."""
        places = {name: f"{store}/{digest(text.encode())[:32]}-{name}" for name, text in self.files.items()}
        units = {}
        for unit, text in self.units.items():
            for name, place in places.items():
                text = re.sub(re.escape(STAND_IN + name) + r"(?=\s)", place, text)
            units[unit] = text.replace(STAND_IN, f"{store}/")
        return Configuration(units, {places[name]: text for name, text in self.files.items()})


@dataclass(frozen=True)
class Firewall:
    """NixOS's `networking.firewall`, as the modules set it."""

    tcp_ports: tuple[int, ...]
    udp_ports: tuple[int, ...]
    trusted_interfaces: tuple[str, ...]
    loose_reverse_path: bool


@dataclass(frozen=True)
class RenderedMachine:
    """One machine."""

    configuration: Configuration
    switches: Mapping[str, Configuration]
    firewall: Firewall
    sysctl: Mapping[str, str]
    groups: tuple[str, ...]
    tmpfiles: tuple[str, ...]


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def file_of(scenario: Path) -> Path:
    """Where it is written down what the modules render for the scenario in this directory."""
    return scenario.parent / "golden" / "scenarios" / f"{scenario.name}.json"


def unit_file(directory: Path, name: str) -> Path:
    """The text of a unit, by its name in a scenario's record, in a directory of scenarios."""
    return directory / "golden" / "scenarios" / "units" / name


def load(scenario: Path) -> dict[str, RenderedMachine]:
    """By machine; `RenderedError` when it is missing, or was written for another topology."""
    file = file_of(scenario)
    if not file.exists():
        raise RenderedError(f"{file} is missing: what do the NixOS modules render for {scenario.name}? Run {UPDATE}")
    record = json.loads(file.read_text())
    if record["topology-sha256"] != digest((scenario / "topology.toml").read_bytes()):
        raise RenderedError(f"{file} was written for another {scenario.name}/topology.toml. Run {UPDATE}")
    return {name: _machine(scenario, machine) for name, machine in record["machines"].items()}


def _machine(scenario: Path, record: dict[str, Any]) -> RenderedMachine:
    firewall = record["firewall"]
    return RenderedMachine(
        configuration=_configuration(scenario, record),
        switches={name: _configuration(scenario, switch) for name, switch in record["switches"].items()},
        firewall=Firewall(
            tcp_ports=tuple(firewall["allowedTCPPorts"]),
            udp_ports=tuple(firewall["allowedUDPPorts"]),
            trusted_interfaces=tuple(firewall["trustedInterfaces"]),
            loose_reverse_path=firewall["checkReversePath"] == "loose",
        ),
        sysctl=record["sysctl"],
        groups=tuple(record["groups"]),
        tmpfiles=tuple(record["tmpfiles"]),
    )


def _configuration(scenario: Path, record: dict[str, Any]) -> Configuration:
    return Configuration(
        units={name: unit_file(scenario.parent, text).read_text() for name, text in record["units"].items()},
        files={name: "".join(f"{line}\n" for line in lines) for name, lines in record["files"].items()},
    )


# --- unit files -------------------------------------------------------------------------------------------------------


class Unit:
    """A unit file's [Service] and [Install] sections, as far as the driver's own supervisor needs them."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[str]] = {}
        section = ""
        for line in text.splitlines():
            if line.startswith("["):
                section = line
            elif line and section in ("[Service]", "[Install]"):
                key, _, value = line.partition("=")
                self._values.setdefault(key, []).append(value)

    def all(self, key: str) -> list[str]:
        """Every assignment of a key."""
        return self._values.get(key, [])

    def one(self, key: str, default: str = "") -> str:
        """The last assignment of a key."""
        return self._values.get(key, [default])[-1]
