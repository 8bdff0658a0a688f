"""Patterns that people give for values, and that can be matched in a bounded time whatever the value is.

A regular expression can take for ever on a short text. So only a part of the syntax is taken (no look-around, no
back references, no repeated groups), and how many ways there are to match a text of that length is counted and limited:
the product of what each repetition, option and choice allows. The more of them a pattern has, the shorter its texts.
"""

from __future__ import annotations

import re

PATTERN_CHARACTERS_MAX = 256
"""Characters of a pattern: one line."""
VALUE_CHARACTERS_MIN = 100
"""Characters that every pattern takes: three open repetitions."""
WAYS_MAX = 1_000_000
"""Ways to match that are tried for one value: some hundredths of a second."""

_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?:|[()|^$.]|[*+?]|\{(\d{1,4})(?:(,)(\d{0,4}))?\}|.", re.DOTALL)
_SET_MARKS = re.compile(r"(?<!\\)\[|--|&&|~~|\|\|")
_ESCAPES = frozenset("dDwWsS")


class PatternError(ValueError):
    """A pattern that is not taken; the message says why."""


def check_pattern(pattern: str) -> None:
    """Check that a pattern is in the part of the syntax that is taken.

    Raises:
        PatternError: it is not, or it has too many ways to match.
    """
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise PatternError(f"a pattern has at most {PATTERN_CHARACTERS_MAX} characters")
    if _ways(pattern, VALUE_CHARACTERS_MIN) > WAYS_MAX:
        raise PatternError("there are too many ways to match it: repeat less, or with limits ({1,20})")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a regular expression: {error}") from None


def _ways(pattern: str, length: int) -> int:
    """Return in how many ways a text of so many characters can be tried. Raises PatternError."""
    ways, before = 1, ""
    for match in _PART.finditer(pattern):
        part = match.group()
        if part in ("*", "+", "?") or match[1] is not None:
            ways *= _ways_of(match, before, length)
            before = "repeated"
            continue
        if part == "(" and pattern[match.end() : match.end() + 1] == "?":
            raise PatternError("of what begins with `(?` only the group `(?:...)` is taken")
        if part[0] == "\\" and part[1:].isalnum() and part[1:] not in _ESCAPES:
            raise PatternError(f"the escape {part} is not taken: \\d, \\w, \\s and escaped marks are")
        if part == "[":
            raise PatternError("a set is not closed: [")
        if part[0] == "[" and _SET_MARKS.search(part, 1):
            raise PatternError("in a set, write [ and doubled marks with a backslash: they may come to mean something else")
        if part == "|":
            ways *= 2
        before = part
    return ways


def _ways_of(match: re.Match[str], before: str, length: int) -> int:
    """Return how many ways a repetition allows."""
    part = match.group()
    if before == "repeated":
        raise PatternError(f"a repetition is not repeated: {part}")
    if before == ")" and part != "?":
        raise PatternError("a group is not repeated, it is only optional: (...)?")
    if part == "?":
        return 2
    if match[1] is None or (match[2] and not match[3]):
        return max(1, length)
    least = int(match[1])
    return max(1, min(length, (int(match[3]) if match[3] else least) - least + 1))


def fault(pattern: str, value: str, among: int = 1) -> str:
    """Return why a checked pattern does not match the whole of a value, one of so many; empty when it does."""
    if _ways(pattern, len(value)) * among > WAYS_MAX:
        return f"is too long, or one of too many, to be held against {pattern}"
    return "" if re.fullmatch(pattern, value, re.ASCII) else f"must match {pattern}"
