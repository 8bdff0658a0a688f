"""Waves, holds and approvals of a task that is followed: where it stands, what comes next, and what to type."""

from __future__ import annotations

from fleetlog.render.text import Style, count_of, shorten, whole_seconds
from fleetlog.render.workflow import open_parts_text
from fleetlog_schemas import hostset
from fleetlog_schemas.ids import short
from fleetlog_schemas.records import CommandState, Task
from fleetlog_schemas.rollout import soaks_until_ms, wave_gate


def in_waves(task: Task) -> bool:
    """Tell whether there is anything to say of waves."""
    return len(task.waves) > 1


def progress_text(task: Task) -> str:
    """Return how far a task is: `12/40 ended`, or `wave 2/4, 12 of 40 hosts`."""
    total = len(task.parts) or len(task.commands)
    ended = total - task.open
    if task.parts:
        running = open_parts_text(task)
        return f"{ended}/{total} parts ended" + (f", now {running}" if running else "")
    if not in_waves(task):
        return f"{ended}/{total} ended"
    return f"wave {min(task.wave + 1, len(task.waves))}/{len(task.waves)}, {ended} of {total} hosts"


def standing_text(task: Task, now_ms: int, style: Style) -> str:
    """Return why nothing more starts for the time being, in a few words; empty when things go on."""
    if task.stop:
        return "aborting: what runs goes on" if task.stop == "aborted" else "stopping"
    if task.hold is not None:
        return f"{task.hold.kind}: {shorten(style.line(task.hold.reason) or 'no reason given', 60)}"
    gate = wave_gate(task, now_ms)
    if gate == "soak":
        return f"wave {task.wave + 1} begins in {_left(task, now_ms)}"
    return f"wave {task.wave + 1} waits for approval" if gate == "approval" else ""


def _left(task: Task, now_ms: int) -> str:
    return whole_seconds(max(-(-(soaks_until_ms(task) - now_ms) // 1000), 0))


def next_hosts(task: Task) -> tuple[int, list[str]]:
    """Return the number of the wave that has something to start next, and the hosts of it that wait."""
    waiting = [command for command in task.commands.values() if command.state is CommandState.WAITING and not command.stop]
    wave = min((command.wave for command in waiting), default=task.wave)
    return wave + 1, [command.host_name for command in waiting if command.wave == wave]


def hold_lines(task: Task, style: Style) -> list[str]:
    """Return why a task is on hold, what would run next, and what to type."""
    hold = task.hold
    if hold is None:
        return []
    by = f" by {style.line(hold.by)}" if hold.by else ""
    lines = [f"{hold.kind}{by}: {style.line(hold.reason) or 'no reason given'}"]
    running = sum(task.counts.get(state.value, 0) for state in (CommandState.DISPATCHED, CommandState.RUNNING))
    if running:
        lines.append(f"  {count_of(running, 'host')} in flight: they go on to their end")
    lines.append(f"  {_next_text(task, style)}")
    reference = short(task.task_id)
    lines += [
        f"  why:       fleetlog why {reference}", f"  go on:     fleetlog resume {reference}",
        f"  leave out: fleetlog skip {reference} --host NAME", f"  give up:   fleetlog abort {reference}",
    ]
    return lines


def gate_lines(task: Task, now_ms: int, style: Style) -> list[str]:
    """Return what the next wave waits for, and what to type; nothing when it may begin."""
    gate = wave_gate(task, now_ms)
    if gate == "soak":
        return [f"wave {task.wave} has ended; wave {task.wave + 1} begins after the soak time, in {_left(task, now_ms)}"]
    if gate == "approval":
        return [
            f"wave {task.wave + 1} of {len(task.waves)} waits for approval; {_next_text(task, style)}",
            f"  go on:     fleetlog approve {short(task.task_id)}",
            f"  give up:   fleetlog abort {short(task.task_id)}",
        ]
    return []


def _next_text(task: Task, style: Style) -> str:
    wave, names = next_hosts(task)
    if not names:
        return "nothing is left to start"
    of_wave = f"wave {wave} of {len(task.waves)}, " if in_waves(task) else ""
    return f"next: {of_wave}{count_of(len(names), 'host')}: {shorten(style.line(hostset.fold(names)), 200)}"
