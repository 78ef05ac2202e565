"""Starts virtual machines, one command in each, and ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

# How often a guest is looked at that may hang.
WATCH_S = 5


class VmError(Exception):
    """No guest could be booted here, or it did not end; the text says what to do."""


class Machine(Protocol):
    """What a guest runs in: `Uml` or `Qemu`."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def is_steady(self) -> bool:
        """Whether its clock counts the guest's instructions, and so passes slowly."""

    def command(self, command: Sequence[str]) -> list[str]:
        """Boots, runs a shell command as root, ends."""

    def has_succeeded(self, command: Sequence[str]) -> bool:
        """Whether what was run by such a command, which has ended with 0, was successful."""

    def environment(self) -> dict[str, str]:
        """The environment of that."""


class Vm:
    """Boots guests."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def is_steady(self) -> bool:
        """Whether the guests' clocks pass slowly."""
        return self.machine.is_steady

    def run(self, command: Sequence[str], may_go_on: Callable[[], bool], on_line: Callable[[str], None]) -> int:
        """Runs a command as root in a fresh guest; every line that it prints goes to `on_line`. `VmError` when it may not go on."""
        process = subprocess.Popen(
            self.machine.command(command), env=self.machine.environment(),
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
        call = self.machine.command(command)
        status = subprocess.run(call, env=self.machine.environment(), check=False).returncode
        return status or int(not self.machine.has_succeeded(call))


def boots(machine: Machine, timeout_s: float) -> bool:
    """Whether a guest boots and ends in that time."""
    nothing = subprocess.DEVNULL
    call = machine.command(["modprobe", "fou"])
    process = subprocess.Popen(call, env=machine.environment(), stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
    try:
        return process.wait(timeout=timeout_s) == 0 and machine.has_succeeded(call)
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
    """What emulates may be a grandchild: ends the whole session that was started for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
