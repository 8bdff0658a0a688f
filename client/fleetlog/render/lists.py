"""Lists and small answers as text: tasks, hosts, statistics, events, SQL, reasons for waiting.

These take the API's JSON as it is, so that `ls` and `host ls` start without loading the event types.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fleetlog.render.text import Style, count_of, moment, seconds, shorten, table

Json = Mapping[str, Any]


def tasks_text(items: Sequence[Json], style: Style) -> str:
    """Return tasks, newest first, one per line."""
    if not items:
        return "no tasks yet: try  fleetlog exec -t '*' -- uptime"
    rows = [
        (
            str(item["task_id"])[-8:],
            style.state(item["outcome"] or item["state"]) + _standing(item, style),
            _counts(item, style),
            moment(item["submitted_at"]),
            seconds(item["duration_seconds"]),
            shorten(style.line(item["target"]), 24),
            shorten(style.line(item["name"] or item["summary"]), 60) + _part_of(item, style) + _admission(item, style),
        )
        for item in items
    ]
    return table(("ID", "OUTCOME", "HOSTS", "SUBMITTED", "TOOK", "TARGET", "RUNS"), rows, style)


def _part_of(item: Json, style: Style) -> str:
    if not item.get("part_of"):
        return ""
    return style.paint(f"  part {style.line(str(item['part']))} of {str(item['part_of'])[-8:]}", "dim")


def _standing(item: Json, style: Style) -> str:
    """Return that a task is on hold, where the list says so."""
    hold = item.get("hold") or ""
    kind = hold["kind"] if isinstance(hold, Mapping) else hold
    return style.paint(f" {style.line(str(kind))}", "yellow") if kind else ""


def _admission(item: Json, style: Style) -> str:
    """Return priority, queue and key of a task where the list has them and they are not the usual ones."""
    return "".join(
        style.paint(f"  {name} {style.line(str(item[name]))}", "dim")
        for name, usual in (("priority", 5), ("queue", "default"), ("key", None))
        if item.get(name) not in (None, "", usual)
    )


def _counts(item: Json, style: Style) -> str:
    counts = {name: count for name, count in item["counts"].items() if count}
    if not counts:
        return str(item["hosts"] or "-")
    return " ".join(f"{style.glyph(name)}{count}" for name, count in sorted(counts.items()))


def hosts_text(items: Sequence[Json], style: Style) -> str:
    """Return hosts by name, one per line, refusals marked."""
    if not items:
        return "no hosts yet: `fleetlog host add NAME` prints the line that joins one"
    rows = [
        (
            style.line(item["name"]),
            _presence(item, style),
            moment(item["since"]),
            str(item["running"]),
            " ".join(f"{key}={value}" if value else key for key, value in sorted(item["labels"].items())),
            style.line(item["version"]) or "-",
            _refusals(item, style),
        )
        for item in items
    ]
    return table(("HOST", "PRESENCE", "SINCE", "RUNNING", "LABELS", "VERSION", "REFUSALS"), rows, style)


_PRESENCE = {"online": "green", "offline": "yellow", "refused": "red", "revoked": "dim", "joined": "dim"}


def _presence(item: Json, style: Style) -> str:
    text = style.paint(item["presence"], _PRESENCE.get(item["presence"], ""))
    return text + (style.paint(" maintenance", "yellow") if item["maintenance"] else "")


def _refusals(item: Json, style: Style) -> str:
    refusals = item["refusals"]
    if not refusals:
        return "-"
    newest = f"{style.line(refusals[-1]['code'])}: {style.line(refusals[-1]['message'])}"
    more = f" (+{len(refusals) - 1})" if len(refusals) > 1 else ""
    return style.paint(shorten(newest, 80) + more, "red")


def host_text(item: Json, style: Style) -> str:
    """Return everything about one host."""
    labels = " ".join(f"{key}={value}" if value else key for key, value in sorted(item["labels"].items()))
    fields = [
        ("id", item["host_id"]),
        ("presence", f"{_presence(item, style)} since {moment(item['since'])}"),
        ("refused", style.line(item["refused_reason"])),
        ("maintenance", style.line(item["maintenance_reason"]) or "yes" if item["maintenance"] else ""),
        ("labels", labels or "-"),
        ("running", str(item["running"])),
        ("agent", style.line(item["version"]) or "-"),
        ("session", f"epoch {item['epoch']}"),
        ("enrolled", moment(item["enrolled_at"])),
    ]
    lines = [f"host {style.paint(style.line(item['name']), 'bold')}"]
    lines += [f"  {name:<12} {value}" for name, value in fields if value]
    if item["facts"]:
        lines.append("  facts")
        lines += [f"    {style.line(key):<24} {style.line(str(value))}" for key, value in sorted(item["facts"].items())]
    for refusal in item["refusals"]:
        stamp, code, message = refusal["time"], style.line(refusal["code"]), style.line(refusal["message"])
        lines.append(style.paint(f"  refusal {moment(stamp)} {code}: {message}", "red"))
    if item["presence"] == "refused":
        lines.append(f"look at the machine, then: fleetlog host accept {item['name']} --reason '...'")
    return "\n".join(lines)


def stats_text(items: Sequence[Json], by: str, style: Style) -> str:
    """Return counts, success rate and durations of ended commands."""
    rows = [
        (
            style.line(item["key"]),
            str(item["commands"]),
            f"{100 * item['success_ratio']:.1f} %",
            seconds(item["p50_seconds"]),
            seconds(item["p95_seconds"]),
            seconds(item["p99_seconds"]),
            " ".join(f"{style.glyph(name)}{count} {name}" for name, count in sorted(item["outcomes"].items())),
        )
        for item in items
    ]
    return table((by.upper(), "COMMANDS", "SUCCESS", "P50", "P95", "P99", "OUTCOMES"), rows, style)


def sql_text(answer: Json, style: Style) -> str:
    """Return the rows of a SQL answer, and a note when there are more."""
    rows = [["NULL" if value is None else style.line(str(value)) for value in row] for row in answer["rows"]]
    text = table([style.line(name) for name in answer["columns"]], rows, style)
    if answer["truncated"]:
        text += f"\n… more than {len(rows)} rows: ask for more with --limit, or narrow the query"
    return text


def event_line(item: Json, style: Style) -> str:
    """Return one stored event: sequence, time, type, who, and its data shortened."""
    event = item["event"]
    kind = str(event.get("type", "")).removeprefix("fleetlog.").rpartition(".v")[0] or "?"
    who = event.get("authid") or str(event.get("source", "")).removeprefix("/fleetlog/").partition("/")[0]
    data = shorten(style.line(_brief(event.get("data"))), 140)
    stamp = str(item["stored_at"])[:23].replace("T", " ")
    return f"{item['seq']:>8}  {stamp}  {style.paint(f'{style.line(kind):<24}', 'bold')}  {style.line(str(who)):<16}  {data}"


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_brief(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        shown = ", ".join(_brief(inner) for inner in value[:3])
        return f"[{shown}{f', … {len(value)} in all' if len(value) > 3 else ''}]"
    text = str(value)
    return text[-8:] if len(text) == 36 and text.count("-") == 4 else text


def waiting_lines(groups: Sequence[Json], style: Style) -> list[str]:
    """Return why commands have not ended, one line for each reason: how many, the reason's word, where, and the text."""
    return [
        f"  {style.glyph(group['state'])} {_whose(group, style)}  {style.line(group['message'])}"
        + (f" (since {moment(group['since'])})" if group["since"] else "") + _typical(group)
        for group in groups
    ]


def _whose(group: Json, style: Style) -> str:
    """Return which commands, or which part of a workflow, and the reason's word."""
    if group.get("part"):
        return f"{style.paint(style.line(group['part']), 'bold')}  {_reason(group)}"
    return f"{count_of(group['count'], 'host')}  {_reason(group)}  {style.paint(style.line(group['hosts']), 'bold')}"


def _reason(group: Json) -> str:
    state, reason = group["state"], group["reason"]
    return state if reason in ("", state) else f"{state}: {reason}"


def _typical(group: Json) -> str:
    """Return how long commands run already, beside how long the same took before."""
    typical = group.get("typical")
    if not typical or not typical["commands"] or typical["p95_seconds"] is None or not group["since"]:
        return ""
    ran_s = max(time.time() - dt.datetime.fromisoformat(group["since"]).timestamp(), 0)
    return f"; runs for {seconds(ran_s)}; p95 of the same is {seconds(typical['p95_seconds'])}"


def waits_text(command: Json, style: Style) -> str:
    """Return what one command waited for, oldest first, and where it stands."""
    state = style.state(command["outcome"] or command["state"])
    lines = [f"{style.paint(style.line(command['host']), 'bold')}  {state}  wave {command['wave']}"]
    rows = [
        (style.line(one["reason"]), moment(one["since"]), moment(one["until"]) if one["until"] else "still",
         style.line(one["message"]))
        for one in command["waits"]
    ]
    if not rows:
        return lines[0] + "\n  it waited for nothing that lasted long enough to be noted"
    return "\n".join([*lines, table(("WAITED FOR", "SINCE", "UNTIL", "BECAUSE"), rows, style)])
