"""ls, show, replay, why, cancel: looking at tasks and stopping them."""

from __future__ import annotations

import time
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import segment
from fleetlog.render.lists import tasks_text, waiting_lines

PAGE_MAX = 500


def ls(console: Console) -> int:
    """List tasks, newest first."""
    options = console.options
    query = {
        name: getattr(options, name)
        for name in ("state", "outcome", "kind", "host", "name", "tag", "submitted_by", "as_of")
    }
    items: list[dict[str, Any]] = []
    cursor = None
    while len(items) < options.limit:
        page = console.gateway.get(
            "/tasks", limit=min(options.limit - len(items), PAGE_MAX), cursor=cursor, since_ms=since_ms(options.since),
            **query,
        )["data"]
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if console.json:
        console.put_json({"items": items, "next_cursor": cursor})
    else:
        console.put(tasks_text(items, console.out_style))
    return Exit.OK


def since_ms(ago_ms: int) -> int:
    """Return the Unix milliseconds of so long ago; 0 for no limit."""
    return time.time_ns() // 1_000_000 - ago_ms if ago_ms else 0


def show(console: Console) -> int:
    """Show everything about a task, as the reporter has it."""
    return _print_view(console, console.client.show(console.options.task, as_of=console.options.as_of))


def replay(console: Console) -> int:
    """Show everything about a task, folded from the log alone."""
    from fleetlog.client import ID_LENGTH
    from fleetlog_schemas.view import task_view

    identifier = console.options.task
    client = console.client
    task_id = identifier if len(identifier) == ID_LENGTH else client.resolve_in_log(_checked(identifier))
    fold = client.replay(task_id)
    for line in fold.skipped:
        console.say(f"passed over {line}")
    assert fold.task is not None
    return _print_view(console, task_view(fold.task))


def _checked(identifier: str) -> str:
    if identifier != "last" and len(identifier) < 6:
        raise CliError(Exit.TYPED_WRONG, f"{identifier!r} is too short: give at least the last 6 characters of the id")
    return identifier


def _print_view(console: Console, view: Any) -> int:
    from fleetlog.render.task import task_json, task_text

    console.put(task_json(view) if console.json else task_text(view, console.out_style))
    return Exit.OK


def why(console: Console) -> int:
    """Say why a task failed, or what it waits for, and what to type next."""
    from fleetlog.render.task import counts_text, group_line
    from fleetlog.render.text import count_of, seconds

    options, style = console.options, console.out_style
    answer = console.gateway.get(f"/tasks/{segment(options.task)}/why")["data"]
    if console.json:
        console.put_json(answer)
        return Exit.OK
    for service in answer.get("missing") or ():
        console.say(f"the {service} does not answer: what it knows is missing here")
    failures, waiting = answer["failures"] or [], answer["waiting"] or []
    task = answer["task"]
    if task is None:
        console.put("\n".join(waiting_lines(waiting, style)))
        return Exit.OK
    short = str(task["task_id"])[-8:]
    took = f"  {seconds(task['duration_seconds'])}" if task["duration_seconds"] is not None else ""
    state = style.state(task["outcome"] or task["state"])
    lines = [f"task {short}  {count_of(task['hosts'], 'host')}  {state}  {counts_text(task['counts'], style)}{took}"]
    if task["refusal"]:
        lines.append(f"  refused: {style.line(task['refusal'])}")
    lines += [group_line(group, style) for group in failures]
    lines += waiting_lines(waiting, style)
    if not (failures or waiting or task["refusal"]):
        lines.append("  nothing went wrong" if task["state"] == "ended" else "  nothing is in the way")
    console.put("\n".join(lines + _next_steps(task, short)))
    return Exit.OK


def _next_steps(task: dict[str, Any], short: str) -> list[str]:
    """Return what to type next about a task that has trouble, or goes on."""
    counts = task["counts"]
    if task["state"] == "refused":
        return []
    if task["state"] != "ended":
        return [f"follow: fleetlog watch {short}", f"stop:   fleetlog cancel {short}"]
    steps = []
    if any(counts.get(name) for name in ("failure", "timeout", "error", "unreached", "lost")):
        steps.append(f"output: fleetlog output {short} --failed")
    if counts.get("lost"):
        steps.append(f"lost:   it may have run; look on those hosts, then fleetlog rerun {short} --failed --include-lost")
    if any(counts.get(name) for name in ("failure", "timeout", "error", "unreached")):
        steps.append(f"rerun:  fleetlog rerun {short} --failed")
    elif counts.get("cancelled") or counts.get("skipped"):
        steps.append(f"rerun:  fleetlog rerun {short}")
    return steps


def cancel(console: Console) -> int:
    """Stop a task, or its commands on some hosts, and wait until every host has confirmed."""
    from fleetlog.render.task import counts_text
    from fleetlog.verbs.following import Detached, follow
    from fleetlog.verbs.output import expanded
    from fleetlog_schemas.records import CommandState, Task

    options = console.options
    task_id = console.client.resolve(options.task)
    body = {"hosts": options.host, "reason": options.reason}
    console.gateway.post(f"/tasks/{task_id}/cancel", body)
    if options.detach:
        return Exit.OK
    named = set(expanded(options.host))

    def stopped(task: Task) -> bool:
        mine = [c for c in task.commands.values() if not named or named & {c.host_name, c.host_id}]
        return bool(mine) and all(command.state is CommandState.ENDED and command.stop for command in mine)

    try:
        task = follow(console, task_id, until=stopped if named else None)
    except Detached:
        console.say(f"\ndetached; the hosts go on stopping it:  fleetlog watch {task_id[-8:]}")
        return Exit.INTERRUPTED
    if console.json:
        from fleetlog.render.task import task_json
        from fleetlog_schemas.view import task_view

        console.put(task_json(task_view(task)))
    console.say(f"stopped: {counts_text(task.counts, console.err_style)}  task {task_id[-8:]}")
    return Exit.UNREACHED if task.counts.get("lost") else Exit.OK
