"""Freezes, windows, queues, and what narrows admission, as text.

These take the API's JSON as it is, so that no event type has to be loaded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from fleetlog.render.text import Style, count_of, moment, seconds, table
from fleetlog.values import DAYS

Json = Mapping[str, Any]


def frozen_line(header: str, style: Style) -> str:
    """Return the line that says what is frozen, from the gateway's header."""
    count, *fields = header.split("; ")
    told = {name: unquote(text) for name, _, text in (field.partition("=") for field in fields)}
    more = f"; {count} freezes in all" if count.isdigit() and int(count) > 1 else ""
    freeze = {name: told.get(name, "") for name in ("target", "by", "since", "reason")}
    return f"frozen: {freeze_text(freeze, style)}{more}   (fleetlog thaw)"


def freeze_text(freeze: Json, style: Style) -> str:
    """Return who froze what since when, and why."""
    by = f", by {style.line(freeze['by'])}" if freeze["by"] else ","
    return f"{_meant(freeze['target'], style)}{by} since {clock(freeze['since'])}: {style.line(freeze['reason'])}"


def _meant(target: str, style: Style) -> str:
    return "all hosts" if target.strip() == "all" else style.line(target)


def clock(stamp: str) -> str:
    """Return a time of today as `10:02Z`, another one with its day."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    return f"{stamp[11:16]}Z" if stamp.startswith(today) else moment(stamp)


def freezes_text(freezes: Sequence[Json], style: Style) -> str:
    """Return freezes, one per line, with the id to thaw each by."""
    rows = [
        (
            str(one["freeze_id"])[-8:], _meant(one["target"], style), str(one["hosts"]), moment(one["since"]),
            style.line(one["by"]) or "-", style.line(one["reason"]),
        )
        for one in freezes
    ]
    return table(("FREEZE", "TARGET", "HOSTS", "SINCE", "BY", "REASON"), rows, style)


def windows_text(windows: Sequence[Json], style: Style) -> str:
    """Return windows by name, one per line, and which are open."""
    if not windows:
        return "no windows: hosts get work at any time. Make one: fleetlog window set NAME -t TARGET --blackout --days ..."
    rows = [
        (
            style.line(one["name"]), one["kind"], style.line(one["target"]), str(one["hosts"]),
            f"{days_text(one['days'])} {one['begins']} for {seconds(one['lasts_minutes'] * 60)} {one['zone']}",
            style.paint(f"open until {moment(one['open_until'])}", "green") if one["open"]
            else f"closed; opens {moment(one['opens_at'])}",
            style.line(one["reason"]) or "-",
        )
        for one in windows
    ]
    return table(("WINDOW", "KIND", "TARGET", "HOSTS", "WHEN", "NOW", "REASON"), rows, style)


def days_text(days: Sequence[int]) -> str:
    """Return days as people write them: `mon-fri,sun`, `daily`."""
    if len(days) == len(DAYS):
        return "daily"
    pieces: list[list[int]] = []
    for day in sorted(days):
        if pieces and day == pieces[-1][-1] + 1:
            pieces[-1].append(day)
        else:
            pieces.append([day])
    names = [
        f"{DAYS[piece[0]]}-{DAYS[piece[-1]]}" if len(piece) > 2 else ",".join(DAYS[day] for day in piece) for piece in pieces
    ]
    return ",".join(names)


def queues_text(queues: Sequence[Json], style: Style) -> str:
    """Return queues by name, one per line."""
    if not queues:
        return "no queue has a limit, and none has anything in it: fleetlog queue limit NAME N"
    rows = [
        (
            style.line(one["queue"]), str(one["in_flight_max"] or "none"), _known(one["in_flight"]), _known(one["waiting"]),
        )
        for one in queues
    ]
    return table(("QUEUE", "LIMIT", "IN FLIGHT", "WAITING"), rows, style)


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def admission_text(answer: Json, style: Style) -> str:
    """Return what narrows admission now, the widest first; a section that has nothing says so."""
    most = answer["in_flight_max"]
    head = f"{answer['in_flight']} commands in flight" + (f" of {most}" if most else "") + f", {answer['waiting']} waiting"
    busy = [
        (style.line(one["name"]), f"{one['in_flight']} of {one['slots']} slots (usually {one['slots_max']})", style.line(one["why"]))
        for one in answer["busy"]
    ]
    sections = [
        head,
        freezes_text(answer["freezes"], style) if answer["freezes"] else "nothing is frozen",
        windows_text(answer["windows"], style) if answer["windows"] else "no windows",
        queues_text(answer["queues"], style) if answer["queues"] else "no queue has a limit, and none has anything in it",
        table(("BUSY HOST", "TAKES", "WHY"), busy, style) if busy else "no host takes less than usual",
    ]
    return "\n\n".join(sections)


def hosts_now(count: int) -> str:
    """Return how many hosts a target means now; none may be a typo."""
    return count_of(count, "host") + " now" if count else "no host now: is it written as you mean it?"
