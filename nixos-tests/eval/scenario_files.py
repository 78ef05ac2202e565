"""What the modules render for the machines of a scenario, as golden files: see ../driver/rendered.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from driver import rendered


def all_of_scenario(scenario: dict[str, Any]) -> str:
    """What a scenario's machines are for the NixOS driver, as one golden file."""
    nodes = {
        name: {
            "machine": node["machine"],
            "firewall": node["host"]["firewall"],
            "units": {unit: text.splitlines() for unit, text in node["units"].items() if not unit.startswith("gretun-")},
        }
        for name, node in scenario["nodes"].items()
    }
    return json.dumps(nodes, indent=2, sort_keys=True) + "\n"


def unit_texts(configuration: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """gretun's units: the name of the file with the text, and the text."""
    units = {name: text for name, text in configuration["units"].items() if name.startswith("gretun-")}
    return {name: (f"{name.removesuffix('.service')}.{rendered.digest(text.encode())[:8]}.service", text) for name, text in units.items()}


def scenario_files(directory: Path, name: str, scenario: dict[str, Any]) -> dict[Path, str]:
    """What the local driver runs: the golden files of one scenario, see driver/rendered.py."""
    files: dict[Path, str] = {}

    def configuration(node: dict[str, Any]) -> dict[str, Any]:
        texts = unit_texts(node)
        files.update({rendered.unit_file(directory, file): text for file, text in texts.values()})
        return {
            "units": {unit: file for unit, (file, _) in texts.items()},
            "files": {file: text.splitlines() for file, text in node["files"].items()},
        }

    record = {
        "topology-sha256": rendered.digest((directory / name / "topology.toml").read_bytes()),
        "machines": {
            machine: {
                **configuration(node),
                "firewall": node["host"]["firewall"],
                "sysctl": {key: str(int(value)) for key, value in node["host"]["sysctl"].items() if value is not None},
                "groups": node["host"]["groups"],
                "tmpfiles": node["host"]["tmpfiles"],
                "switches": {switch: configuration(other) for switch, other in node["switches"].items()},
            }
            for machine, node in scenario["nodes"].items()
        },
    }
    files[rendered.file_of(directory / name)] = json.dumps(record, indent=1, sort_keys=True) + "\n"
    return files
