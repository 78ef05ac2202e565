"""Machines in QEMU, with Debian's kernel and this machine's own root directory (virtme-ng)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

# One nanosecond for each instruction, and real time while there is nothing to do: a processor of 1000 MIPS.
STEADY_CLOCK = "-icount shift=0,sleep=on"


class QemuError(Exception):
    """QEMU cannot be used here; the text says what to do."""


def newest_kernel(boot: Path = Path("/boot"), modules: Path = Path("/lib/modules")) -> Path:
    """The newest installed kernel that has its modules; no `-cloud` one, which lacks 9p."""
    found = [k for k in boot.glob("vmlinuz-*") if "cloud" not in k.name and (modules / k.name.removeprefix("vmlinuz-")).is_dir()]
    if not found:
        raise QemuError("no kernel with its modules in /boot; `scripts/setup lab` installs one")
    return max(found, key=lambda k: [int(n) for n in re.findall(r"\d+", k.name)])


class Qemu:
    """How to start such a machine. It sees this machine's files read-only, except below `writable`."""

    def __init__(self, cpus: int, memory: str, writable: Path, kvm: bool | None, steady: bool, boots: Callable[[Qemu], bool]) -> None:
        """`kvm` decides; None has `boots` find out whether it works. `steady`: the machine's clock counts instructions, so that how busy
        this machine is does not matter."""
        if shutil.which("vng") is None:
            raise QemuError("no vng (virtme-ng) in PATH; `scripts/setup lab` installs it")
        self._kernel = newest_kernel()
        self._cpus = 1 if steady else cpus
        self._memory = memory
        self._writable = writable
        self.is_steady = steady
        self.kvm = True
        self.kvm = not steady and (self._kvm_works(boots) if kvm is None else kvm)

    @property
    def name(self) -> str:
        """For people."""
        return "QEMU, KVM" if self.kvm else f"QEMU, software emulation{', steady clock' if self.is_steady else ''}"

    def command(self, command: Sequence[str]) -> list[str]:
        """Boots, runs a shell command as root, ends."""
        accelerator = [] if self.kvm else ["--disable-kvm"]
        if self.is_steady:
            accelerator.append(f"--qemu-opts={STEADY_CLOCK}")
        machine = ["-r", str(self._kernel), "--cpus", str(self._cpus), "--memory", self._memory]
        return ["vng", *accelerator, *machine, "--user", "root", "--rwdir", str(self._writable), "--exec", " ".join(command)]

    def has_succeeded(self, command: Sequence[str]) -> bool:
        """Its exit code says so already."""
        del command
        return True

    def environment(self) -> dict[str, str]:
        """Nothing special."""
        return dict(os.environ)

    def _kvm_works(self, boots: Callable[[Qemu], bool]) -> bool:
        """Whether a machine boots on KVM; asked once after each boot of this machine."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return False
        now = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        remembered = self._writable / "kvm"
        if remembered.exists() and (words := remembered.read_text().split()) and words[0] == now:
            return words[1] == "boots"
        works = boots(self)
        remembered.write_text(f"{now} {'boots' if works else 'hangs'}\n")
        return works
