"""Folded host names: `web[01-03,07]` stands for web01, web02, web03 and web07.

The notation is that of ClusterShell's node sets; a range keeps its zero padding, and only one bracket is
allowed in a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

RANGE_HOSTS_MAX = 100_000
"""Names that one bracket may expand to."""

_FOLDED = re.compile(r"([^\[\]]*)\[([0-9,\-]+)\]([^\[\]]*)")
_PIECE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_NUMBERED = re.compile(r"(.*?)([0-9]+)(\D*)")


class BadRange(ValueError):
    """A bracket that cannot be read."""


def expand(text: str) -> Iterator[str]:
    """Yield the names that *text* stands for: itself, when it has no bracket.

    Raises:
        BadRange: the bracket is malformed, runs backwards or is too large.
    """
    if "[" not in text and "]" not in text:
        yield text
        return
    folded = _FOLDED.fullmatch(text)
    if folded is None:
        raise BadRange(f"cannot read the range in {text[:80]!r}: write it as web[01-40,42]")
    head, inside, tail = folded.groups()
    total = 0
    for piece in inside.split(","):
        read = _PIECE.fullmatch(piece)
        if read is None:
            raise BadRange(f"cannot read {piece[:40]!r} in {text[:80]!r}: write a number or a range such as 01-40")
        low, high = read.groups()
        first, last = int(low), int(high or low)
        if last < first:
            raise BadRange(f"the range {piece!r} in {text[:80]!r} runs backwards")
        total += last - first + 1
        if total > RANGE_HOSTS_MAX:
            raise BadRange(f"{text[:80]!r} stands for more than {RANGE_HOSTS_MAX} names")
        for number in range(first, last + 1):
            yield f"{head}{number:0{len(low)}d}{tail}"


def fold(names: Iterable[str]) -> str:
    """Return *names* in the shortest form that `expand` reads back, sorted, joined by commas."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    plain: list[str] = []
    for name in sorted(set(names)):
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None:
            plain.append(name)
            continue
        head, digits, tail = numbered.groups()
        # Padded and unpadded numbers of one length are one group; 9 and 10 are not, or they would not read back.
        groups.setdefault((head, tail, len(digits)), []).append(int(digits))
    pieces = plain
    for (head, tail, width), numbers in sorted(groups.items()):
        ranges = ",".join(_ranges(sorted(numbers), width))
        only_one = len(numbers) == 1
        pieces.append(f"{head}{ranges}{tail}" if only_one else f"{head}[{ranges}]{tail}")
    return ",".join(sorted(pieces))


def _ranges(numbers: list[int], width: int) -> Iterator[str]:
    first = last = numbers[0]
    for number in [*numbers[1:], None]:
        if number is not None and number == last + 1:
            last = number
            continue
        low, high = f"{first:0{width}d}", f"{last:0{width}d}"
        yield low if first == last else f"{low}-{high}"
        if number is not None:
            first = last = number
