"""What guests have to do, as files in a directory that host and guests share: whoever renames one first does it."""

from __future__ import annotations

import contextlib
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
    """Jobs, the longest first: each a file `RANK-NAME.job` until a guest takes it, then `.taken-GUEST`, and at last `.done-GUEST`.

    The file `complete` says that no more will come.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, jobs: Sequence[tuple[Job, float]]) -> None:
        """Host: more to do, with the seconds that each will probably take."""
        files = [self._directory / f"{999_999 - round(10 * seconds):06}-{job.name}.new" for job, seconds in jobs]
        for file, (job, _) in zip(files, jobs, strict=True):
            file.write_text(json.dumps({**asdict(job), "path": str(job.path)}))
        for file in files:
            os.rename(file, file.with_suffix(".job"))

    def close(self) -> None:
        """Host: that was all."""
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
        while not self.complete and not self._waiting():
            time.sleep(POLL_S)

    def take(self, guest: str) -> Iterator[Job]:
        """Guest: one job after the other. A job counts as done when the next one is asked for."""
        while True:
            complete = self.complete  # before the look: no job comes after it
            waiting = self._waiting()
            if not waiting and complete:
                return
            for file in waiting:
                taken = file.with_suffix(f".taken-{guest}")
                with contextlib.suppress(FileNotFoundError):  # the other guest has it
                    os.rename(file, taken)
                    yield _load(taken)
                    os.rename(taken, file.with_suffix(f".done-{guest}"))
                    break  # a longer one may have come
            else:
                time.sleep(POLL_S)

    def _waiting(self) -> list[Path]:
        return sorted(self._directory.glob("*.job"))


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
