"""What submitting would do, before anything runs: waves, hosts, locks, the difference from last time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fleetlog.render.text import Style, count_of, moment, shorten
from fleetlog.render.workflow import planned_parts
from fleetlog_schemas import hostset

Json = Mapping[str, Any]
REASONS_MAX = 20
"""Different reasons for not running at once that are printed; of more, the rest is counted."""


def plan_text(answer: Json, again: str, style: Style) -> str:
    """Return a plan for people; *again* is what to type to submit exactly this plan."""
    hosts = answer["hosts"]
    if answer.get("parts"):
        return _workflow_text(answer, again, style)
    waves = len(answer.get("waves") or ())
    in_waves = f" in {waves} waves" if waves > 1 else ""
    lines = [f"{count_of(len(hosts), 'host')}{in_waves}, {answer['offline']} offline; nothing was run"]
    fields = [
        ("runs", shorten(style.line(answer.get("runs") or ""), 160)),
        ("chosen", _chosen(answer)),
        ("halts", _halts(answer)),
        ("lock", style.line(answer.get("lock") or "")),
    ]
    lines += [f"  {name:<9} {value}" for name, value in fields if value]
    lines += _waves(hosts, style) if waves > 1 else []
    lines += _would(hosts, style)
    lines += difference_lines(answer.get("difference"), "the last task that ran the same", style)
    return "\n".join([*lines, f"plan {answer['plan_hash']}", f"run exactly this:  {style.line(again)}"])


def _workflow_text(answer: Json, again: str, style: Style) -> str:
    parts = answer["parts"]
    steps = count_of(max(part["rank"] for part in parts), "step")
    lines = [f"{count_of(len(parts), 'part')} in {steps}; nothing was run", *planned_parts(parts, style)]
    if answer.get("lock"):
        lines.append(f"  lock      {style.line(answer['lock'])}")
    return "\n".join([*lines, f"plan {answer['plan_hash']}", f"run exactly this:  {style.line(again)}"])


def _chosen(answer: Json) -> str:
    candidates = answer.get("candidates") or 0
    return f"{len(answer['hosts'])} of {candidates} hosts that the target means" if candidates > len(answer["hosts"]) else ""


def _halts(answer: Json) -> str:
    allowed = answer.get("failures_max")
    if allowed is None:
        return ""
    return "when any host fails" if allowed == 0 else f"when more than {count_of(allowed, 'host')} fail"


def _waves(hosts: Sequence[Json], style: Style) -> list[str]:
    found: dict[int, list[str]] = {}
    for host in hosts:
        found.setdefault(host.get("wave", 1), []).append(host["name"])
    return [
        f"  wave {number:<4} {count_of(len(names), 'host'):<9} {shorten(style.line(hostset.fold(names)), 200)}"
        for number, names in sorted(found.items())
    ]


def _would(hosts: Sequence[Json], style: Style) -> list[str]:
    """Return what each host would do, those alike together, and why those that would not run at once would not."""
    found: dict[tuple[str, str], list[str]] = {}
    for host in hosts:
        state = "maintenance" if host["maintenance"] else host["presence"]
        reason = host.get("reason") or (state if state != "online" else "")
        found.setdefault((host["would"], reason), []).append(host["name"])
    ordered = sorted(found.items(), key=lambda item: (item[0][0] != "run", item[0]))
    lines = []
    for (would, reason), names in ordered[:REASONS_MAX]:
        because = f"  {style.line(reason)}" if reason else ""
        lines.append(
            f"  {count_of(len(names), 'host')} would {would:<12} {shorten(style.line(hostset.fold(names)), 200)}{because}"
        )
    rest = sum(len(names) for _, names in ordered[REASONS_MAX:])
    return [*lines, f"  {count_of(rest, 'further host')}: see -o json"] if rest else lines


def difference_lines(found: Json | None, what: str, style: Style) -> list[str]:
    """Return how a plan, or a task, differs from an earlier task."""
    if not found:
        return []
    outcome = found["outcome"] or "not ended"
    lines = [f"  beside {what}: {str(found['task_id'])[-8:]}, {outcome}, {moment(found['submitted_at'])}"]
    for word, names in (("new", found["hosts_added"]), ("gone", found["hosts_removed"])):
        if names:
            lines.append(f"    {word} hosts: {shorten(style.line(names), 200)}")
    for name, (before, now) in sorted(found["fields"].items()):
        lines.append(f"    {name}: {_value(before, style)} before, {_value(now, style)} now")
    return lines if len(lines) > 1 else [f"{lines[0]}: no difference"]


def _value(value: Any, style: Style) -> str:
    return shorten(style.line(json.dumps(value, ensure_ascii=False)), 80)
