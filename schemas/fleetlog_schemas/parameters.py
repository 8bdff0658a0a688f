"""Parameters: what a value may be that a definition's run is given, and as which text it is found. `definitions.py` checks values."""

from __future__ import annotations

from typing import Literal

import msgspec

ParameterValue = str | bool | int | float | tuple[str, ...]
"""Value of a parameter."""
ParameterType = Literal["string", "integer", "number", "boolean", "enum", "list", "secret"]


class Parameter(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a parameter may be."""

    type: ParameterType = "string"
    """A `list` has texts of one line each; a `secret` is a text that never enters the log."""
    description: str = ""
    required: bool = False
    default: ParameterValue | None = None
    """Taken where none is given; a parameter that has no default either is not there."""
    min: int | float | None = None
    """Of a number its least value, of a text its characters, of a list its items."""
    max: int | float | None = None
    pattern: str = ""
    """A regular expression that the whole text matches, and each item of a list."""
    values: tuple[str, ...] = ()
    """Of an `enum`: what it may be."""


def as_text(value: ParameterValue | list[str]) -> str:
    """Return a value as a process finds it: `true`, decimal digits, a list with one item on each line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "\n".join(value) if isinstance(value, list | tuple) else str(value)
