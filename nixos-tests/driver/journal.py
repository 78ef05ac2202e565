"""A scenario's log: lines with the time since its start, to the console and to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from .stalls import StallMeter, steal_ms


class Journal:
    """`line` is for people watching; `detail` goes to the file only, unless verbose."""

    def __init__(self, scenario: str, file: Path, verbose: bool, meter: StallMeter) -> None:
        self._scenario = scenario
        self._file = file.open("w")
        self._verbose = verbose
        self._meter = meter
        self.start = time.monotonic()
        # The same moment on the clock that daemons' logs have.
        self.start_unix = time.time()
        self._depth = 0
        self.figures: dict[str, object] = {}
        self.steps: list[dict[str, object]] = []

    def elapsed_s(self) -> float:
        """Seconds since the scenario began."""
        return time.monotonic() - self.start

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
        began, steal = time.monotonic(), steal_ms()
        self._depth += 1
        try:
            yield
        except BaseException:
            self.detail(f"failed: {name}")
            raise
        finally:
            self._depth -= 1
            took, worst = round(time.monotonic() - began, 2), self._meter.worst_ms(began)
            self.steps.append({"step": name, "seconds": took, "worst_stall_ms": worst, "steal_ms": steal_ms() - steal})
        self.detail(f"took {took:.2f} s, worst stall {worst} ms")

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
