"""why: what a task waits for, or how it failed, and what to type next."""

from __future__ import annotations

from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import segment
from fleetlog.render.lists import waiting_lines, waits_text
from fleetlog.render.plan import difference_lines

_STEPS = {
    "approval": "approve:  fleetlog approve {short}",
    "freeze": "thaw:     fleetlog thaw",
    "window": "windows:  fleetlog window ls",
    "queue": "queues:   fleetlog queue ls",
    "system": "busy:     fleetlog admission",
    "priority": "busy:     fleetlog admission",
    "load": "busy:     fleetlog admission",
    "refused-host": "let in:   fleetlog host accept NAME --reason TEXT",
    "maintenance": "hosts:    fleetlog host ls",
}
"""Reason for waiting to what to type about it."""


def why(console: Console) -> int:
    """Say why a task failed, or what it waits for, and what to type next."""
    options = console.options
    if options.host:
        return _of_host(console)
    answer = console.gateway.get(f"/tasks/{segment(options.task)}/why")["data"]
    if console.json:
        console.put_json(answer)
        return Exit.OK
    for service in answer.get("missing") or ():
        console.say(f"the {service} does not answer: what it knows is missing here")
    failures, waiting = answer["failures"] or [], answer["waiting"] or []
    task = answer["task"]
    if task is None:
        console.put("\n".join(waiting_lines(waiting, console.out_style)))
        return Exit.OK
    short = str(task["task_id"])[-8:]
    lines = _of_task(console, task, failures, waiting)
    lines += difference_lines(answer.get("difference"), "the last one of this definition that succeeded", console.out_style)
    console.put("\n".join([*lines, *_waiting_steps(waiting, short), *_next_steps(task, short)]))
    return Exit.OK


def _of_task(console: Console, task: dict[str, Any], failures: list[Any], waiting: list[Any]) -> list[str]:
    from fleetlog.render.task import counts_text, group_line
    from fleetlog.render.text import count_of, seconds

    style = console.out_style
    took = f"  {seconds(task['duration_seconds'])}" if task["duration_seconds"] is not None else ""
    state = style.state(task["outcome"] or task["state"])
    short = str(task["task_id"])[-8:]
    of = count_of(len(task["parts"]), "part") if task.get("parts") else count_of(task["hosts"], "host")
    lines = [f"task {short}  {of}  {state}  {counts_text(task['counts'], style)}{took}"]
    if task["refusal"]:
        lines.append(f"  refused: {style.line(task['refusal'])}")
    hold = task.get("hold")
    if hold:
        by = f" by {style.line(hold['by'])}" if hold["by"] else ""
        lines.append(f"  {style.paint(hold['kind'], 'yellow')}{by}: {style.line(hold['reason']) or 'no reason given'}")
    lines += [group_line(group, style) for group in failures]
    bad_parts = [
        f"  {style.glyph(part['outcome'])} {style.paint(style.line(part['name']), 'bold')}  {part['outcome']}"
        f"  {style.line(part['message'] or _bad_tasks(part))}"
        for part in task.get("parts") or () if part["outcome"] not in (None, "success")
    ]
    lines += bad_parts
    lines += waiting_lines(waiting, style)
    if not (failures or waiting or bad_parts or task["refusal"] or hold):
        lines.append("  nothing went wrong" if task["state"] == "ended" else "  nothing is in the way")
    return lines


def _bad_tasks(part: dict[str, Any]) -> str:
    """Return what to ask about the tasks of a part that went wrong."""
    found = [one for one in part["tasks"] if one["outcome"] not in (None, "success", "skipped")]
    return "; ".join(one["refusal"] or f"fleetlog why {str(one['task_id'])[-8:]}" for one in found[:3])


def _waiting_steps(waiting: list[Any], short: str) -> list[str]:
    """Return what to type about what commands wait for, each once."""
    found = [_STEPS[group["reason"]].format(short=short) for group in waiting if group["reason"] in _STEPS]
    return list(dict.fromkeys(found))


def _next_steps(task: dict[str, Any], short: str) -> list[str]:
    """Return what to type next about a task that has trouble, or goes on."""
    counts = task["counts"]
    if task["state"] == "refused":
        return []
    if task["state"] != "ended":
        hold = [f"go on:    fleetlog resume {short}", f"skip:     fleetlog skip {short} --host NAME",
                f"give up:  fleetlog abort {short}"] if task.get("hold") else []
        return [*hold, f"follow:   fleetlog watch {short}", f"stop:     fleetlog cancel {short}"]
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


def _of_host(console: Console) -> int:
    """Print what the command on one host waited for, and when."""
    options = console.options
    page = console.gateway.get(f"/tasks/{segment(options.task)}/commands", host=options.host, limit=500)["data"]
    found = [one for one in page["items"] if options.host in (one["host"], one["host_id"])]
    if not found:
        raise CliError(Exit.NOT_FOUND, f"this task has no command on {options.host}", f"fleetlog show {options.task}")
    if console.json:
        console.put_json(found[0])
    else:
        console.put(waits_text(found[0], console.out_style))
    return Exit.OK
