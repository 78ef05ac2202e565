"""Runs the jobs of a queue inside the guest, one after the other, and leaves each one's result and logs in a directory.

    python3 -m driver.guest --results DIR --programs DIR --built DIR [--verbose] (--queue DIR --guest NAME | --shell SCENARIO)

Root in a kernel of its own is assumed. A scenario is the path of its directory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from . import container, direct, failure_report, miniupnpd, rendered, rust_tests, topology
from .container import Container
from .direct import DirectUnits
from .jobs import Queue
from .journal import Journal
from .machine import Machine
from .network import Wire
from .stalls import SLOW_MS, StallMeter

# A tmpfs that no machine's own mounts hide.
WORK = Path("/dev/shm/lab")
COMMON = Path(__file__).resolve().parent.parent / "common.py"
MODULES = (
    *("ip_gre", "ip6_gre", "fou", "fou6", "sch_ingress", "cls_u32", "act_mirred"),
    *("nf_conntrack", "nft_masq", "nft_nat", "nft_fib_inet", "nft_ct", "sch_netem"),
)
PROMPT_HELP = "MACHINE COMMAND runs a command, `run` the script, `exit` ends."


class TimeIsUp(Exception):
    """The scenario took longer than its `timeout`."""


class Scenario:
    """One scenario being run."""

    def __init__(self, path: Path, programs: Path, packages: Path, results: Path, cache: Path, verbose: bool, meter: StallMeter) -> None:
        self.name = path.name
        self._path = path
        self._results = results / self.name
        shutil.rmtree(self._results, ignore_errors=True)
        self._results.mkdir(parents=True)
        self._meter = meter
        self.journal = Journal(self.name, self._results / "log.txt", verbose, meter)
        self.topology = topology.load(path / "topology.toml")
        work = WORK / "scenario"
        shutil.rmtree(work, ignore_errors=True)
        (work / "wire").mkdir(parents=True)
        self._wire = Wire(self.topology, work / "wire")
        renderings = rendered.load(path)
        self.machines = []
        for spec in self.topology.machines:
            directory = work / spec.name
            directory.mkdir()
            rendering = renderings[spec.name]
            units: Container | DirectUnits
            if spec.under_systemd:
                lower = container.mount_root(cache / "machine-root.squashfs", WORK / "debian")
                units = Container(spec.name, rendering, directory, lower, packages if spec.from_package else programs, spec.from_package)
            else:
                configuration = miniupnpd.add_to(rendering.configuration, spec, cache / "miniupnpd" / "usr" / "sbin" / "miniupnpd")
                units = DirectUnits(spec.name, configuration, directory, programs)
            self.machines.append(Machine(spec, rendering, self._wire, units, directory, self.journal))

    def run(self) -> bool:
        """Executes the script and saves the result; true when it passed."""
        error = None
        signal.signal(signal.SIGALRM, _raise_time_is_up)
        signal.alarm(self.topology.timeout_s)
        try:
            self.execute_script()
            failure_report.check_units(self.machines)
        except Exception as failure:  # whatever the script raises is its result
            error = _explain(failure, self._path)
        finally:
            signal.alarm(0)
        failed_at_s = self.journal.elapsed_s()
        # Only those before the failure: saving the state of all machines takes its time.
        stalls = self._meter.since(self.journal.start)
        if error is not None:
            self.journal.line(f"FAILED: {error}")
        for machine in self.machines:
            with _never_in_the_way(self.journal):
                machine.save(self._results / machine.name, diagnose=error is not None)
        if error is not None:
            with _never_in_the_way(self.journal):
                failure_report.write(self.journal, failed_at_s, [self._results / machine.name for machine in self.machines], stalls)
        worst_ms = max((stall.ms for stall in stalls), default=0)
        result = {
            "scenario": self.name,
            "passed": error is None,
            "slow": error is not None and worst_ms > SLOW_MS,
            "counts": [1, 0] if error is None else [0, 1],
            "seconds": round(self.journal.elapsed_s(), 2),
            "error": error,
            "figures": self.journal.figures,
            "worst_stall_ms": worst_ms,
            "steps": self.journal.steps,
        }
        (self._results / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        self.journal.line("passed" if error is None else "failed")
        return error is None

    def execute_script(self) -> None:
        """Runs `common.py` and `script.py` with the names that the README promises."""
        names: dict[str, object] = {machine.name: machine for machine in self.machines}
        names |= {
            "__name__": self.name,
            "machines": self.machines,
            "start_all": self.start_all,
            "subtest": self.journal.step,
            "retry": retry,
            "topology": self.topology.raw,
            "log": self.journal,
            "measured": self.journal.record,
        }
        for file in (COMMON, self._path / "script.py"):
            exec(compile(file.read_text(), str(file), "exec"), names)

    def start_all(self) -> None:
        """Starts every machine: all networks first, then the units, coordinators' first."""
        off = [machine for machine in self.machines if not machine.started]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(Machine.power_on, off))
        for machine in off:
            machine.start_units()

    def close(self) -> None:
        """Removes every trace of the scenario from the kernel."""
        for machine in self.machines:
            machine.crash()
        self._wire.close()


def retry(fn: Callable[[bool], bool], timeout_seconds: int = 900) -> None:
    """Calls `fn` until it returns true; its argument says whether this is the last try."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if fn(False):
            return
        time.sleep(0.5)
    if not fn(True):
        raise TimeIsUp(f"not so after {timeout_seconds} s")


def _raise_time_is_up(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise TimeIsUp("the scenario took longer than its timeout")


def _explain(failure: Exception, path: Path) -> str:
    """The exception, with the line of the script that raised it."""
    frames = [f for f in traceback.extract_tb(failure.__traceback__) if Path(f.filename).parent in (path, COMMON.parent)]
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{type(failure).__name__}: {failure} ({where})" if where else f"{type(failure).__name__}: {failure}"


@contextlib.contextmanager
def _never_in_the_way(journal: Journal) -> Iterator[None]:
    """Saving logs must not turn a result into another."""
    try:
        yield
    except Exception as failure:  # said, not raised
        journal.line(f"could not save everything: {failure}")


def _prepare() -> None:
    """Kernel modules, and a place to work: all that needs no programs yet."""
    subprocess.run(["modprobe", "--all", *MODULES], check=False)
    WORK.mkdir(parents=True, exist_ok=True)


def _copy_programs(programs: Path) -> Path:
    """The programs copied into memory: the host's files are slow to page in, and machines that have a `/tmp` of their own would not see
    them in a checkout there."""
    copies = WORK / "programs"
    for original, copy in ((programs, copies), (direct.UNITS, direct.units_beside(copies))):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
    return copies


def _shell(scenario: Scenario) -> None:
    """A prompt over a started topology."""
    scenario.start_all()
    machines = {machine.name: machine for machine in scenario.machines}
    print(f"machines: {', '.join(machines)}. {PROMPT_HELP}", flush=True)
    for line in sys.stdin:
        name, _, command = line.strip().partition(" ")
        if name == "exit":
            return
        if name == "run":
            scenario.run()
        elif name in machines:
            status, output = machines[name].execute(command)
            print(f"{output}[{status}]", flush=True)
        elif name:
            print(PROMPT_HELP, flush=True)


def main() -> int:
    """Exit code 0 when the queue is empty, whatever the results are."""
    parser = argparse.ArgumentParser(prog="driver.guest")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--built", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--verbose", action="store_true")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shell", type=Path)
    what.add_argument("--queue", type=Path)
    parser.add_argument("--guest", default="0")
    args = parser.parse_args()
    os.umask(0o022)
    _prepare()
    queue = None if args.queue is None else Queue(args.queue)
    if queue is not None:
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        print(f"guest {args.guest} has booted: {uptime_s:.1f} s on its clock", flush=True)
        queue.wait()
    # Not before there is something to measure: while the programs are being built, their compiler needs the processors.
    meter = StallMeter(WORK / "stalls")

    def scenario(path: Path, use: Callable[[Scenario], object]) -> None:
        it = Scenario(path.resolve(), programs, args.packages, args.results, args.cache, args.verbose, meter)
        try:
            use(it)
        finally:
            it.close()

    programs = _copy_programs(args.programs)
    if queue is None:
        scenario(args.shell, _shell)
        return 0
    for job in queue.take(args.guest):
        if job.tests:
            rust_tests.run(job, WORK / job.name, args.results, programs, args.built, meter)
        else:
            scenario(job.path, Scenario.run)
    meter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
