"""The host half of a run: shares scenarios and test binaries among guests, boots these side by side, and gathers the results."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import rendered, rust_tests, topology
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
PROGRAMS = ("gretun", "gretun-coord")
BENCHMARK_PROGRAMS = ("swarm",)


class UsageError(Exception):
    """A request that cannot be carried out."""


@dataclass(frozen=True)
class Job:
    """One scenario, or one binary of Rust tests."""

    name: str
    path: Path
    timeout_s: int
    rust: bool = False


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


def test_binaries(paths: Sequence[Path]) -> list[Job]:
    """Binaries of Rust tests; `name-hash` is called by its name."""
    return [Job(path.name.rpartition("-")[0] or path.name, path, rust_tests.TIMEOUT_S, rust=True) for path in paths]


def stage_programs(source: Path) -> None:
    """Stripped copies of the two programs for the guests, and of what benchmarks have beside them."""
    for name in PROGRAMS:
        if not (source / name).exists():
            raise UsageError(f"{source / name} does not exist; build it with `cargo build`")
        strip(source / name, RESULTS / "programs" / name)
    for name in BENCHMARK_PROGRAMS:
        if (source / "examples" / name).exists():
            strip(source / "examples" / name, RESULTS / "programs" / name)


def stage_packages(jobs: Sequence[Job]) -> None:
    """Builds the Debian packages where a job has a machine that installs them; that needs a release build."""
    specs = (spec for job in jobs if not job.rust for spec in topology.load(job.path / "topology.toml").machines)
    if not any(spec.from_package for spec in specs):
        return
    shutil.rmtree(PACKAGES, ignore_errors=True)
    for version in PACKAGE_VERSIONS:
        build = [str(REPOSITORY / "scripts" / "deb"), "--version", version, "--out", str(PACKAGES), "--no-lintian"]
        if subprocess.run(build, check=False).returncode != 0:
            raise UsageError("the Debian package cannot be built")


def strip(source: Path, destination: Path) -> None:
    """Copies a program without its symbols: guests load it over a slow file system."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["strip", "-o", str(destination), str(source)], check=True)


def guest_command(jobs: Sequence[Job], built: Path, *options: str) -> list[str]:
    """What a guest executes; `built` is where cargo put the programs."""
    call = ["python3", "-m", "driver.guest", "--results", str(RESULTS), "--programs", str(RESULTS / "programs")]
    call += ["--built", str(built.resolve()), "--cache", str(CACHE), "--packages", str(PACKAGES), *options]
    for job in jobs:
        call += ["--rust-tests", job.name, str(RESULTS / "tests" / job.name)] if job.rust else ["--scenario", str(job.path)]
    return ["cd", shlex.quote(str(SCENARIOS)), "&&", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", *map(shlex.quote, call)]


def run(jobs: Sequence[Job], vm: Vm, guests: int, built: Path, options: Sequence[str]) -> bool:
    """Runs all jobs, shared among so many guests at a time; prints what they print, then a table. True when all passed."""
    for job in jobs:
        (RESULTS / job.name / "result.json").unlink(missing_ok=True)
        if job.rust:
            strip(job.path, RESULTS / "tests" / job.name)

    def boot(share: Sequence[Job]) -> None:
        say(f"booting a guest ({'KVM' if vm.kvm else 'software emulation'}) for {', '.join(job.name for job in share)}")
        limit_s = (BOOT_TIMEOUT_S + sum(job.timeout_s for job in share)) * (STEADY_SLOWNESS if vm.steady else 1)
        try:
            vm.run(guest_command(share, built, *options), limit_s, say)
        except VmError as error:
            say(f"error: {error}")

    shares = _share(jobs, guests)
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(boot, shares))
    passed = failed = 0
    for job in jobs:
        outcome = _result(job)
        passed, failed = passed + outcome["counts"][0], failed + outcome["counts"][1]
        say(f"{'ok  ' if outcome['passed'] else 'FAIL'} {job.name:22} {outcome['seconds']:>7} s  {outcome['error'] or ''}")
    say(f"{passed} passed, {failed} failed")
    return failed == 0


def _share(jobs: Sequence[Job], guests: int) -> list[list[Job]]:
    """The longest first, each to whoever has least."""
    shares: list[list[Job]] = [[] for _ in range(min(guests, len(jobs)))]
    for job in sorted(jobs, key=lambda job: -job.timeout_s):
        min(shares, key=lambda share: sum(other.timeout_s for other in share)).append(job)
    return shares


def _result(job: Job) -> dict[str, Any]:
    """What the guest has left; a failure when it has left nothing."""
    file = RESULTS / job.name / "result.json"
    if not file.exists():
        return {"passed": False, "counts": [0, 1], "seconds": "-", "error": "the guest ended before it did"}
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def say(line: str) -> None:
    """A whole line at once: guests speak at the same time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
