"""cancel, pause, resume, abort, approve, skip: steering tasks that go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog.render.text import count_of

if TYPE_CHECKING:
    from fleetlog_schemas.records import Command, Task

PAGE_MAX = 500
PRESENCE_EVERY_S = 1.0
"""How often a cancel asks which of the hosts that have not confirmed can be reached."""
PRESENCE_AFTER_S = 2.0
"""How long hosts have to confirm before it is asked: most do within a second."""


def _ask(console: Console, what: str, body: dict[str, Any], done: str) -> int:
    """Ask for something about a task, and say what becomes of it; `{id}` in *done* is the task's short id."""
    answer = console.gateway.post(f"/tasks/{segment(console.options.task)}/{what}", body)
    if console.json:
        console.put_json(answer)
        return Exit.OK
    short = str(answer["task_id"])[-8:]
    console.say(done.format(id=short, wave=answer.get("wave", 0)))
    if not answer.get("checked", True):
        console.say("the reporter does not answer: whether the task is still open was not checked")
    return Exit.OK


def pause(console: Console) -> int:
    """Let a task start nothing more until it is resumed."""
    done = "task {id} is paused; what runs goes on   go on: fleetlog resume {id}"
    return _ask(console, "pause", {"reason": console.options.reason}, done)


def resume(console: Console) -> int:
    """Let a paused or halted task go on."""
    done = "task {id} goes on; failures so far no longer count   follow: fleetlog watch {id}"
    return _ask(console, "resume", {"reason": console.options.reason}, done)


def abort(console: Console) -> int:
    """Let a task start nothing more for good."""
    done = "task {id} starts nothing more; what runs goes on   end that too: fleetlog cancel {id}"
    return _ask(console, "abort", {"reason": console.options.reason}, done)


def approve(console: Console) -> int:
    """Let the next wave of a task begin, or all waves up to one."""
    options = console.options
    done = "task {id}: waves up to {wave} may begin   follow: fleetlog watch {id}"
    return _ask(console, "approve", {"wave": options.wave, "reason": options.reason}, done)


def skip(console: Console) -> int:
    """Let a task pass over hosts that still wait."""
    options = console.options
    names = _expanded(options.host)
    done = f"task {{id}} passes over {count_of(len(names), 'host')}; what runs goes on   look: fleetlog show {{id}}"
    return _ask(console, "skip", {"hosts": names, "reason": options.reason}, done)


def _expanded(names: list[str]) -> list[str]:
    from fleetlog.verbs.output import expanded

    return expanded(names)


def cancel(console: Console) -> int:
    """Stop a task, its commands on some hosts, or everything; and wait until every host has confirmed."""
    options = console.options
    if options.everything:
        if options.task or options.host or options.part:
            raise CliError(Exit.TYPED_WRONG, "--all is every open task: not with an ID or --host")
        return _cancel_everything(console)
    if not options.task:
        raise CliError(Exit.TYPED_WRONG, "which task?", "fleetlog cancel ID, or fleetlog cancel --all")
    task_id = console.client.resolve(options.task)
    names = _expanded(options.host)
    answer = console.gateway.post(
        f"/tasks/{task_id}/cancel", {"hosts": names, "parts": options.part, "reason": options.reason}
    )
    if options.part and not console.json:
        console.say(f"told to end: {', '.join(options.part)}; the rest goes on   follow: fleetlog watch {task_id[-8:]}")
    if options.detach or options.part:
        if console.json:
            console.put_json(answer)
        return Exit.OK
    return _prove(console, task_id, set(names))


def _cancel_everything(console: Console) -> int:
    if not console.options.yes:
        count = _open_tasks(console)
        if not count:
            console.say("no task is open")
            return Exit.OK
        console.confirm(
            count, f"this stops {count_of(count, 'open task')}", "nothing was stopped", ": without a terminal say --yes",
            "look first: fleetlog ls --state open",
        )
    answer = console.gateway.post("/tasks/cancel-all", {"reason": console.options.reason})
    if console.json:
        console.put_json(answer)
    else:
        console.say("every task that was open is told to end; hosts confirm one by one   look: fleetlog ls --state open")
    return Exit.OK


def _open_tasks(console: Console) -> int:
    count, cursor = 0, None
    while True:
        page = console.gateway.get("/tasks", state="open", limit=PAGE_MAX, cursor=cursor)["data"]
        count += len(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return count


class _Confirming:
    """Tells when nothing more will confirm: all have, or those that have not cannot be reached."""

    def __init__(self, console: Console, names: set[str]) -> None:
        self._console, self._names = console, names
        self._ask_at = time.monotonic() + PRESENCE_AFTER_S
        self.away: set[str] = set()
        """Hosts that cannot be reached, as of the last look."""

    def meant(self, task: Task) -> list[Command]:
        """Return the commands that are to end."""
        every = task.commands.values()
        return [one for one in every if not self._names or self._names & {one.host_name, one.host_id}]

    def __call__(self, task: Task) -> bool:
        """Tell whether there is nothing more to wait for."""
        from fleetlog_schemas.records import CommandState

        meant = self.meant(task)
        left = [one for one in meant if one.state is not CommandState.ENDED]
        if not left:
            return bool(meant) and bool(self._names)  # a whole task ends by itself, with an outcome
        told = bool(task.stop) or all(one.stop for one in left)
        if not told or time.monotonic() < self._ask_at or any(one.state is CommandState.WAITING for one in left):
            return False
        began = time.monotonic()
        online = self._online()
        self.away = {one.host_name for one in left if online is not None and one.host_id not in online}
        self._ask_at = time.monotonic() + max(PRESENCE_EVERY_S, 10 * (time.monotonic() - began))
        return len(self.away) == len(left)

    def _online(self) -> set[str] | None:
        """Return the ids of the hosts that are online, or None when nobody can say."""
        found: set[str] = set()
        cursor = None
        try:
            while True:
                page = self._console.gateway.get("/hosts", presence="online", limit=PAGE_MAX, cursor=cursor)["data"]
                found.update(host["host_id"] for host in page["items"])
                cursor = page["next_cursor"]
                if cursor is None:
                    return found
        except GatewayError:
            return None


def _prove(console: Console, task_id: str, names: set[str]) -> int:
    """Wait until the hosts have confirmed, or cannot, and print what is known of each."""
    from fleetlog.render.proof import proof_lines
    from fleetlog.render.task import counts_text, task_json
    from fleetlog.verbs.following import Detached, follow
    from fleetlog_schemas.view import task_view

    confirming = _Confirming(console, names)
    try:
        task = follow(console, task_id, until=confirming)
    except Detached:
        console.say(f"\ndetached; the hosts go on stopping it:  fleetlog watch {task_id[-8:]}")
        return Exit.INTERRUPTED
    if console.json:
        console.put(task_json(task_view(task)))
    stopped = [one for one in confirming.meant(task) if one.stop or task.stop]
    for line in proof_lines(stopped, confirming.away, console.err_style):
        console.say(line)
    console.say(f"stopped: {counts_text(task.counts, console.err_style)}  task {task_id[-8:]}")
    if confirming.away and any(one.state.value != "ended" for one in stopped):
        console.say(f"not everywhere yet: {count_of(len(confirming.away), 'host')} cannot be reached:  fleetlog watch {task_id[-8:]}")
        return Exit.UNREACHED
    return Exit.UNREACHED if task.counts.get("lost") else Exit.OK
