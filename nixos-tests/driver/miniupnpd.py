"""A router's miniupnpd, which grants ports by PCP, NAT-PMP and UPnP IGD: the unit and the configuration that NixOS's
`services.miniupnpd` would make, around Debian's program. `scripts/setup lab` unpacks that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .rendered import STAND_IN, Configuration
from .topology import MachineSpec, PortMapping

CONFIGURATION = "miniupnpd.conf"
TABLE = (Path(__file__).resolve().parent / "miniupnpd.nft").read_text()


def add_to(configuration: Configuration, spec: MachineSpec, program: Path) -> Configuration:
    """The machine's configuration, with miniupnpd if it is a router that grants ports."""
    if spec.router is None or spec.router.port_mapping is None:
        return configuration
    inside = [interface.device for interface in spec.interfaces if interface.device != spec.router.wan]
    # -d: in the foreground, with its log on standard error.
    unit = f"[Service]\nType=exec\nExecStart={program} -d -f {STAND_IN}{CONFIGURATION} \n\n[Install]\nWantedBy=multi-user.target\n"
    return replace(
        configuration,
        units={**configuration.units, "miniupnpd.service": unit},
        files={**configuration.files, CONFIGURATION: _text(spec.router.wan, inside, spec.router.port_mapping)},
    )


def _text(outside: str, inside: list[str], port_mapping: PortMapping) -> str:
    lines = [
        f"ext_ifname={outside}",
        "enable_natpmp=yes",
        "enable_upnp=yes",
        *(f"listening_ip={device}" for device in inside),
        "upnp_table_name=miniupnpd",
        "upnp_nat_table_name=miniupnpd",
        f"min_lifetime={port_mapping.lifetime_s // 2}",
        f"max_lifetime={port_mapping.lifetime_s}",
    ]
    return "".join(f"{line}\n" for line in lines)
