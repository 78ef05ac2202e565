"""A machine under a systemd of its own: a Debian root in a container, in the machine's network, with the units as NixOS would have them.

The units are not changed: what they name lies below /nix/store. The root comes from `scripts/setup lab`. Or the root
is left as Debian has it, with gretun's packages beside it to be installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from .namespace import Box, BoxError, Inside
from .rendered import Configuration, RenderedMachine, Unit, digest

HERE = Path(__file__).resolve().parent
STORE = "/nix/store"
SYSTEM = f"{STORE}/nixos-system"
PACKAGES = "/srv/packages"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The guest is emulated, and three may boot at once.
BOOT_TIMEOUT_S = 180
STOP_TIMEOUT_S = 90
CGROUPS = Path("/sys/fs/cgroup")
# Nothing that these do is needed, and each costs seconds under emulation.
MASKED = (
    "console-getty.service", "getty.target", "systemd-logind.service", "systemd-networkd.service", "systemd-resolved.service",
    "systemd-timesyncd.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-pstore.service",
    "e2scrub_reap.service", "timers.target", "systemd-journal-flush.service", "systemd-firstboot.service", "systemd-sysusers.service",
    "systemd-sysctl.service", "systemd-remount-fs.service", "systemd-user-sessions.service", "systemd-tmpfiles-setup-dev.service",
    "systemd-journal-catalog-update.service", "systemd-update-done.service", "ldconfig.service",
)  # fmt: skip


def mount_root(image: Path, at: Path) -> Path:
    """Mounts the Debian root that all containers share; where it is."""
    if not image.exists():
        raise BoxError(f"{image} does not exist; `scripts/setup lab` makes it")
    if not at.exists():
        at.mkdir(parents=True)
        for module in ("loop", "squashfs", "overlay"):
            subprocess.run(["modprobe", module], check=True)
        subprocess.run(["mount", "-t", "squashfs", "-o", "loop,ro", str(image), str(at)], check=True)
    if not (CGROUPS / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUPS)], check=True)
    return at


class Container:
    """The systemd of one machine. `/var/lib` and the rest of its disk outlive `crash()`; `/run` and `/tmp` do not."""

    def __init__(self, name: str, machine: RenderedMachine, directory: Path, lower: Path, source: Path, from_package: bool) -> None:
        """`source` has the programs, or the packages."""
        self._name = name
        self._source = source
        self._from_package = from_package
        self._disk = directory / "disk"
        self._root = self._disk / "root"
        self._console = directory / "systemd-console.log"
        self._cgroup = CGROUPS / f"lab-{name}"
        self._nspawn: subprocess.Popen[bytes] | None = None
        for part in ("upper", "work", "root"):
            (self._disk / part).mkdir(parents=True)
        self._layers = f"lowerdir={lower},upperdir={self._disk / 'upper'},workdir={self._disk / 'work'}"
        self.environment = {"PATH": SYSTEM_PATH if from_package else f"{STORE}/gretun/bin:{SYSTEM_PATH}"}
        self._mount()
        self._install(machine)
        self._unmount()

    # --- disk ------------------------------------------------------------------------------------------------------------

    def _mount(self) -> None:
        subprocess.run(["mount", "-t", "overlay", "-o", self._layers, "overlay", str(self._root)], check=True)

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._root)], check=True)

    def _install(self, machine: RenderedMachine) -> None:
        """A Debian that boots quickly, and on it what NixOS would have built."""
        root = self._root
        _write(root / "etc" / "hostname", f"{self._name}\n")
        # Without one it were the first boot, which takes longer.
        _write(root / "etc" / "machine-id", f"{digest(self._name.encode())[:32]}\n")
        _write(root / "etc" / "hosts", f"127.0.0.1 localhost {self._name}\n")
        manager = root / "etc" / "systemd" / "system"
        for wants in manager.glob("*.wants"):
            shutil.rmtree(wants)
        for name in MASKED:
            (manager / name).unlink(missing_ok=True)
            (manager / name).symlink_to("/dev/null")
        (manager / "default.target").unlink(missing_ok=True)
        (manager / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
        _write(manager.parent / "journald.conf.d" / "lab.conf", "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n")
        if not self._from_package:
            self._install_nixos(machine, manager)

    def _install_nixos(self, machine: RenderedMachine, manager: Path) -> None:
        """The store, the units, the groups, the directories."""
        root = self._root
        system = root / SYSTEM.lstrip("/")
        with (root / "etc" / "group").open("a") as groups:
            groups.writelines(f"{name}:x:{990 - index}:\n" for index, name in enumerate(machine.groups))
        _write(root / "etc" / "tmpfiles.d" / "nixos.conf", "".join(f"{rule}\n" for rule in machine.tmpfiles))
        (root / STORE.lstrip("/") / "gretun" / "bin").mkdir(parents=True)
        units = self._build(machine.configuration, system)
        for name, other in machine.switches.items():
            self._build(other, system / "specialisation" / name)
        for name, text in units.items():
            _write(manager / name, text)
            for target in Unit(text).all("WantedBy"):
                wants = manager / f"{target}.wants"
                wants.mkdir(exist_ok=True)
                (wants / name).symlink_to(f"../{name}")

    def _build(self, configuration: Configuration, system: Path) -> Mapping[str, str]:
        """Lays one configuration into the store; its units."""
        placed = configuration.placed(STORE)
        for place, text in placed.files.items():
            _write(self._root / place.lstrip("/"), text)
        for name, text in placed.units.items():
            _write(system / "units" / name, text)
        (system / "units").mkdir(parents=True, exist_ok=True)
        switch = system / "bin" / "switch-to-configuration"
        _write(switch, (HERE / "switch_to_configuration.py").read_text())
        switch.chmod(0o755)
        return placed.units

    # --- power -----------------------------------------------------------------------------------------------------------

    def boot(self, box: Box) -> Inside:
        """Boots in the network of the box, and with it the units that a boot starts; returns when systemd answers."""
        if self._from_package and not any(self._source.glob("*.deb")):
            raise BoxError(f"{self._name}: there is no package to install: scripts/deb has failed, and its output says why")
        self._mount()
        self._cgroup.mkdir(exist_ok=True)
        # The shell moves itself, so that each container has a part of the control groups for itself.
        enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
        nspawn = [
            "systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--boot", "--console=read-only", "--link-journal=no",
            "--resolv-conf=off", "--timezone=off", f"--directory={self._root}", f"--machine={self._name}",
            f"--network-namespace-path=/proc/{box.pid}/ns/net", "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
            f"--bind-ro={self._source}:{PACKAGES if self._from_package else f'{STORE}/gretun/bin'}",
        ]  # fmt: skip
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", enter, str(self._cgroup), *nspawn],
                env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
            inside = self._wait_for_systemd(self._nspawn, console)
        if not self._from_package:
            inside.feed(["ln", "-sfn", SYSTEM, "/run/current-system"], "")
        return inside

    def _wait_for_systemd(self, nspawn: subprocess.Popen[bytes], console: IO[bytes]) -> Inside:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while nspawn.poll() is None and time.monotonic() < deadline:
            for child in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split():
                # Until its systemd listens, it may be nspawn itself, in namespaces half made.
                if Path(f"/proc/{child}/root/run/systemd/private").exists():
                    inside = Inside(self._name, int(child), ["-m", "-u", "-i", "-n", "-p"])
                    if inside.run(["systemctl", "show", "-p", "Version"], self.environment, 30, console).status == 0:
                        return inside
            time.sleep(0.1)
        log = re.sub(r"\x1b\[[0-9;]*m", "", self._console.read_text(errors="replace"))
        self.crash()
        raise BoxError(f"systemd of {self._name} does not answer: {log[-2000:]}")

    def start_commands(self) -> list[str]:
        """The boot has started them."""
        return []

    def stop_commands(self) -> list[str]:
        """An orderly end of all."""
        return [f"systemctl poweroff && sleep {STOP_TIMEOUT_S}"]

    def unasked_ends(self, inside: Inside) -> list[str]:
        """Panics: of other ends, the journal does not say who asked for them."""
        with self._console.open("ab") as console:
            journal = inside.run(["journalctl", "--no-pager", "-o", "cat"], self.environment, 60, console)
        return [line for line in journal.output.splitlines() if "panicked at" in line]

    def crash(self) -> None:
        """Ends every process at once."""
        if self._nspawn is not None:
            (self._cgroup / "cgroup.kill").write_text("1")
            self._nspawn.wait()
            self._nspawn = None
            self._unmount()

    def save(self, inside: Inside | None, destination: Path) -> None:
        """Writes the journal down, and what the console showed."""
        shutil.copyfile(self._console, destination / "systemd-console.log")
        if inside is not None:
            with (destination / "journal.log").open("wb") as file:
                journal = inside.run(["journalctl", "--no-pager", "-o", "short-monotonic"], self.environment, 60, file)
                file.write(journal.output.encode())


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
