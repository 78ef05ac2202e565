"""Writes a daemon's settings as TOML (the standard library only reads it)."""

from __future__ import annotations

import json
from collections.abc import Mapping


def dumps(settings: Mapping[str, object]) -> str:
    """One table of plain values, lists and nested tables, as a TOML document."""
    return "\n".join(f"{key} = {_value(value)}" for key, value in settings.items()) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    raise TypeError(f"no TOML form for {value!r}")
