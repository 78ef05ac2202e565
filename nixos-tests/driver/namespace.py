"""One set of Linux namespaces, and commands run inside it.

A `Box` has its own network, host name, processes and mounts, kept alive by its first process. It knows nothing of scenarios.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# Reaps what is orphaned inside, and lives until it is killed.
INIT = "while :; do sleep 1000 & wait $!; done"
START_TIMEOUT_S = 60
# What `timeout(1)` reports, and therefore the NixOS driver too.
TIMED_OUT = 124


class BoxError(Exception):
    """A namespace that could not be made, or a command of the driver's own that failed in it."""


@dataclass(frozen=True)
class Finished:
    """A command's exit code and output."""

    status: int
    output: str


class Inside:
    """The inside of namespaces, known by a process there."""

    def __init__(self, name: str, pid: int, namespaces: Sequence[str]) -> None:
        """`namespaces` as options of nsenter(1)."""
        self.name = name
        self.pid = pid
        self._namespaces = namespaces

    def popen(self, command: Sequence[str], environment: Mapping[str, str], stdout: int, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts a command inside, in a process group of its own."""
        return subprocess.Popen(
            self._enter(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            cwd="/",
        )

    def run(self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float | None, stderr: IO[bytes]) -> Finished:
        """Runs a command inside to its end, or kills it when its time is over."""
        process = self.popen(command, environment, subprocess.PIPE, stderr)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            kill_group(process)
            output, _ = process.communicate()
            return Finished(TIMED_OUT, output.decode(errors="replace"))
        except BaseException:
            # The scenario's own alarm: leave nothing running.
            kill_group(process)
            process.wait()
            raise
        return Finished(process.returncode, output.decode(errors="replace"))

    def feed(self, command: Sequence[str], text: str) -> None:
        """Runs a command of the driver's own with `text` on its standard input."""
        done = subprocess.run(
            self._enter(command), input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", check=False
        )
        if done.returncode != 0:
            raise BoxError(f"{self.name}: {' '.join(command)}: {done.stdout.strip()}\n{text}")

    def _enter(self, command: Sequence[str]) -> list[str]:
        return _nsenter(self.pid, self._namespaces, command)


class Box(Inside):
    """Network, UTS, PID and mount namespaces with a life of their own."""

    def __init__(self, name: str, setup: str, directory: Path) -> None:
        """Makes the namespaces and runs the shell text `setup` as their first act; `directory` gets a marker file."""
        ready = directory / "ready"
        ready.unlink(missing_ok=True)
        script = f"set -e\nhostname {name}\n{setup}\n: >{ready}\n{INIT}"
        self._outer = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            if self._outer.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BoxError(f"the namespaces of {name} could not be made")
            time.sleep(0.02)
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        super().__init__(name, int(children[0]), ["-n", "-u", "-m", "-p"])

    def ip_batch(self, commands: Sequence[str]) -> None:
        """Runs ip(8) commands in the network namespace alone, where process ids are still the guest's own."""
        subprocess.run(_nsenter(self.pid, ["-n"], ["ip", "-batch", "-"]), input="\n".join(commands) + "\n", text=True, check=True)

    def kill(self) -> None:
        """Ends every process inside at once; the network goes with them."""
        self._outer.kill()
        self._outer.wait()


def _nsenter(pid: int, namespaces: Sequence[str], command: Sequence[str]) -> list[str]:
    # BusyBox is static: under software emulation the dynamic linker costs more than all that nsenter does. It would run its own applets, so
    # the program is named by its path.
    return ["busybox", "nsenter", "-t", str(pid), *namespaces, shutil.which(command[0]) or command[0], *command[1:]]


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a command of `popen`, with what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
