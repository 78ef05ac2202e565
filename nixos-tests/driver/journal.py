"""A scenario's log: lines with the time since its start, to the console and to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path


class Journal:
    """`line` is for people watching; `detail` goes to the file only, unless verbose."""

    def __init__(self, scenario: str, file: Path, verbose: bool) -> None:
        self._scenario = scenario
        self._file = file.open("w")
        self._verbose = verbose
        self._start = time.monotonic()
        self._depth = 0
        self.figures: dict[str, object] = {}

    def elapsed_s(self) -> float:
        """Seconds since the scenario began."""
        return time.monotonic() - self._start

    def line(self, text: str) -> None:
        """A line that matters."""
        self._write(text, show=True)

    def detail(self, text: str) -> None:
        """A line for whoever looks closer."""
        self._write(text, show=self._verbose)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A named step, with how long it took."""
        self.line(name)
        began = time.monotonic()
        self._depth += 1
        try:
            yield
        except BaseException:
            self.detail(f"failed: {name}")
            raise
        finally:
            self._depth -= 1
        self.detail(f"took {time.monotonic() - began:.2f} s")

    def record(self, key: str, value: object) -> None:
        """A measured figure, for the results file."""
        self.figures[key] = value
        self.line(f"{key} = {value}")

    def _write(self, text: str, show: bool) -> None:
        stamped = f"{self.elapsed_s():7.2f}s {'  ' * self._depth}{text}"
        self._file.write(stamped + "\n")
        self._file.flush()
        if show:
            print(f"{self._scenario} {stamped}", flush=True)
