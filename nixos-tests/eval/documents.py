"""The NixOS configurations that the documents and the flake's template show, as modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/NIXOS.md", "nix/template/*.nix")


def snippets() -> dict[str, str]:
    """By place: every fragment with options of gretun, as a module."""
    found: dict[str, str] = {}
    for pattern in DOCUMENTS:
        for file in sorted(ROOT.glob(pattern)):
            name = str(file.relative_to(ROOT))
            texts = [file.read_text()] if file.suffix == ".nix" else fences(file.read_text())
            modules = [text for text in texts if "services.gretun" in text]
            found |= {f"{name} {number}": as_module(text) for number, text in enumerate(modules, 1)}
    return found


def fences(markdown: str) -> Iterator[str]:
    """The contents of fenced blocks of Nix; the generated reference of options has examples of values only."""
    yield from re.findall(r"^```nix\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)


def as_module(text: str) -> str:
    """Attributes as they stand in a configuration, or a whole file."""
    code = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    return text if code.lstrip().startswith("{") else f"{{ config, ... }}:\n{{\n{text}}}\n"
