"""Builds in a real sandbox of Nix: no host name but `localhost`, no network, no /run, and the files that a build is given.

What the modules render for the golden configurations and for those that the documents show is checked there by the real programs, as
on the machine of whoever builds such a system. So is what the program must refuse, and the script of the flake's check of the modules.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The programs, as the sandbox sees them.
PROGRAMS = "/gretun-programs"
# What a sandbox has of this machine.
SHARED = ("/bin", "/lib", "/lib64", "/usr")
# What the flake check of the modules reads.
SOURCE = ("flake.nix", "flake.lock", "Cargo.toml", "nix", "nixos", "nixos-tests", "benches", "docs", "README.md", "src", "tests")


@dataclass(frozen=True)
class Build:
    """A configuration file, the script that the module checks it with, and, where it must be refused, the refusal's words."""

    place: str
    name: str
    file: str
    script: str
    says: tuple[str, ...] = ()


def files_of(place: str, result: Mapping[str, Mapping[str, str]], says: tuple[str, ...] = ()) -> Iterator[Build]:
    """The builds of one evaluated configuration."""
    for name, text in result["files"].items():
        # What is made for another machine is not checked.
        if script := result["checkedBy"][name]:
            yield Build(place, name, text, script, says)


def run(builds: list[Build], programs: Path, stand_in: str, library: Path | None) -> Iterator[str]:
    """The problems."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "builds.json").write_text(
            json.dumps(
                [
                    {
                        "name": build.name,
                        "file": build.file,
                        "script": build.script.replace(f"{stand_in}gretun/bin/", f"{PROGRAMS}/"),
                    }
                    for build in builds
                ]
            )
        )
        done = nix_build(work, programs, library)
        results = [Path(f"{work}/store{line}") for line in done.stdout.split()]
        if done.returncode != 0 or len(results) != len(builds) + 1:
            yield f"nix-build: {done.stderr}"
            return
        for build, result in zip(builds, results, strict=False):
            said = (result / "said").read_text().strip()
            refused = (result / "status").read_text() != "0\n"
            if not build.says and refused:
                yield f"{build.place}: {build.name} is refused: {said}"
            elif build.says and not (refused and all(part in said for part in build.says)):
                yield f"{build.place}: {build.name} should be refused with {build.says}; it says: {said or 'nothing'}"
        check = results[-1]
        if (check / "status").read_text() != "0\n":
            yield f"nix/modules-check.nix: {(check / 'said').read_text()}"


def nix_build(work: Path, programs: Path, library: Path | None) -> subprocess.CompletedProcess[str]:
    """Builds all, in a store of its own below the directory, so that nothing is left behind."""
    source = work / "source"
    source.mkdir()
    for name in SOURCE:
        kept = ROOT / name
        (shutil.copytree if kept.is_dir() else shutil.copy)(kept, source / name)
    paths = [path for path in SHARED if Path(path).exists()] + [f"{PROGRAMS}={programs.resolve()}", str(source)]
    if library:
        paths.append(str(library))
    options = {
        "sandbox": "true",
        "sandbox-fallback": "false",
        "sandbox-paths": " ".join(paths),
        "build-users-group": "",
        "substitute": "false",
        "max-jobs": str(os.cpu_count() or 1),
    }
    command = ["nix-build", str(HERE / "sandbox.nix"), "--no-out-link", "--store", f"{work}/store"]
    command += ["--argstr", "builds", f"{work}/builds.json", "--argstr", "source", str(source)]
    if library:
        command += ["--argstr", "nixpkgs", str(library.parent)]
    command += [word for option in options.items() for word in ("--option", *option)]
    environment = {**os.environ, "NIX_STATE_DIR": f"{work}/state", "HOME": str(work)}
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
