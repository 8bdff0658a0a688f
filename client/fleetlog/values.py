"""How values are written on the command line: times, sizes, labels. Each error says how it should look."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from typing import Any

_UNIT_MS = {"ms": 1, "s": 1_000, "": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|)")
_SIZE = re.compile(r"([0-9]+)(?:([kKMGT])(i?))?B?")
_SHARE = re.compile(r"[0-9]{1,6}%?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def duration_ms(text: str) -> int:
    """Return the milliseconds of `500ms`, `30s`, `5m`, `1h`, `1h30m`, `7d`; a bare number is seconds."""
    position, total = 0, 0.0
    while position < len(text) or not text:
        match = _TIME.match(text, position)
        if match is None or (not match[2] and match.group() != text):
            raise ArgumentTypeError(f"cannot read the time {text!r}: write 30s, 5m, 1h or 1h30m")
        total += float(match[1]) * _UNIT_MS[match[2]]
        position = match.end()
    return round(total)


def quantity(text: str) -> int:
    """Return the bytes of `512M`, `2G`, `10Mi`, `65536`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ArgumentTypeError(f"cannot read the size {text!r}: write 512M, 2G or 10Mi")
    number, unit, binary = match.groups()
    power = "kMGT".index(unit.replace("K", "k")) + 1 if unit else 0
    base = 1024 if binary else 1000
    return int(number) * int(base**power)


def count(text: str) -> int:
    """Return a number from 0 on."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ArgumentTypeError(f"{text!r} is not a number: write a whole one, 0 or more")
    return int(text)


def positive(text: str) -> int:
    """Return a number from 1 on."""
    number = count(text)
    if not number:
        raise ArgumentTypeError("at least 1")
    return number


def port(text: str) -> int:
    """Return a port; 0 is a free one."""
    number = count(text)
    if number > 65_535:
        raise ArgumentTypeError(f"{text} is not a port: 0-65535")
    return number


def octal(text: str) -> int:
    """Return an octal number such as `022`."""
    try:
        return int(text, 8)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not octal: write 022 or 077") from None


def separated(text: str) -> tuple[str, ...]:
    """Return the words of `a,b`."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def share(text: str) -> str:
    """Return a count (3) or a percentage (5%), as it was written."""
    if not _SHARE.fullmatch(text):
        raise ArgumentTypeError(f"{text!r} is neither a count nor a percentage: write 3 or 5%")
    return text


def shares(text: str) -> tuple[str, ...]:
    """Return the counts and percentages of `1,5%,25%,100%`."""
    found = tuple(share(word) for word in separated(text))
    if not found:
        raise ArgumentTypeError("name at least one: 1,5%,25%,100%")
    return found


def wave_numbers(text: str) -> tuple[int, ...]:
    """Return the waves of `2,4`; `all` is every wave after the first, which 0 stands for."""
    if text == "all":
        return (0,)
    found = tuple(count(word) for word in separated(text))
    if not found:
        raise ArgumentTypeError("name waves by number (2,4), or `all`")
    return found


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def week_days(text: str) -> tuple[int, ...]:
    """Return the days of `mon-fri,sun` as numbers, 0 for Monday; `daily` is all of them."""
    if text.lower() == "daily":
        return tuple(range(7))
    found: set[int] = set()
    for part in separated(text.lower()):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ArgumentTypeError(f"cannot read the days {part!r}: write mon-fri,sun or daily")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found.update(day % 7 for day in range(begin, end + 1 if end >= begin else end + 8))
    if not found:
        raise ArgumentTypeError("name at least one day: mon-fri,sun or daily")
    return tuple(sorted(found))


def target(text: str) -> str:
    """Return *text*, which means some hosts."""
    if not text.strip():
        raise ArgumentTypeError("the target is empty; for every host write all")
    return text


def label(text: str) -> tuple[str, str | None]:
    """Return key and value of `K=V`; the value is None for `K-` (remove), empty for `K`."""
    key, equals, value = text.partition("=")
    if not equals and key.endswith("-"):
        return key[:-1], None
    if not key or ":" in key:
        raise ArgumentTypeError(f"{text!r} is not a label: write {key.replace(':', '=', 1) or 'KEY=VALUE'}")
    return key, value


def moment_ms(text: str) -> int:
    """Return the Unix milliseconds of `2026-12-24T18:00:00+01:00` or `2026-12-24 18:00Z`; a time needs its zone."""
    import datetime as dt

    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise ArgumentTypeError(f"cannot read the time {text!r}: write 2026-12-24T18:00:00+01:00, or ...Z") from None
    if moment.tzinfo is None:
        raise ArgumentTypeError(f"say in which zone {text} is: append Z, or an offset as +01:00")
    return round(moment.timestamp() * 1000)


def past_ms(text: str) -> int:
    """Return the Unix milliseconds of a time, or of so long ago: `7d`."""
    import time

    return round(time.time() * 1000) - duration_ms(text) if _TIME.match(text) and "-" not in text else moment_ms(text)


def window(text: str) -> dict[str, Any]:
    """Return the time of the week of `mon-fri 22:00 8h`, and of which clock, if that is said as a fourth word."""
    words = text.split()
    if not 3 <= len(words) <= 4:
        raise ArgumentTypeError(f"cannot read the window {text!r}: write 'mon-fri 22:00 8h' (days, begin, how long it lasts)")
    found = {"days": week_days(words[0]), "begins": words[1], "lasts_minutes": duration_ms(words[2]) // 60_000}
    return {**found, "zone": words[3]} if len(words) == 4 else found


def parameter(text: str) -> tuple[str, str]:
    """Return name and value of `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"{text!r} is not a parameter: write NAME=VALUE")
    return name, value


def env_value(text: str) -> tuple[str, str | None]:
    """Return name and value of `K=V`; the value is None for `K` alone (taken from the environment here)."""
    name, equals, value = text.partition("=")
    if not _NAME.fullmatch(name):
        raise ArgumentTypeError(f"{name!r} is not the name of an environment variable: write K=V")
    return name, value if equals else None


def secret_value(text: str) -> tuple[str, str | None]:
    """Return name and file of `NAME=@FILE`; the file is None for `NAME` alone (taken from the environment here)."""
    name, equals, value = text.partition("=")
    if not _NAME.fullmatch(name):
        raise ArgumentTypeError(f"{name!r} is not the name of an environment variable: write NAME or NAME=@FILE")
    if equals and not value.startswith("@"):
        # The value itself is not repeated: it is on the command line already, but need not be in a log.
        raise ArgumentTypeError(
            f"a secret's value does not belong on the command line, where every user sees it:"
            f" export {name} and write --secret {name}, or --secret {name}=@FILE"
        )
    return name, value[1:] if equals else None
