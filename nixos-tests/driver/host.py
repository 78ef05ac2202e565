"""The host half of a run: boots guests side by side, gives them scenarios and Rust tests from one queue, and gathers the results."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import rendered, rust_tests, topology
from .jobs import Job, Queue, Times
from .vm import Vm, VmError

SCENARIOS = Path(__file__).resolve().parent.parent
REPOSITORY = SCENARIOS.parent
RESULTS = REPOSITORY / "target" / "lab"
# The Debian packages, for machines that install them: the same programs as two versions, one to be upgraded to.
PACKAGES = RESULTS / "packages"
PACKAGE_VERSIONS = ("1.0", "2.0")
# The root of machines under systemd and the routers' miniupnpd; made by `scripts/setup lab`.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gretun"
BOOT_TIMEOUT_S = 240
# A guest whose clock counts instructions is given more of this machine's time for each second of its own: emulation executes 100 to 300
# million a second, and less where the machine has other work.
STEADY_SLOWNESS = 6
# Rust tests are shared out, so that the longest job is shorter than half of the run.
RUST_JOBS = 4
# What a test is taken to last that has never run here, and a scenario, as a share of its timeout.
UNKNOWN_TEST_S = 25
UNKNOWN_SCENARIO = 0.25
PROGRAMS = ("gretun", "gretun-coord")
BENCHMARK_PROGRAMS = ("swarm",)


class UsageError(Exception):
    """A request that cannot be carried out."""


def scenarios(names: Sequence[str], directory: Path) -> list[Job]:
    """The scenarios of these names below a directory; all of them when none is named."""
    by_name = {path.parent.name: path.parent for path in sorted(directory.glob("*/topology.toml"))}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise UsageError(f"no scenario {unknown[0]!r}; there are: {', '.join(by_name)}")
    chosen = [by_name[name] for name in names] or list(by_name.values())
    jobs = []
    for path in chosen:
        scenario = topology.load(path / "topology.toml")
        if "local" in scenario.drivers:
            rendered.load(path)
            jobs.append(Job(path.name, path, scenario.timeout_s))
        elif names:
            raise UsageError(f"{path.name} is not for this driver; its topology.toml says for which it is")
    return jobs


def rust_test_jobs(binaries: Sequence[Path], times: Times) -> list[Job]:
    """The tests of these binaries (`name-hash`), shared out to jobs that last about the same, by the times they last took."""
    jobs = []
    for binary in binaries:
        listing = subprocess.run([str(binary), "--list", "--format", "terse"], stdout=subprocess.PIPE, text=True, check=True).stdout
        tests = [line.removesuffix(": test") for line in listing.splitlines() if line.endswith(": test")]
        if not tests:
            raise UsageError(f"no tests in {binary}")
        shares: list[list[str]] = [[] for _ in range(min(RUST_JOBS, len(tests)))]
        for test in sorted(tests, key=lambda test: -times.of(test, UNKNOWN_TEST_S)):
            min(shares, key=lambda share: sum(times.of(it, UNKNOWN_TEST_S) for it in share)).append(test)
        name = binary.name.rpartition("-")[0] or binary.name
        staged = RESULTS / "tests" / name
        strip(binary, staged)
        jobs += [Job(f"{name}-{number}", staged, rust_tests.TIMEOUT_S, tuple(sorted(share))) for number, share in enumerate(shares, 1)]
    return jobs


def stage_programs(source: Path) -> None:
    """Stripped copies of the two programs for the guests, and of what benchmarks have beside them."""
    for name in PROGRAMS:
        if not (source / name).exists():
            raise UsageError(f"{source / name} does not exist; build it with `cargo build`")
        strip(source / name, RESULTS / "programs" / name)
    for name in BENCHMARK_PROGRAMS:
        if (source / "examples" / name).exists():
            strip(source / "examples" / name, RESULTS / "programs" / name)


def needs_package(job: Job) -> bool:
    """Whether one of the scenario's machines installs the Debian package."""
    return any(spec.from_package for spec in topology.load(job.path / "topology.toml").machines)


def stage_packages(jobs: Sequence[Job], source: Path) -> None:
    """Builds the Debian packages of the same programs, where a job has a machine that installs them.

    Without them, the other jobs can run; the machine that lacks them says so.
    """
    if not any(needs_package(job) for job in jobs):
        return
    shutil.rmtree(PACKAGES, ignore_errors=True)
    for version in PACKAGE_VERSIONS:
        build = [str(REPOSITORY / "scripts" / "deb"), "--quick", "--version", version, "--out", str(PACKAGES), "--programs", str(source)]
        if subprocess.run(build, check=False).returncode != 0:
            say("error: scripts/deb has failed; scenarios that install its package will fail")
            shutil.rmtree(PACKAGES, ignore_errors=True)
            return


def strip(source: Path, destination: Path) -> None:
    """Copies a program without its symbols: guests load it over a slow file system."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["strip", "-o", str(destination), str(source)], check=True)


def guest_command(built: Path, *options: str) -> list[str]:
    """What a guest executes; `built` is where cargo put the programs."""
    call = ["python3", "-m", "driver.guest", "--results", str(RESULTS), "--programs", str(RESULTS / "programs")]
    call += ["--built", str(built.resolve()), "--cache", str(CACHE), "--packages", str(PACKAGES), *options]
    return ["cd", shlex.quote(str(SCENARIOS)), "&&", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", *map(shlex.quote, call)]


def run(
    prepare: Callable[[], Iterable[list[Job]]], vm: Vm, guests: int, built: Path, options: Sequence[str], steady: Callable[[], Vm]
) -> bool:
    """Runs all jobs, shared among so many guests at a time; prints what they print, then a table. True when all passed.

    `prepare` builds and stages what the guests will run, one part after the other, while they boot and run the parts before. A job that
    fails after a stall of its guest is run again on the clock of a guest that `steady` makes, and only that run counts.
    """
    jobs: list[Job] = []

    def prepared() -> Iterator[list[Job]]:
        for part in prepare():
            jobs.extend(part)
            for job in part:
                shutil.rmtree(RESULTS / job.name, ignore_errors=True)
            yield part

    _boot_and_run(prepared, vm, guests, built, options)
    outcomes = {job.name: _result(job) for job in jobs}
    slow = [job for job in jobs if outcomes[job.name].get("slow")]
    if slow and not vm.is_steady:
        for job in slow:
            first = outcomes[job.name]
            say(f"SLOW {job.name}: a stall of {first['worst_stall_ms']} ms, and {first['error']}")
            say(f"     {job.name} runs once more, on the steady clock, and only that run counts")
            shutil.rmtree(RESULTS / "slow" / job.name, ignore_errors=True)
            (RESULTS / "slow").mkdir(exist_ok=True)
            (RESULTS / job.name).rename(RESULTS / "slow" / job.name)
        again = [replace(job, tests=tuple(outcomes[job.name]["failed"])) if job.tests else job for job in slow]
        _boot_and_run(lambda: [again], steady(), min(guests, len(again)), built, options)
        for job in again:
            outcomes[job.name] = _second(outcomes[job.name], _result(job))
    passed = failed = 0
    for job in jobs:
        outcome = outcomes[job.name]
        passed, failed = passed + outcome["counts"][0], failed + outcome["counts"][1]
        note = "  ".join(filter(None, (outcome["error"], outcome.get("note"))))
        stall = f"worst stall {outcome.get('worst_stall_ms', '-')} ms"
        say(f"{'ok  ' if outcome['passed'] else 'FAIL'} {job.name:22} {outcome['seconds']:>7} s  {stall:22}  {note}".rstrip())
    if not vm.is_steady:
        times().note(_times(outcome for outcome in outcomes.values() if outcome["passed"] and "note" not in outcome))
    say(f"{passed} passed, {failed} failed")
    return failed == 0


def times() -> Times:
    """How long jobs took before."""
    return Times(RESULTS / "times.json")


def expected_s(job: Job, known: Times) -> float:
    """How long a job will probably take: guests take the longest first, so that all end at about the same time."""
    if job.tests:
        return sum(known.of(test, UNKNOWN_TEST_S) for test in job.tests)
    return known.of(job.name, job.timeout_s * UNKNOWN_SCENARIO)


def _boot_and_run(prepare: Callable[[], Iterable[list[Job]]], vm: Vm, guests: int, built: Path, options: Sequence[str]) -> None:
    """Boots the guests, gives them what `prepare` yields, and waits for their ends."""
    # Several runs of one checkout at a time are nothing unusual.
    directory = RESULTS / "queues" / str(os.getpid())
    queue = Queue(directory)
    queue.clear()

    def boot(guest: str) -> None:
        say(f"booting guest {guest} ({vm.machine.name})")
        began = time.monotonic()
        try:
            command = guest_command(built, "--queue", str(directory), "--guest", guest, *options)
            vm.run(command, _Patience(queue, guest, STEADY_SLOWNESS if vm.is_steady else 1), say)
        except VmError as error:
            say(f"error: {error}")
        say(f"guest {guest} ended after {time.monotonic() - began:.0f} s")

    with ThreadPoolExecutor(guests) as pool:
        ended = [pool.submit(boot, str(number)) for number in range(guests)]
        try:
            known = times()
            for part in prepare():
                queue.add([(job, expected_s(job, known)) for job in part])
        finally:
            queue.close()
        for guest in ended:
            guest.result()
    shutil.rmtree(directory, ignore_errors=True)


class _Patience:
    """Whether a guest may go on: not when it is at one job for longer than that job may take, nor when it takes none."""

    def __init__(self, queue: Queue, guest: str, slowness: int) -> None:
        self._queue = queue
        self._guest = guest
        self._slowness = slowness
        self._at: tuple[bool, str | None] = (False, None)
        self._since = time.monotonic()

    def __call__(self) -> bool:
        at = (self._queue.complete, self._queue.taken_by(self._guest))
        if at != self._at:
            self._at, self._since = at, time.monotonic()
        complete, job = at
        limit_s = BOOT_TIMEOUT_S + (self._queue.timeout_of(job) if job else 0)
        return not complete or time.monotonic() - self._since < limit_s * self._slowness


def _result(job: Job) -> dict[str, Any]:
    """What the guest has left; a failure when it has left nothing."""
    file = RESULTS / job.name / "result.json"
    if not file.exists():
        return {"passed": False, "counts": [0, max(1, len(job.tests))], "seconds": "-", "error": "the guest ended before it did"}
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def _second(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a job that was slow: of Rust tests, only those that failed have run again."""
    kept = sum(first["counts"]) - len(first["failed"]) if "tests" in first else 0
    note = f"(on the steady clock; before, slow: a stall of {first['worst_stall_ms']} ms, and {first['error']})"
    return {**second, "counts": [kept + second["counts"][0], second["counts"][1]], "note": note}


def _times(outcomes: Iterable[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for outcome in outcomes:
        found |= outcome.get("tests") or {outcome["scenario"]: outcome["seconds"]}
    return found


def say(line: str) -> None:
    """A whole line at once: guests speak at the same time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
