"""One task as text and as JSON. `show` and `replay` both end here, so equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fleetlog.render.text import Style, clean_json, count_of, moment, seconds, shorten, table
from fleetlog.render.workflow import part_of_text, parts_table
from fleetlog_schemas import hostset
from fleetlog_schemas.outcomes import RERUN_OUTCOMES, Outcome
from fleetlog_schemas.parameters import as_text
from fleetlog_schemas.spec import QUEUE_DEFAULT, Origin, Script, Shell, TaskSpec, summary
from fleetlog_schemas.view import CommandView, FailureGroup, TaskView, WaveView

ROWS_MAX = 50
"""Commands listed one by one; of more, the good ones are folded into one line."""

_encoder = msgspec.json.Encoder(order="deterministic")


def task_json(view: TaskView) -> str:
    """Return the one JSON form of a task."""
    return clean_json(msgspec.json.format(_encoder.encode(view), indent=2).decode())


def task_text(view: TaskView, style: Style) -> str:
    """Return a task for people: count, groups, then host by host."""
    lines = [*_head(view, style), *group_lines(view.failures, style)]
    if view.waves:
        lines += ["", waves_table(view.waves, style)]
    if view.parts:
        lines += ["", parts_table(view.parts, style)]
    if view.commands:
        lines += ["", *_commands(view.commands, style)]
        lines += _traceback(view.commands, style)
    if kept := _artifacts(view.commands, style):
        lines += ["", *kept]
    return "\n".join(lines)


def _head(view: TaskView, style: Style) -> list[str]:
    fields = [
        ("runs", shorten(style.line(what_runs(view.spec)), 160)),
        ("name", style.line(view.name)),
        ("target", style.line(view.target) or ("" if view.kind == "workflow" else count_of(len(view.spec.host_ids), "chosen host"))),
        ("asked", f"{moment(view.submitted_at)} by {style.line(view.submitted_by) or 'unknown'}"),
        ("schedule", _schedule(view, style)),
        ("of", _origin(view.spec.definition, style)),
        ("rerun of", view.rerun_of or ""),
        ("admission", _admission(view, style)),
        ("tags", " ".join(view.tags)),
        ("ended", f"{moment(view.ended_at)} after {seconds(view.duration_seconds)}" if view.ended_at else ""),
        ("on hold", _hold(view, style)),
        ("halts", "" if view.failures_max is None else f"when more than {count_of(view.failures_max, 'host')} fail"),
        ("stopped", _stopped(view, style)),
        ("refused", style.line(view.refusal or "")),
        ("part of", part_of_text(*msgspec.structs.astuple(view.part_of)) if view.part_of else ""),
        ("hosts", f"{view.hosts}: {counts_text(view.counts, style)}" if view.hosts else ""),
        ("parts", f"{len(view.parts)}: {counts_text(view.counts, style)}" if view.parts else ""),
    ]
    state = view.outcome or view.state
    lines = [f"task {view.task_id}  {view.kind}  {style.state(state)}"]
    return lines + [f"  {name:<9} {value}" for name, value in fields if value]


def _schedule(view: TaskView, style: Style) -> str:
    if not view.schedule:
        return ""
    return style.line(view.schedule) + (f", for {moment(view.nominal_at)}" if view.nominal_at else ", run by hand")


def _origin(origin: Origin | None, style: Style) -> str:
    """Return the version of the definition that it was a run of, and the parameters."""
    if origin is None:
        return ""
    given = " ".join(f"{name}={shorten(as_text(value), 60)}" for name, value in origin.parameters.items())
    return style.line(f"{origin.name} version {origin.version}" + (f", {given}" if given else ""))


def _admission(view: TaskView, style: Style) -> str:
    """Return priority, queue and key where they are not the usual ones."""
    usual = (("priority", view.priority, 5), ("queue", view.queue, QUEUE_DEFAULT), ("key", "" if view.spec.definition else view.key or "", ""))
    return ", ".join(f"{name} {style.line(str(value))}" for name, value, default in usual if value != default)


def _hold(view: TaskView, style: Style) -> str:
    if view.hold is None:
        return ""
    by = f" by {style.line(view.hold.by)}" if view.hold.by else ""
    why = f": {style.line(view.hold.reason)}" if view.hold.reason else ""
    return f"{style.paint(view.hold.kind, 'yellow')}{by} since {moment(view.hold.since)}{why}"


def waves_table(waves: Sequence[WaveView], style: Style) -> str:
    """Return the waves of a rollout: how many hosts each has, how many have not ended, and when it went."""
    rows = [
        (
            f"  {wave.number}", str(wave.hosts), str(wave.open), wave.state, moment(wave.begun_at), moment(wave.ended_at),
        )
        for wave in waves
    ]
    return table(("  WAVE", "HOSTS", "OPEN", "STATE", "BEGAN", "ENDED"), rows, style)


def _stopped(view: TaskView, style: Style) -> str:
    if not view.stop:
        return ""
    who = f" by {style.line(view.stop_by)}" if view.stop_by else ""
    why = f": {style.line(view.stop_reason)}" if view.stop_reason else ""
    return f"{view.stop}{who}{why}"


def what_runs(spec: TaskSpec) -> str:
    """Return what a task runs, in one line, as a person would type it."""
    payload = spec.payload
    if isinstance(payload, Shell):
        return " ".join(_quoted(part) for part in payload.argv)
    if not isinstance(payload, Script):
        return summary(payload)
    name = payload.content.name or payload.content.sha256[:12]
    return " ".join(_quoted(part) for part in (*payload.interpreter, name, *payload.args))


def _quoted(part: str) -> str:
    plain = part and all(character.isalnum() or character in "@%_-+=:,./" for character in part)
    return part if plain else "'" + part.replace("'", "'\\''") + "'"


def counts_text(counts: Mapping[str, int], style: Style) -> str:
    """Return how many commands are in each state, the bad ones first."""
    order = [outcome.value for outcome in Outcome] + ["running", "dispatched", "waiting"]
    known = sorted(counts, key=lambda name: order.index(name) if name in order else len(order))
    return ", ".join(f"{style.glyph(name)} {counts[name]} {name}" for name in known)


def group_lines(groups: Iterable[FailureGroup], style: Style) -> list[str]:
    """Return one line for each group of failures: how many, how, where, and the line that says why."""
    return [group_line(msgspec.to_builtins(group), style) for group in groups]


def group_line(group: Mapping[str, Any], style: Style) -> str:
    """Return the line of one group, as the API gives it."""
    code = f"  exit {group['exit_code']}" if group["exit_code"] is not None else ""
    line = shorten(style.line(str(group["example"] or group["line"])), 160)
    text = (
        f"  {style.glyph(group['outcome'])} {count_of(group['count'], 'host')}  {group['outcome']}{code}"
        f"  {style.paint(style.line(group['hosts']), 'bold')}"
    )
    return f"{text}  {line}" if line else text


def _commands(commands: Sequence[CommandView], style: Style) -> list[str]:
    listed: Sequence[CommandView] = commands
    lines = []
    if len(commands) > ROWS_MAX:
        good = [command for command in commands if command.outcome == "success"]
        listed = [command for command in commands if command.outcome != "success"][:ROWS_MAX]
        hidden = len(commands) - len(good) - len(listed)
        if good:
            folded = hostset.fold(command.host for command in good)
            lines.append(f"  {style.state('success')}: {shorten(style.line(folded), 400)}")
        if hidden:
            lines.append(f"  {count_of(hidden, 'further host')}: see `fleetlog show -o json`")
    if listed:
        rows = [_command_row(command, style) for command in listed]
        lines.append(table(("HOST", "OUTCOME", "EXIT", "ATTEMPTS", "RAN", "STARTED", "LINE"), rows, style))
    return lines


def _artifacts(commands: Sequence[CommandView], style: Style) -> list[str]:
    """Return what builds left, as far as it is a list to read."""
    rows = [
        (style.line(command.host), one.name, str(one.size), one.sha256)
        for command in commands for attempt in command.attempts for one in attempt.artifacts
    ]
    if not rows:
        return []
    more = [f"  {count_of(len(rows) - ROWS_MAX, 'further artifact')}: see `fleetlog artifact ls`"] if len(rows) > ROWS_MAX else []
    return [table(("HOST", "ARTIFACT", "BYTES", "SHA256"), rows[:ROWS_MAX], style), *more]


def _traceback(commands: Sequence[CommandView], style: Style) -> list[str]:
    """Return the traceback of the first function that raised."""
    for command in commands:
        last = command.attempts[-1] if command.attempts else None
        if last is not None and last.traceback:
            return ["", f"{style.line(command.host)}:", *(f"  {style.line(line)}" for line in last.traceback.splitlines())]
    return []


def _command_row(command: CommandView, style: Style) -> tuple[str, ...]:
    last = command.attempts[-1] if command.attempts else None
    notes = []
    if last is not None and last.decided:
        notes.append("not confirmed by the host")
    if any(attempt.late for attempt in command.attempts):
        notes.append("a later end was reported")
    value = f"returned {last.return_value}" if last and last.return_value is not None else ""
    if last and last.progress:
        value = f"{last.progress.done:g}" + ("" if last.progress.total is None else f" of {last.progress.total:g}") + f" {last.progress.note}"
    line = "" if last is None else style.line((last.error or value or last.tail).strip().rpartition("\n")[2])
    return (
        style.line(command.host),
        style.state(command.outcome or command.state),
        "-" if last is None or last.exit_code is None else str(last.exit_code),
        str(len(command.attempts)),
        seconds(last.duration_seconds) if last else "-",
        moment(last.started_at) if last else "-",
        shorten("; ".join([*notes, line] if line else notes), 100),
    )


def end_lines(hosts_by_outcome: Mapping[str, Sequence[str]], reference: str) -> list[str]:
    """Return what to type after a task that did not go well everywhere; the last line is ready to paste."""
    lines = []
    lost = hosts_by_outcome.get("lost", ())
    if lost:
        lines.append(f"lost: {hostset.fold(lost)}   may have run: look first: fleetlog why {reference}")
    stopped = [name for outcome in ("cancelled", "skipped") for name in hosts_by_outcome.get(outcome, ())]
    again = [name for outcome in RERUN_OUTCOMES for name in hosts_by_outcome.get(outcome.value, ())]
    if stopped:
        lines.append(f"cancelled: {hostset.fold(stopped)}   fleetlog rerun {reference}")
    if again:
        lines.append(f"failed: {hostset.fold(again)}   fleetlog rerun {reference} --failed")
    return lines
