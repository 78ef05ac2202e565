"""Machines in User-mode Linux: a kernel that is a process of this machine, so that programs run at this machine's own speed.

Its clock is its own: it stands still while anything runs and jumps to the next timer when nothing does (`time-travel`, see
Documentation/virt/uml in the kernel's source). So waiting costs nothing, and how busy this machine is changes no result.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
# A machine's memory is a file there, where there is room for some.
MEMORY = Path("/dev/shm")


class Uml:
    """How to start such a machine."""

    name = "User-mode Linux, a clock of its own"
    is_steady = False

    def __init__(self, cache: Path, memory: str, writable: Path) -> None:
        self._kernel = cache / "uml" / "linux"
        self._modules = cache / "uml" / "lib" / "modules"
        self._cache = cache
        self._memory = memory
        self._writable = writable
        # Guests are started by several threads.
        self._numbers = itertools.count()

    @property
    def is_built(self) -> bool:
        """Whether `scripts/setup uml` has made the kernel."""
        return self._kernel.exists()

    def command(self, command: Sequence[str]) -> list[str]:
        """Boots, runs a shell command as root, ends."""
        script = self._writable / "uml" / f"{os.getpid()}-{next(self._numbers)}.sh"
        script.parent.mkdir(exist_ok=True)
        script.write_text(" ".join(command) + "\n")
        hidden = [str(path) for path in (REPOSITORY, self._cache) if path.is_relative_to("/tmp")]
        return [
            str(self._kernel), f"mem={self._memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", "panic=-1",
            "time-travel", "con=null", "con0=fd:0,fd:1", f"init={HERE / 'uml-init'}", f"LAB_SCRIPT={script}",
            f"LAB_MODULES={self._modules}", f"LAB_WRITABLE={self._writable}", f"LAB_VISIBLE={':'.join(hidden)}",
        ]  # fmt: skip

    def has_succeeded(self, command: Sequence[str]) -> bool:
        """Whether the script of such a command, which has ended, was successful."""
        [script] = [word.removeprefix("LAB_SCRIPT=") for word in command if word.startswith("LAB_SCRIPT=")]
        return Path(f"{script}.succeeded").exists()

    def environment(self) -> dict[str, str]:
        """With the directory for the machine's memory."""
        room = shutil.disk_usage(MEMORY).free if MEMORY.is_dir() else 0
        return {**os.environ, "TMPDIR": str(MEMORY if room > 4 << 30 else self._writable)}
