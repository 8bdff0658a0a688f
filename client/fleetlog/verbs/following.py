"""Follow a task to its end on the terminal, then say how it went and what to type next."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import msgspec

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit, of_counts, of_refusal
from fleetlog.follow import Fold, StoredRaw, decode_stored
from fleetlog.http import flag_of, segment
from fleetlog.render.live import Progress
from fleetlog.render.output import GROUPS_MAX, group_text, groups_of
from fleetlog.render.policies import freeze_text
from fleetlog.render.task import counts_text, end_lines, task_json
from fleetlog.render.text import count_of, seconds
from fleetlog.render.workflow import parts_table
from fleetlog.sse import Feed, Trouble
from fleetlog.verbs.output import print_whole
from fleetlog_schemas import events, policy_events
from fleetlog_schemas.ids import short
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import Task, TaskState
from fleetlog_schemas.view import part_views, task_view

TICK_S = 0.25
"""How often the status line moves while nothing comes: four times a second is calm and still alive."""
DRAIN_MAX = 500
"""Events folded between two redraws."""

FROZEN = events.NAMES[policy_events.FleetFrozen]

Until = Callable[[Task], bool]


class Detached(Exception):
    """Ctrl-C: the task goes on without us."""


def follow(console: Console, task_id: str, until: Until | None = None) -> Task:
    """Show the task's progress until it is over (or *until* says so), and return it.

    Raises:
        Detached: Ctrl-C.
        CliError: the wait is over, or the gateway stayed away.
    """
    console.say_frozen()
    fold = Fold(task_id)
    progress = Progress(sys.stderr, console.err_style, animated=console.animated)
    wait_ms = console.options.wait_timeout_ms
    deadline = None if wait_ms is None else time.monotonic() + wait_ms / 1000
    feed = Feed(console.gateway, f"/tasks/{segment(task_id)}/events")
    try:
        while not _reached(fold, until):
            if deadline is not None and time.monotonic() > deadline:
                progress.clear()
                raise CliError(
                    Exit.WAITED, f"the task has not ended in {seconds(wait_ms / 1000)}; it goes on",
                    f"fleetlog watch {short(task_id)}",
                )
            _step(console, feed, fold, progress, deadline)
            progress.status(fold.task, _now_ms())
    except KeyboardInterrupt:
        raise Detached from None
    finally:
        feed.close()
        progress.clear()
    for line in fold.skipped:
        console.say(f"passed over {line}")
    assert fold.task is not None
    return fold.task


def _reached(fold: Fold, until: Until | None) -> bool:
    task = fold.task
    return fold.over or (until is not None and task is not None and until(task))


def _step(console: Console, feed: Feed, fold: Fold, progress: Progress, deadline: float | None) -> None:
    """Take what comes within one tick, and all that has come by then."""
    wait_s = TICK_S if deadline is None else min(TICK_S, max(deadline - time.monotonic(), 0.01))
    item = feed.take(wait_s)
    for _ in range(DRAIN_MAX):
        if item is None:
            return
        if isinstance(item, Trouble):
            progress.away(item.message)
        elif item.event != "reset":
            stored = decode_stored(item.data)
            if item.event == FROZEN and not fold.over:
                progress.note(_frozen_text(stored, console))
            progress.changed(fold.feed(stored))
        if fold.over:
            return
        item = feed.take_ready()


class _Frozen(msgspec.Struct, frozen=True):
    data: policy_events.FleetFrozen
    authid: str | None = None


def _frozen_text(stored: StoredRaw, console: Console) -> str:
    """Return the line about a freeze that began while the task is followed."""
    try:
        event = msgspec.json.decode(stored.event, type=_Frozen)
    except msgspec.MsgspecError:
        return "something was frozen: fleetlog admission"
    freeze = {"target": event.data.target, "by": event.authid or "", "since": stored.stored_at, "reason": event.data.reason}
    return f"frozen: {freeze_text(freeze, console.err_style)}   (fleetlog thaw)"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def follow_to_end(console: Console, task_id: str, reference: str = "") -> int:
    """Follow a task, print how it went, and return the exit code of its outcome.

    *reference* is how the printed lines name the task; its short id when empty.
    """
    reference = reference or short(task_id)
    try:
        task = follow(console, task_id)
    except Detached:
        console.say(f"\ndetached; the task goes on:  fleetlog watch {short(task_id)}")
        return Exit.INTERRUPTED
    return finish(console, task, reference)


def finish(console: Console, task: Task, reference: str) -> int:
    """Print output and summary of a task that is over, and return the exit code of its outcome.

    Raises:
        CliError: the task was refused.
    """
    if task.state is TaskState.REFUSED:
        raise _refused(task)
    if console.json:
        console.put(task_json(task_view(task)))
    elif task.parts:
        console.put(parts_table(part_views(task), console.out_style))
    elif len(task.commands) == 1:
        print_whole(console, task)
    else:
        _print_groups(console, task, reference)
    style = console.err_style
    assert task.outcome is not None
    took = seconds((task.ended_ms - task.submitted_ms) / 1000)
    hosts = count_of(len(task.parts), "part") if task.parts else count_of(len(task.commands), "host")
    console.say(
        f"{style.state(task.outcome.value)} in {took}  {hosts}: {counts_text(task.counts, style)}"
        f"  task {short(task.task_id)}"
    )
    if task.parts:
        if task.outcome is not Outcome.SUCCESS:
            console.say(f"go on from there: fleetlog rerun {reference} --failed   output: fleetlog output {reference} --failed")
        return of_counts({task.outcome.value: 1})
    for line in end_lines(hosts_by_outcome(task), reference):
        console.say(style.clean(line))
    return of_counts(task.counts)


def hosts_by_outcome(task: Task) -> dict[str, list[str]]:
    """Return the names of a task's hosts by how their commands ended."""
    found: dict[str, list[str]] = {}
    for command in task.commands.values():
        if command.outcome is not None:
            found.setdefault(command.outcome.value, []).append(command.host_name)
    return found


def _print_groups(console: Console, task: Task, reference: str) -> None:
    groups = groups_of(task)
    for group in groups[:GROUPS_MAX]:
        console.put(group_text(group, reference, console.out_style))
    if len(groups) > GROUPS_MAX:
        console.say(f"… {len(groups) - GROUPS_MAX} more different outputs: fleetlog output {reference} --group")


def _refused(task: Task) -> CliError:
    refusal = task.refusal
    assert refusal is not None
    field = f"{flag_of(refusal.pointer)}: " if refusal.pointer else ""
    return CliError(of_refusal(refusal.code, refusal.pointer), f"refused: {field}{refusal.message}")
