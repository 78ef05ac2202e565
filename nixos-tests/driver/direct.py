"""gretun's units without systemd: the command line, files, environment, directories and credentials that a rendered unit names.

Quick to start. What only systemd can do (the sandbox, notification, the other units) is left out: see `container`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from .namespace import Box, Inside
from .rendered import Configuration, RenderedError, Unit

# What runs units, and where it is beside the programs when machines use it.
UNITS = Path(__file__).resolve().parent / "units"


def units_beside(programs: Path) -> Path:
    """The copy of `UNITS`."""
    return programs.parent / "units"


# systemd's own status for a credential that cannot be had (EXIT_CREDENTIALS).
NO_CREDENTIAL = 243


class DirectUnits:
    """The units of one machine, each a directory that `units/supervise` runs."""

    def __init__(self, machine: str, configuration: Configuration, directory: Path, programs: Path) -> None:
        self._directory = directory / "units"
        store = directory / "store"
        store.mkdir()
        (store / "gretun").mkdir()
        (store / "gretun" / "bin").symlink_to(programs)
        placed = configuration.placed(str(store))
        for place, text in placed.files.items():
            Path(place).write_text(text)
        self._units: dict[str, Unit] = {}
        for name, text in placed.units.items():
            unit = Unit(text)
            if unit.one("Type") in ("notify", "exec"):
                self._units[name] = unit
            elif unit.all("ExecStart"):
                raise RenderedError(f'{machine}: {name} needs systemd; give the machine units = "systemd" in topology.toml')
        for name, unit in self._units.items():
            home = self._directory / name
            home.mkdir(parents=True)
            (home / "command").write_text("\n".join(_command(unit, home)) + "\n")
            (home / "final").write_text(unit.one("RestartPreventExitStatus") + "\n")
        self.environment = {
            "PATH": f"{units_beside(programs)}:{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LAB_UNITS": str(self._directory),
        }

    def boot(self, box: Box) -> Inside:
        """Commands run in the box itself; no unit is started yet."""
        for name in self._units:
            for stale in ("main.pid", "supervisor.pid", "stopping", "asked"):
                (self._directory / name / stale).unlink(missing_ok=True)
        return box

    def start_commands(self) -> list[str]:
        """What starts the units that a boot starts."""
        return [f"supervise {self._directory / name}" for name, unit in self._units.items() if unit.all("WantedBy")]

    def stop_commands(self) -> list[str]:
        """What stops all units in an orderly way."""
        return [f"systemctl stop {name}" for name in self._units]

    def unasked_ends(self, inside: Inside) -> list[str]:
        """Ends of units that the script has not asked for, and panics that ended none."""
        del inside
        found = []
        for name in self._units:
            noted, log = self._directory / name / "unasked", self._directory / name / "log"
            if noted.exists():
                found += [f"{name} {line}" for line in noted.read_text().splitlines()]
            if log.exists():
                found += [f"{name}: {line}" for line in log.read_text(errors="replace").splitlines() if "panicked at" in line]
        return found

    def crash(self) -> None:
        """Nothing is left: the processes were the box's."""

    def save(self, inside: Inside | None, destination: Path) -> None:
        """Copies the units' logs."""
        del inside
        for name in self._units:
            log = self._directory / name / "log"
            if log.exists():
                shutil.copyfile(log, destination / f"{name.removesuffix('.service')}.log")


def _command(unit: Unit, home: Path) -> Iterator[str]:
    """The shell text that becomes the unit's main process."""
    environment = [f"{key}={assignment}" for key, assignment in (a.strip('"').split("=", 1) for a in unit.all("Environment"))]
    program = unit.one("ExecStart")
    yield f"umask {unit.one('UMask', '0022')}"
    for name in unit.all("StateDirectory"):
        yield f"mkdir -p -m {unit.one('StateDirectoryMode', '0755')} /var/lib/{name}"
        environment.append(f"STATE_DIRECTORY=/var/lib/{name}")
    for name in unit.all("RuntimeDirectory"):
        yield f"mkdir -p -m 0755 /run/{name}"
    if unit.all("LoadCredential"):
        credentials = home / "credentials"
        yield f"mkdir -p {credentials}"
        for credential in unit.all("LoadCredential"):
            name, _, source = credential.partition(":")
            # A literal with the same name stands in for a file that is not there.
            literal = [value for value in unit.all("SetCredential") if value.startswith(f"{name}:")]
            otherwise = f"printf '{literal[0].partition(':')[2]}' >{credentials}/{name}" if literal else f"exit {NO_CREDENTIAL}"
            yield f"if [ -e {source} ]; then cp {source} {credentials}/{name}; else {otherwise}; fi"
        environment.append(f"CREDENTIALS_DIRECTORY={credentials}")
        program = program.replace("%d", str(credentials))
    yield f"exec env -i {' '.join(environment)} {program}"
