"""Runs Rust tests that need root and a kernel of their own, inside the guest."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import threading
import time
from pathlib import Path

from .jobs import Job
from .namespace import TIMED_OUT, Box, kill_group
from .stalls import SLOW_MS, StallMeter, text

RESULT = re.compile(r"test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)")
SUMMARY = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
TIMEOUT_S = 3000
# Namespaces with names are kept below /run.
SETUP = """
busybox mount -t sysfs sysfs /sys
busybox mount -t tmpfs run /run
busybox ip link set lo up
"""


def run(job: Job, work: Path, results: Path, programs: Path, built: Path, meter: StallMeter) -> None:
    """Runs a job's tests in fresh namespaces and saves `result.json` as a scenario does; ignored tests count as failed.

    Cargo built the programs into the directory `built`, which the tests know; the copies in `programs` take its place: they are in memory,
    and do not change when cargo builds something else meanwhile.
    """
    directory = results / job.name
    directory.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    copies = f"busybox mount -o bind {shlex.quote(str(programs))} {shlex.quote(str(built))}\n"
    box = Box("tests", SETUP + copies, work)
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", "RUST_BACKTRACE": "1"}
    # One after the other: they share the kernel's modules, and some of them links and ports.
    command = [str(job.path), "--test-threads=1", "--show-output", "--exact", *job.tests]
    lines: list[str] = []
    seconds: dict[str, float] = {}
    failed: list[str] = []
    try:
        with (directory / "log.txt").open("wb") as log, (directory / "output.txt").open("w", buffering=1) as output:
            process = box.popen(command, environment, subprocess.PIPE, log)
            late = threading.Event()

            def give_up() -> None:
                late.set()
                kill_group(process)

            alarm = threading.Timer(job.timeout_s, give_up)
            alarm.start()
            assert process.stdout is not None
            before = time.monotonic()
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip("\n")
                lines.append(line)
                output.write(f"{line}\n")
                if ended := RESULT.match(line):
                    now = time.monotonic()
                    seconds[ended[1]] = round(now - before, 2)
                    before = now
                    if ended[2] != "ok":
                        failed.append(ended[1])
                    line = f"{job.name} {seconds[ended[1]]:7.2f}s {line}"
                print(line, flush=True)
            status = process.wait()
            alarm.cancel()
    finally:
        box.kill()
    status = TIMED_OUT if late.is_set() else status
    with (directory / "log.txt").open("a") as log_text:
        log_text.write("\n".join(lines) + "\n")
    found = next((summary for line in reversed(lines) if (summary := SUMMARY.match(line))), None)
    passed, wrong, ignored = (int(n) for n in found.groups()) if found else (0, len(job.tests), 0)
    error = None
    if found is None or status != 0 or ignored or passed != len(job.tests):
        error = f"exit code {status}, {passed} of {len(job.tests)} passed, {', '.join(failed) or 'no summary'} failed"
    stalls = meter.since(began)
    worst_ms = max((stall.ms for stall in stalls), default=0)
    if error is not None:
        print(f"{job.name} stalls: {text(stalls, began)}", flush=True)
    result = {
        "scenario": job.name,
        "passed": error is None,
        "slow": error is not None and worst_ms > SLOW_MS,
        # What died after its summary has failed too.
        "counts": [passed, max(wrong + ignored, 0 if error is None else 1)],
        "seconds": round(time.monotonic() - began, 2),
        "error": error,
        "figures": {},
        "worst_stall_ms": worst_ms,
        "tests": seconds,
        # What has to run again, should this have been slow: all of it where it is not clear what failed.
        "failed": [] if error is None else failed if found and len(failed) == wrong + ignored > 0 else [*job.tests],
    }
    (directory / "result.json").write_text(json.dumps(result, indent=2) + "\n")
