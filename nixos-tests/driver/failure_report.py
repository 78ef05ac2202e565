"""What a failed scenario says at once: the state changes and moves of all daemons in one order, and the guest's stalls. And what fails a
scenario whose script noticed nothing: a unit that ended unasked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from .journal import Journal
from .machine import CommandFailed, Machine
from .stalls import Stall, text

# A daemon's line, with its own time or, in a journal, the guest's; what says nothing about paths is left to the logs.
STAMPED = re.compile(r"^(?P<at>\d{4}-\d\d-\d\dT[\d:.]+Z) +(?P<text>.*)$")
JOURNAL = re.compile(r"^\[ *(?P<at>\d+\.\d+)\] \S+ gretun[^:]*: *(?P<text>.*)$")
TELLING = re.compile(r"peer state|\bpath\b|\bmoved?\b|addresses|\[unit\]|WARN|ERROR|panicked")
LINES = 120


def check_units(machines: Sequence[Machine]) -> None:
    """An error when a unit of a machine that is on has ended, or has not, against what the script asked for."""
    wrong = [f"{machine.name}: {line}" for machine in machines for line in machine.unasked_ends()]
    if wrong:
        raise CommandFailed(f"units ended unasked: {'; '.join(wrong)}")


def write(journal: Journal, failed_at_s: float, saved: Sequence[Path], stalls: list[Stall]) -> None:
    """Into the scenario's log, from the logs that its machines left in these directories: what happened before the failure."""
    found: list[tuple[float, str]] = []
    for directory in saved:
        for log in sorted(directory.glob("*.log")):
            at = 0.0
            for line in log.read_text(errors="replace").splitlines():
                if stamped := STAMPED.match(line):
                    at = datetime.fromisoformat(stamped["at"]).timestamp() - journal.start_unix
                elif stamped := JOURNAL.match(line):
                    at = float(stamped["at"]) - journal.start
                words = stamped["text"] if stamped else line
                # A line without a time belongs to the one before it.
                if log.name != "console.log" and at <= failed_at_s and TELLING.search(words):
                    found.append((at, f"{directory.name}: {words.strip()}"))
    found.sort(key=lambda item: item[0])
    journal.line(f"what the daemons told{f', the last {LINES} lines' if len(found) > LINES else ''}:")
    for at, words in found[-LINES:]:
        journal.line(f"  at {at:.2f} s: {words}")
    journal.line(f"stalls: {text(stalls, journal.start)}")
