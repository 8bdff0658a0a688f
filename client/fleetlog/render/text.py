"""Words, colours and tables, and the washing of what hosts wrote before a terminal sees it.

A host's output may carry escape sequences that move the cursor, set the title or hide text. All of them go, and
so do other control and direction characters; only colours stay, and only where colour is on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|[\x1b]\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"  # the short ones, and what is left of a cut one
    r"|\x9b[0-?]*[ -/]*[@-~]"  # CSI in one character
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")

RESET = "\x1b[0m"
_COLOURS = {
    "red": "\x1b[31m", "green": "\x1b[32m", "yellow": "\x1b[33m", "blue": "\x1b[34m", "dim": "\x1b[2m",
    "bold": "\x1b[1m", "magenta": "\x1b[35m",
}
_GLYPHS = {
    "success": ("✓", "+", "green"), "failure": ("✗", "x", "red"), "error": ("!", "!", "red"),
    "timeout": ("⏱", "t", "red"), "cancelled": ("⊘", "c", "yellow"), "skipped": ("⊘", "s", "dim"),
    "unreached": ("∅", "u", "yellow"), "lost": ("?", "?", "magenta"), "refused": ("✗", "x", "red"),
    "running": ("▶", ">", "blue"), "dispatched": ("▷", ">", "blue"), "waiting": ("◌", ".", "dim"),
    "submitted": ("◌", ".", "dim"), "planned": ("▶", ">", "blue"), "several": ("✗", "x", "red"),
}


class Style:
    """Whether there is colour, and whether the terminal has more than ASCII."""

    def __init__(self, *, colour: bool, unicode: bool) -> None:
        self.colour = colour
        self.unicode = unicode

    def paint(self, text: str, colour: str) -> str:
        """Return *text* in a colour, or as it is where colour is off."""
        return f"{_COLOURS[colour]}{text}{RESET}" if self.colour and colour else text

    def glyph(self, state: str) -> str:
        """Return the sign of an outcome or state, in its colour."""
        rich, plain, colour = _GLYPHS.get(state, ("·", "-", ""))
        return self.paint(rich if self.unicode else plain, colour)

    def state(self, state: str) -> str:
        """Return sign and word of an outcome or state."""
        return f"{self.glyph(state)} {state}"

    def clean(self, text: str) -> str:
        """Return what a host wrote without anything that could act on a terminal."""
        return clean(text, colour=self.colour)

    def line(self, text: str) -> str:
        """Return what a host wrote as one clean line without colours."""
        return " ".join(clean(text, colour=False).split())


def clean(text: str, *, colour: bool) -> str:
    """Return *text* without escape sequences, control and direction characters; line ends and tabs stay.

    With *colour*, colours stay too and are reset at the end of each line that has one.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not colour:
        return _CONTROLS.sub("", _ESCAPES.sub("", text))
    lines = []
    for line in text.split("\n"):
        kept: list[str] = []
        position = 0
        for match in _COLOUR.finditer(line):
            kept += [_CONTROLS.sub("", _ESCAPES.sub("", line[position : match.start()])), match.group()]
            position = match.end()
        kept.append(_CONTROLS.sub("", _ESCAPES.sub("", line[position:])))
        lines.append("".join(kept) + (RESET if position else ""))
    return "\n".join(lines)


_JSON_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def clean_json(text: str) -> str:
    """Return JSON text whose strings cannot act on a terminal: such characters become escapes of JSON.

    They can stand only inside strings there, so the value does not change.
    """
    return _JSON_UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


_ANY_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def width(text: str) -> int:
    """Return the columns that *text* takes, colours aside."""
    return len(_ANY_COLOUR.sub("", text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], style: Style) -> str:
    """Return aligned columns with a head; the last column is not padded."""
    widths = [max(width(cell) for cell in column) for column in zip(head, *rows, strict=True)]

    def row_text(row: Sequence[str]) -> str:
        cells = [cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([style.paint(row_text(head), "dim"), *(row_text(row) for row in rows)])


def seconds(value: float | None) -> str:
    """Return a duration for people: `0.4s`, `12s`, `3m20s`, `2h05m`, `3d04h`; `-` when there is none."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.2f}s" if value < 1 else f"{value:.1f}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def whole_seconds(value: int) -> str:
    """Return a duration that is only known to the second."""
    return f"{value}s" if value < 10 else seconds(value)


def count_of(number: int, noun: str) -> str:
    """Return `1 host`, `3 hosts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(value: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def moment(stamp: str | None) -> str:
    """Return an RFC 3339 time of the API as `2026-11-22 02:35:01Z`; `-` when there is none."""
    if not stamp:
        return "-"
    return stamp[:19].replace("T", " ") + "Z"


def shorten(text: str, columns: int) -> str:
    """Return *text* cut to *columns*, with a mark where it was cut."""
    return text if len(text) <= columns else text[: max(columns - 1, 0)] + "…"
