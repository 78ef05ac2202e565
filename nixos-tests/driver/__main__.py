"""`python3 -m driver`: the command line of the host half. `scripts/lab` calls it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from . import host, rendered, topology, vm
from .host import RESULTS, SCENARIOS, say
from .jobs import Job
from .qemu import Qemu, QemuError
from .uml import Uml
from .vm import Vm, VmError

# A machine boots in 3 s on a working KVM, and in 1 s in User-mode Linux. The device may also exist and hang, so not being quick is not
# working.
KVM_PROBE_TIMEOUT_S = 10
UML_PROBE_TIMEOUT_S = 60
# What a script finds defined.
TYPED_PRELUDE = """\
from driver.guest import Scenario, retry
from driver.machine import Machine

scenario: Scenario
machines = scenario.machines
start_all = scenario.start_all
subtest = scenario.journal.step
measured = scenario.journal.record
topology = scenario.topology.raw
"""


def run(args: argparse.Namespace) -> bool:
    """Runs Rust tests and scenarios."""
    scenarios = host.scenarios(args.names, args.directory) if args.names or not args.no_scenarios else []

    def prepare() -> Iterator[list[Job]]:
        binaries = [*args.rust_tests]
        while args.after_build and (line := sys.stdin.readline().strip()) != "built":
            if line in ("", "failed"):
                raise host.UsageError("the programs were not built")
            binaries.append(Path(line))
        if args.after_build:
            threading.Thread(target=_stop_when_told, daemon=True).start()
        host.stage_programs(args.programs)
        later = [job for job in scenarios if host.needs_package(job)]
        yield host.rust_test_jobs(binaries, host.times()) + [job for job in scenarios if job not in later]
        host.stage_packages(later, args.programs)
        yield later

    guests = args.guests if args.after_build or args.rust_tests else min(args.guests, len(scenarios))
    options = ["--verbose"] if args.verbose else []
    return host.run(prepare, _vm(args, args.steady), guests, args.programs, options, steady=lambda: _vm(args, True))


def _stop_when_told() -> None:
    """Ends everything at the line `stop` on standard input."""
    if sys.stdin.readline().strip() == "stop":
        _interrupted()


def _interrupted(*_: object) -> None:
    """Guests are in sessions of their own: an interrupt does not reach them."""
    vm.end_all()
    os._exit(130)


def shell(args: argparse.Namespace) -> bool:
    """A prompt over one started scenario."""
    [job] = host.scenarios([args.name], args.directory)
    host.stage_programs(args.programs)
    host.stage_packages([job], args.programs)
    return _vm(args, args.steady).interactive(host.guest_command(args.programs, "--shell", str(job.path))) == 0


def check(args: argparse.Namespace) -> bool:
    """Checks every topology, and writes each script as one typed module for mypy, as the NixOS driver does; prints their paths."""
    typed = RESULTS / "typed"
    typed.mkdir(parents=True, exist_ok=True)
    for job in host.scenarios([], args.directory):
        machines = topology.load(job.path / "topology.toml").machines
        parts = [TYPED_PRELUDE, *(f"{m.name}: Machine\n" for m in machines)]
        parts += [(SCENARIOS / "common.py").read_text(), (job.path / "script.py").read_text()]
        module = typed / f"{job.name.replace('-', '_')}.py"
        module.write_text("".join(parts))
        say(str(module))
    return True


def list_scenarios(args: argparse.Namespace) -> bool:
    """Names and descriptions."""
    for job in host.scenarios([], args.directory):
        say(f"{job.name:22} {topology.load(job.path / 'topology.toml').description}")
    return True


def _vm(args: argparse.Namespace, steady: bool) -> Vm:
    RESULTS.mkdir(parents=True, exist_ok=True)
    uml = Uml(host.CACHE, args.memory, RESULTS)
    if args.machine == "uml" and not uml.is_built:
        raise host.UsageError("the kernel of User-mode Linux is not there; `scripts/setup uml` makes it")
    wants_qemu = args.machine == "qemu" or steady or args.kvm is not None
    if args.machine == "uml" and wants_qemu:
        raise host.UsageError("--steady, --kvm and --no-kvm are for QEMU")
    if args.machine == "uml" or (not wants_qemu and uml.is_built and uml_works(uml)):
        return Vm(uml)
    return Vm(Qemu(args.cpus, args.memory, RESULTS, args.kvm, steady, lambda qemu: vm.boots(qemu, KVM_PROBE_TIMEOUT_S)))


def uml_works(uml: Uml) -> bool:
    """Whether such a machine boots here. It needs ptrace(2), which containers may deny."""
    works = vm.boots(uml, UML_PROBE_TIMEOUT_S)
    if not works:
        say("User-mode Linux does not boot here: QEMU takes its place, which is slower")
    return works


def main() -> int:
    """Exit code 0 when all was well, 1 when a scenario failed, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="scripts/lab", description="Runs gretun's scenarios in one virtual machine.")
    parser.add_argument("--directory", type=Path, default=SCENARIOS, help="where the scenarios are (default: nixos-tests)")
    parser.add_argument("--programs", type=Path, default=host.REPOSITORY / "target" / "debug", help="where gretun and gretun-coord are")
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", default="1G")
    parser.add_argument("--machine", choices=["uml", "qemu"], help="what guests run in (default: uml where its kernel is and boots)")
    parser.add_argument("--kvm", action=argparse.BooleanOptionalAction, help="have QEMU use KVM or not (default: probe)")
    parser.add_argument("--steady", action="store_true", help="QEMU with one emulated processor of 1000 MIPS, however busy this machine is")
    parser.add_argument("--verbose", action="store_true", help="show every command")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="run scenarios, all of them when none is named")
    command.add_argument("names", nargs="*")
    command.add_argument("--rust-tests", type=Path, action="append", default=[], metavar="BINARY", help="also run this test binary")
    command.add_argument(
        "--after-build",
        action="store_true",
        help="boot at once, and read from standard input what a build tells: test binaries, one a line, and at its end the line `built`",
    )
    command.add_argument("--no-scenarios", action="store_true", help="only the test binaries")
    command.add_argument("--guests", type=int, default=2, help="virtual machines at a time (default: 2)")
    command.set_defaults(function=run)
    command = commands.add_parser("shell", help="start one scenario's machines and give a prompt")
    command.add_argument("name")
    command.set_defaults(function=shell)
    command = commands.add_parser("check", help="check all topologies, and write the scripts as typed modules for mypy")
    command.set_defaults(function=check)
    command = commands.add_parser("list", help="list the scenarios")
    command.set_defaults(function=list_scenarios)
    args = parser.parse_args()
    if args.function is run:
        signal.signal(signal.SIGINT, _interrupted)
        signal.signal(signal.SIGTERM, _interrupted)
    try:
        return 0 if args.function(args) else 1
    except (host.UsageError, QemuError, VmError, topology.TopologyError, rendered.RenderedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
