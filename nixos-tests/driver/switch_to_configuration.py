#!/usr/bin/python3
"""NixOS's `switch-to-configuration test`, as far as units are concerned: inside a container, brings the units from the running system's
to those of the system that this file belongs to, by the same rules (X-ReloadIfChanged, X-RestartIfChanged, X-StopIfChanged)."""

import os
import subprocess
import sys
from pathlib import Path

MANAGER = Path("/etc/systemd/system")
CURRENT = Path("/run/current-system")


def units(system: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((system / "units").iterdir())}


def wants(unit: str, text: str) -> list[Path]:
    return [MANAGER / f"{line[9:]}.wants" / unit for line in text.splitlines() if line.startswith("WantedBy=")]


def systemctl(verb: str, names: list[str]) -> int:
    if not names:
        return 0
    print(f"{verb}: {' '.join(names)}", flush=True)
    return subprocess.run(["systemctl", verb, "--", *names], check=False).returncode


def main() -> None:
    if sys.argv[1:] != ["test"]:
        sys.exit("usage: switch-to-configuration test")
    system = Path(__file__).resolve().parent.parent
    old, new = units(CURRENT.resolve()), units(system)
    reload: list[str] = []
    restart: list[str] = []
    stop: list[str] = []
    start: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        text = new.get(name)
        if text is None:
            stop.append(name)
        elif name not in old:
            if wants(name, text):
                start.append(name)
        elif text != old[name]:
            lines = text.splitlines()
            active = subprocess.run(["systemctl", "is-active", "--quiet", name], check=False).returncode == 0
            if "X-ReloadIfChanged=true" in lines:
                (reload if active else start).append(name)
            elif "X-RestartIfChanged=false" in lines:
                pass
            elif "X-StopIfChanged=false" in lines:
                restart.append(name)
            else:
                stop.append(name)
                start.append(name)

    failed = systemctl("stop", stop)
    for name, text in old.items():
        (MANAGER / name).unlink()
        for link in wants(name, text):
            link.unlink()
    for name, text in new.items():
        (MANAGER / name).write_text(text)
        for link in wants(name, text):
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(f"../{name}")
    temporary = CURRENT.with_suffix(".new")
    temporary.symlink_to(system)
    os.replace(temporary, CURRENT)
    failed |= subprocess.run(["systemctl", "daemon-reload"], check=False).returncode
    failed |= systemctl("reload", reload) | systemctl("restart", restart) | systemctl("start", start)
    # What NixOS's own ends with when a unit failed.
    sys.exit(4 if failed else 0)


main()
