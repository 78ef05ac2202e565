"""Runs Rust test binaries that need root and a kernel of their own, inside the guest."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from pathlib import Path

from .namespace import Box

SUMMARY = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
TIMEOUT_S = 3000
# Namespaces with names are kept below /run.
SETUP = """
busybox mount -t sysfs sysfs /sys
busybox mount -t tmpfs run /run
busybox ip link set lo up
"""


def run(name: str, binary: Path, work: Path, results: Path, programs: Path, built: Path) -> bool:
    """Runs one test binary in fresh namespaces and saves `result.json` as a scenario does; ignored tests count as failed.

    Cargo built the programs into `built`, which the tests know; the copies in `programs` take their place, being in memory.
    """
    directory = results / name
    directory.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    # Those of a benchmark may be there as well, which no test knows.
    pairs = [(copy, built / copy.name) for copy in programs.iterdir() if (built / copy.name).exists()]
    copies = "".join(f"busybox mount -o bind {shlex.quote(str(copy))} {shlex.quote(str(there))}\n" for copy, there in pairs)
    box = Box("tests", SETUP + copies, work)
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", "GRETUN_REQUIRE_KERNEL": "1", "RUST_BACKTRACE": "1"}
    try:
        # One after the other: they share the kernel's modules, and some of them links and ports.
        with (directory / "log.txt").open("wb") as log:
            # Into a file as well, which says where it was should the guest end first.
            tests = f"{shlex.quote(str(binary))} --test-threads=1 --show-output | tee {shlex.quote(str(directory / 'output.txt'))}"
            finished = box.run(["bash", "-o", "pipefail", "-c", tests], environment, TIMEOUT_S, log)
    finally:
        box.kill()
    print(finished.output, end="", flush=True)
    with (directory / "log.txt").open("a") as log_text:
        log_text.write(finished.output)
    found = SUMMARY.search(finished.output)
    passed, failed, ignored = (int(n) for n in found.groups()) if found else (0, 1, 0)
    error = None if found and finished.status == 0 and not ignored else f"exit code {finished.status}, {failed} failed, {ignored} ignored"
    result = {
        "scenario": name,
        "passed": error is None,
        # What died after its summary has failed too.
        "counts": [passed, max(failed + ignored, 0 if error is None else 1)],
        "seconds": round(time.monotonic() - began, 2),
        "error": error,
        "figures": {},
    }
    (directory / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return error is None
