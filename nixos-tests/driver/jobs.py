"""What a guest has to do, as files in a directory that host and guests share: whoever renames one first does it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """One scenario, or some tests of one binary of Rust tests."""

    name: str
    path: Path
    timeout_s: int
    # Those of the binary that this job runs; none for a scenario.
    tests: tuple[str, ...] = ()


class Queue:
    """Jobs in order: `NNN.job` until a guest takes it, then `NNN.taken-GUEST`, then `NNN.done-GUEST`. `complete`: no more will come."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def fill(self, jobs: Sequence[Job]) -> None:
        """Host: what there is to do, in this order."""
        for number, job in enumerate(jobs):
            text = json.dumps({**asdict(job), "path": str(job.path)})
            (self._directory / f"{number:03}.new").write_text(text)
        for number in range(len(jobs)):
            os.rename(self._directory / f"{number:03}.new", self._directory / f"{number:03}.job")
        (self._directory / "complete").touch()

    def clear(self) -> None:
        """Host: an empty queue."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for file in self._directory.iterdir():
            file.unlink()

    @property
    def complete(self) -> bool:
        """Whether all that there is to do is there."""
        return (self._directory / "complete").exists()

    def taken_by(self, guest: str) -> str | None:
        """Host: the file of the job that a guest is at."""
        return next((file.name for file in self._directory.glob(f"*.taken-{guest}")), None)

    def timeout_of(self, name: str) -> int:
        """Host: the timeout of the job in this file; 0 when it is done."""
        try:
            return _load(self._directory / name).timeout_s
        except FileNotFoundError:
            return 0

    def wait(self) -> None:
        """Guest: until there is something to do, or there will not be."""
        while not self.complete:
            time.sleep(POLL_S)

    def take(self, guest: str) -> Iterator[Job]:
        """Guest: one job after the other. A job counts as done when the next one is asked for."""
        for file in sorted(self._directory.glob("*.job")):
            taken = file.with_suffix(f".taken-{guest}")
            try:
                os.rename(file, taken)
            except FileNotFoundError:
                continue  # the other guest has it
            yield _load(taken)
            os.rename(taken, file.with_suffix(f".done-{guest}"))


def _load(file: Path) -> Job:
    raw = json.loads(file.read_text())
    return Job(raw["name"], Path(raw["path"]), raw["timeout_s"], tuple(raw["tests"]))


class Times:
    """How long jobs took when they last ran, in seconds: of this checkout, else as checked in."""

    CHECKED_IN = Path(__file__).resolve().parent / "times.json"

    def __init__(self, latest: Path) -> None:
        self._latest = latest
        self._known: dict[str, float] = json.loads(self.CHECKED_IN.read_text())
        if latest.exists():
            self._known |= json.loads(latest.read_text())

    def of(self, name: str, otherwise: float) -> float:
        """What is known of this one, or what to assume."""
        return self._known.get(name, otherwise)

    def note(self, new: dict[str, float]) -> None:
        """Keeps what this run took."""
        self._known |= new
        self._latest.write_text(json.dumps(dict(sorted(self._known.items())), indent=1) + "\n")
