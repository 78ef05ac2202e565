"""How late this guest was: the time for which nothing ran, because the machine that emulates it had other work.

A test that fails after a long stall says nothing of the program: see `host`, which runs it again on the steady clock.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# A failure with a longer stall than this is `slow`. The daemon's shortest timeouts are 700 ms.
SLOW_MS = 300
# Shorter ones are not noted.
NOTED_MS = 50
# How often the meter looks. Each look costs an emulated processor about a millisecond.
PERIOD_MS = 25

# One process for each processor, which sleeps again and again: each processor of the guest is a thread of the host, and stalls alone.
METER = f"""
import os, sys, time
processors = sorted(os.sched_getaffinity(0))
for processor in processors[1:]:
    if os.fork() == 0:
        break
else:
    processor = processors[0]
os.sched_setaffinity(0, [processor])
with open(sys.argv[1], "a", buffering=1) as noted:
    before = time.monotonic()
    while os.getppid() != 1:
        time.sleep({PERIOD_MS} / 1000)
        now = time.monotonic()
        late_ms = (now - before) * 1000 - {PERIOD_MS}
        if late_ms >= {NOTED_MS}:
            noted.write(f"{{now}} {{late_ms:.0f}}\\n")
        before = now
"""


@dataclass(frozen=True)
class Stall:
    """A processor that did nothing until `ended`, on the guest's monotonic clock."""

    ended: float
    ms: int


def has_own_clock() -> bool:
    """Whether this guest's clock stands still while the machine has other work (User-mode Linux): it knows no stalls."""
    return "time-travel" in Path("/proc/cmdline").read_text().split()


class StallMeter:
    """Runs for as long as it is not closed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_text("")
        self._process = None
        if not has_own_clock():
            self._process = subprocess.Popen(["python3", "-ISc", METER, str(file)], stdin=subprocess.DEVNULL)

    def since(self, began: float) -> list[Stall]:
        """The stalls that ended after `began`."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError("the stall meter has ended")
        found = []
        # The last line may be half written.
        for line in self._file.read_text().splitlines(keepends=True):
            ended, _, late = line.partition(" ")
            if line.endswith("\n") and float(ended) > began:
                found.append(Stall(float(ended), int(late)))
        return found

    def worst_ms(self, began: float) -> int:
        """The longest stall that ended after `began`, or 0."""
        return max((stall.ms for stall in self.since(began)), default=0)

    def close(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def steal_ms() -> int:
    """The time that a hypervisor has given to others since the guest began; nothing under emulation, which cannot tell."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) * 1000 // os.sysconf("SC_CLK_TCK")


def text(stalls: list[Stall], start: float) -> str:
    """The longest ones, with their times since `start`."""
    longest = sorted(stalls, key=lambda stall: -stall.ms)[:10]
    return (
        ", ".join(f"{stall.ms} ms until {stall.ended - start:.2f} s" for stall in sorted(longest, key=lambda stall: stall.ended)) or "none"
    )


def now() -> float:
    """The clock that stalls are noted by."""
    return time.monotonic()
