"""ls, show, replay: looking at tasks."""

from __future__ import annotations

import time
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog.render.lists import tasks_text

PAGE_MAX = 500
NOT_FOUND = 404


def ls(console: Console) -> int:
    """List tasks, newest first."""
    options = console.options
    query = {
        name: getattr(options, name)
        for name in ("state", "outcome", "kind", "host", "name", "tag", "definition", "schedule", "submitted_by", "as_of")
    }
    if options.part_of:
        query["part_of"] = console.client.resolve(options.part_of)
    elif not options.parts:
        query["parts"] = "hide"
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
    view = console.client.show(console.options.task, as_of=console.options.as_of)
    code = _print_view(console, view)
    if view.spec.definition is not None and not console.json:
        _say_removed(console, view.spec.definition)
    return code


def _say_removed(console: Console, origin: Any) -> None:
    """Say beside the task that its definition is no more."""
    try:
        console.gateway.get(f"/definitions/{segment(origin.definition_id)}")
    except GatewayError as error:
        if error.status == NOT_FOUND:
            console.say(f"the definition {origin.name} was removed; the task keeps what it was")


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
