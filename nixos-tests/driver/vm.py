"""Boots a QEMU guest with Debian's kernel and this machine's own root directory (virtme-ng), and runs one command in it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

# A working KVM boots in about 3 s. The device may also exist and hang, so not being quick is not working.
KVM_PROBE_TIMEOUT_S = 10
# How often a guest is looked at that may hang.
WATCH_S = 5


# One nanosecond for each instruction, and real time while there is nothing to do: a processor of 1000 MIPS.
STEADY_CLOCK = "-icount shift=0,sleep=on"


class VmError(Exception):
    """No guest could be booted here, or it did not end; the text says what to do."""


def newest_kernel(boot: Path = Path("/boot"), modules: Path = Path("/lib/modules")) -> Path:
    """The newest installed kernel that has its modules; no `-cloud` one, which lacks 9p."""
    found = [k for k in boot.glob("vmlinuz-*") if "cloud" not in k.name and (modules / k.name.removeprefix("vmlinuz-")).is_dir()]
    if not found:
        raise VmError("no kernel with its modules in /boot; `scripts/setup lab` installs one")
    return max(found, key=lambda k: [int(n) for n in re.findall(r"\d+", k.name)])


class Vm:
    """How to boot a guest. It sees this machine's files read-only, except below `writable`."""

    def __init__(self, cpus: int, memory: str, writable: Path, kvm: bool | None = None, steady: bool = False) -> None:
        """`kvm` decides; None probes. `steady`: the guest's clock counts instructions, so that how busy this machine is does not matter."""
        if shutil.which("vng") is None:
            raise VmError("no vng (virtme-ng) in PATH; `scripts/setup lab` installs it")
        self._kernel = newest_kernel()
        self._cpus = 1 if steady else cpus
        self.steady = steady
        self._memory = memory
        self._writable = writable
        self.kvm = not steady and (self._kvm_works() if kvm is None else kvm)

    def run(self, command: Sequence[str], may_go_on: Callable[[], bool], on_line: Callable[[str], None]) -> int:
        """Runs a command as root in a fresh guest; every line that it prints goes to `on_line`. `VmError` when it may not go on."""
        process = subprocess.Popen(
            self._vng(command, self.kvm),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        _running.add(process)
        ended, late = threading.Event(), threading.Event()

        def watch() -> None:
            while not ended.wait(WATCH_S):
                if not may_go_on():
                    late.set()
                    _kill(process)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                on_line(line.rstrip("\r\n"))
            status = process.wait()
        finally:
            _running.discard(process)
            ended.set()
            watcher.join()
            _kill(process)
        if late.is_set():
            raise VmError("the guest was killed: it took too long")
        return status

    def interactive(self, command: Sequence[str]) -> int:
        """Runs a command in a fresh guest on this terminal."""
        return subprocess.run(self._vng(command, self.kvm), check=False).returncode

    def _vng(self, command: Sequence[str], kvm: bool) -> list[str]:
        accelerator = [] if kvm else ["--disable-kvm"]
        if self.steady:
            accelerator.append(f"--qemu-opts={STEADY_CLOCK}")
        machine = ["-r", str(self._kernel), "--cpus", str(self._cpus), "--memory", self._memory]
        return ["vng", *accelerator, *machine, "--user", "root", "--rwdir", str(self._writable), "--exec", " ".join(command)]

    def _kvm_works(self) -> bool:
        """Whether a guest boots on KVM; asked once after each boot of this machine."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return False
        now = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        remembered = self._writable / "kvm"
        if remembered.exists() and (words := remembered.read_text().split()) and words[0] == now:
            return words[1] == "boots"
        boots = self._kvm_boots()
        remembered.write_text(f"{now} {'boots' if boots else 'hangs'}\n")
        return boots

    def _kvm_boots(self) -> bool:
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(self._vng(["true"], True), stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
        try:
            return process.wait(timeout=KVM_PROBE_TIMEOUT_S) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            _kill(process)


_running: set[subprocess.Popen[str]] = set()


def end_all() -> None:
    """Ends every guest that `Vm.run` is running."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """QEMU is a grandchild: ends the whole session that was started for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
