"""What the flake's Rust derivations lack: files that a Rust file includes, programs that gretun runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def sources() -> Iterator[str]:
    """What is missing of them."""
    kept = filtered_source()
    names = re.compile(r"include_(?:str|bytes)!\(\s*\"([^\"]+)\"")
    manifest = re.compile(r'CARGO_MANIFEST_DIR"\)\)?(?:\.join\(|,\s*)"/?([^"]+)"')
    rust = [path for directory in ("src", "tests", "benches") for path in sorted((ROOT / directory).rglob("*.rs"))]
    run = set()
    for path in rust:
        text = path.read_text()
        wanted = [Path(os.path.normpath(path.parent / name)) for name in names.findall(text)]
        wanted += [ROOT / name for name in manifest.findall(text)]
        for file in wanted:
            if str(file.relative_to(ROOT)) not in kept:
                yield f"{path.relative_to(ROOT)} wants {file.relative_to(ROOT)}, which nix/source.nix leaves out"
        if path.is_relative_to(ROOT / "src") and not path.stem.endswith("_tests"):
            run |= set(re.findall(r'Command::new\("(\w+)"\)', text))
    packages = {"nft": "nftables", "modprobe": "kmod", "ethtool": "ethtool"}
    crate = (ROOT / "nix" / "crate.nix").read_text()
    wrapped = re.search(r"makeBinPath\s*\[([^\]]*)\]", crate.replace("pkgs.", ""))
    for name in sorted(run):
        if wrapped is None or packages.get(name, name) not in wrapped[1].split():
            yield f"gretun runs {name}, which nix/crate.nix does not put on its PATH"


def filtered_source() -> set[str]:
    """The files and directories that nix/source.nix keeps, as Nix finds them."""
    expression = f"""
      let
        root = toString {ROOT};
        keep = import {ROOT}/nix/source.nix root;
        list = directory: builtins.concatLists (builtins.attrValues (builtins.mapAttrs (name: type:
          let path = "${{directory}}/${{name}}"; in
          if !keep path type then [ ] else [ path ] ++ (if type == "directory" then list path else [ ])
        ) (builtins.readDir directory)));
      in list root"""
    done = subprocess.run(["nix-instantiate", "--eval", "--strict", "--json", "-E", expression], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"nix/source.nix: {done.stderr}")
    return {os.path.relpath(path, ROOT) for path in json.loads(done.stdout)}
