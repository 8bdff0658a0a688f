"""Schedules as tables of a definition's file, `[schedule.NAME]`: the words and values are those of `schedule set`.

A file has what a person decides of a schedule, its rule, and never its state: whether it is paused stands in the log
alone. Pure.
"""

from __future__ import annotations

import datetime as dt
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fleetlog.definition_text import TextError
from fleetlog.meant import decoder_text
from fleetlog.toml_text import toml_lines
from fleetlog.values import DAYS, duration_ms, moment_ms, window
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.schedule_events import Rule, SchedulePolicy

Json = dict[str, Any]
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000))
_WHEN = ("cron", "every", "at", "manual")
_RULE: dict[str, tuple[str, Callable[[str], Any] | None]] = {
    "cron": ("cron", None), "zone": ("zone", None), "every": ("interval_ms", duration_ms), "at": ("begins_ms", moment_ms),
    "begins": ("begins_ms", moment_ms), "ends": ("ends_ms", moment_ms), "target": ("target", None), "parameters": ("parameters", None),
}
_POLICY: dict[str, tuple[str, Callable[[str], Any] | None]] = {
    "misfire": ("misfire", None), "misfire_window": ("misfire_window_ms", duration_ms), "misfire_runs": ("misfire_runs_max", None),
    "overlap": ("overlap", None), "gap": ("gap", None), "fold": ("fold", None), "jitter": ("jitter_ms", duration_ms),
}


def rules_of(tables: object, definition: str) -> dict[str, Rule]:
    """Return the rules of a file's schedules by name. Raises TextError."""
    if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
        raise TextError("schedule: are tables, one for each schedule: [schedule.nightly]")
    return {name: _rule(f"schedule.{name}", table, definition) for name, table in tables.items()}


def _rule(place: str, table: Json, definition: str) -> Rule:
    given = [word for word in _WHEN if word in table]
    if len(given) != 1 or table.get("manual", True) is not True:
        raise TextError(f"{place}: say when by one of cron, every, at, or manual = true")
    if unknown := sorted(table.keys() - _RULE.keys() - _POLICY.keys() - {"manual", "windows"}):
        raise TextError(f"{place}: there is no {', '.join(unknown)}")
    kind = {"cron": "cron", "every": "interval", "at": "once", "manual": "manual"}[given[0]]
    fields: Json = {"definition": definition, "kind": kind, **_read(place, table, _RULE)}
    policy = _read(place, table, _POLICY)
    zone = fields.get("zone", "UTC")
    if windows := table.get("windows"):
        if not isinstance(windows, list):
            raise TextError(f"{place}.windows: is a list: [\"mon-fri 22:00 8h\"]")
        read = [_value(f"{place}.windows", one, window) for one in windows]
        policy["windows"] = [{"kind": "maintenance", "target": "all", "zone": zone, **one} for one in read]
    try:
        return msgspec.convert({**fields, "policy": policy}, Rule)
    except msgspec.ValidationError as error:
        raise TextError(f"{place}: {decoder_text(str(error), Rule).replace('$.policy.', '').replace('$.', '')}") from None


def _read(place: str, table: Json, words: Mapping[str, tuple[str, Callable[[str], Any] | None]]) -> Json:
    return {
        field: table[word] if read is None else _value(f"{place}.{word}", table[word], read)
        for word, (field, read) in words.items() if word in table
    }


def _value(place: str, value: object, read: Callable[[str], Any]) -> Any:
    text = value.isoformat() if isinstance(value, dt.datetime) else value
    if not isinstance(text, str):
        raise TextError(f"{place}: must be a text")
    try:
        return read(text)
    except ArgumentTypeError as error:
        raise TextError(f"{place}: {error}") from None


def schedules_text(rules: Mapping[str, Rule]) -> str:
    """Return the tables of schedules; nothing when there are none."""
    if not rules:
        return ""
    return "\n".join(toml_lines({"schedule": {name: _table(rules[name]) for name in sorted(rules)}}, "")) + "\n"


def _table(rule: Rule) -> Json:
    by_kind: dict[str, Json] = {
        "cron": {"cron": rule.cron, "zone": rule.zone}, "interval": {"every": _duration(rule.interval_ms)},
        "once": {"at": rfc3339(rule.begins_ms)}, "manual": {"manual": True},
    }
    when = by_kind[rule.kind]
    if rule.begins_ms and rule.kind != "once":
        when["begins"] = rfc3339(rule.begins_ms)
    if rule.ends_ms:
        when["ends"] = rfc3339(rule.ends_ms)
    if rule.target:
        when["target"] = rule.target
    usual = SchedulePolicy()
    for word, (field, read) in _POLICY.items():
        value = getattr(rule.policy, field)
        if value != getattr(usual, field):
            when[word] = value if read is None else _duration(value)
    if rule.policy.windows:
        when["windows"] = [
            f"{','.join(DAYS[day] for day in one.days)} {one.begins} {_duration(one.lasts_minutes * 60_000)}"
            + (f" {one.zone}" if one.zone != when.get("zone", "UTC") else "")
            for one in rule.policy.windows
        ]
    if rule.parameters:
        when["parameters"] = rule.parameters
    return when


def _duration(value_ms: int) -> str:
    """Return a duration as `duration_ms` reads it, in the largest unit that says it whole."""
    for unit, size_ms in _UNITS:
        if value_ms and value_ms % size_ms == 0:
            return f"{value_ms // size_ms}{unit}"
    return f"{value_ms}ms"


def based_on(rule: Rule, present: Rule | None, now_ms: int) -> Rule:
    """Return a rule as it is registered: a grid whose begin the file does not say stays where it is, or begins now."""
    if rule.kind != "interval" or rule.begins_ms:
        return rule
    same = present is not None and present.kind == "interval" and present.interval_ms == rule.interval_ms
    return msgspec.structs.replace(rule, begins_ms=present.begins_ms if same and present is not None else now_ms)
