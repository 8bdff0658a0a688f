"""Schedules and their next times as text, from the API's JSON as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetlog.render.text import Style, moment, seconds, table

Json = Mapping[str, Any]


def when_text(rule: Json) -> str:
    """Return when a rule means, in a few words."""
    match rule.get("kind", "manual"):
        case "cron":
            return f"{rule['cron']} ({rule.get('zone', 'UTC')})"
        case "interval":
            return f"every {seconds(rule['interval_ms'] / 1000)}"
        case "once":
            return "once"
        case _:
            return "by hand"


def schedules_text(items: Sequence[Json], style: Style, missed: Mapping[str, str]) -> str:
    """Return schedules by name, one per line; those in *missed* are marked."""
    if not items:
        return "no schedules: make one with  fleetlog schedule set NAME DEFINITION --cron '30 2 * * *' --zone Europe/Berlin"
    rows = [
        (
            style.line(one["name"]), style.line(one["rule"]["definition"]), style.line(when_text(one["rule"])),
            _state(one) + (style.paint(", missed", "red") if one["name"] in missed else ""),
            moment(one["next"][0]["at"]) if one["next"] else "-", style.line(one["next"][0]["note"]) if one["next"] else "",
        )
        for one in items
    ]
    return table(("NAME", "DEFINITION", "WHEN", "STATE", "NEXT", ""), rows, style)


def _state(one: Json) -> str:
    if one["state"] != "paused":
        return str(one["state"])
    return f"paused until {moment(one['paused_until'])}" if one["paused_until"] else "paused"


def schedule_text(one: Json, style: Style, missed: str) -> str:
    """Return everything about one schedule; *missed* is what is said of its last tick, if that was not fired in time."""
    rule = one["rule"]
    lines = [
        f"{style.line(one['name'])}  {_state(one)}" + (f": {style.line(one['paused_reason'])}" if one["paused_reason"] else ""),
        f"  runs        {style.line(rule['definition'])}" + (f" on {style.line(rule['target'])}" if rule.get("target") else ""),
        f"  when        {style.line(when_text(rule))}",
    ]
    if rule.get("parameters"):
        lines.append("  parameters  " + style.line(", ".join(f"{name}={value}" for name, value in sorted(rule["parameters"].items()))))
    policy = {name: value for name, value in rule.get("policy", {}).items() if name != "windows"}
    if policy:
        lines.append("  policy      " + style.line(", ".join(f"{name}={value}" for name, value in sorted(policy.items()))))
    lines.append(f"  registered  {moment(one['registered_at'])} by {style.line(one['registered_by']) or '-'}")
    if missed:
        lines.append(f"  missed      {style.line(missed)}: see  fleetlog schedule ticks {style.line(one['name'])},  and  backfill  for what is missing")
    lines += [f"  next        {line}" for line in next_lines(one["next"], style)]
    return "\n".join(lines)


def ticks_text(items: Sequence[Json], style: Style) -> str:
    """Return the ledger, one line for each tick or run of ticks with one fate."""
    if not items:
        return "nothing was expected yet"
    rows = [
        (
            moment(one["nominal_at"]) + (f" .. {moment(one['until'])}" if one["until"] else ""),
            str(one["outcome"]), f"{one['count']}{'+' if one['more'] else ''}", style.line(one["reason"]) or "-",
            str(one["task_id"])[-8:] if one["task_id"] else "-", one["task_outcome"] or "-", style.line(one["message"]),
        )
        for one in items
    ]
    return table(("TIME", "FATE", "TICKS", "WHY", "TASK", "OUTCOME", ""), rows, style)


def next_lines(ticks: Sequence[Json], style: Style) -> list[str]:
    """Return next times, each with what a change of the clocks does to it."""
    return [moment(tick["at"]) + (f"   {style.line(tick['note'])}" if tick["note"] else "") for tick in ticks]
