"""Find a task, its commands and the hosts that are meant by asking the reporter; without it, by what the gateway knows.

What changes a task must not need the reporter: with its full id the request goes into the log unchecked, where every
reader folds it by the same rules, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

import msgspec

from fleetlog_gateway import decode, limits
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.registry import Paged
from fleetlog_schemas import questions, view
from fleetlog_schemas.limits import HOSTS_PER_TASK_MAX
from fleetlog_schemas.spec import TaskSpec

OVER = ("ended", "refused")
"""States of a task that nothing changes any more."""
AWAY = ("service-unavailable", "behind")
"""Problems of a reporter that cannot say how things are now."""
_IDENTIFIER = re.compile(r"last|[0-9a-f-]{6,36}")


class Found(msgspec.Struct, frozen=True):
    """What is known of a task without its commands."""

    task_id: str
    state: str
    outcome: str | None = None


class Asked(msgspec.Struct, frozen=True):
    """What is known of a task for which something is asked."""

    task_id: str
    state: str
    outcome: str | None = None
    stop: str | None = None
    hold: view.HoldView | None = None
    waves: tuple[view.WaveView, ...] = ()
    parts: tuple[view.PartView, ...] = ()
    spec: TaskSpec | None = None
    checked: bool = True
    """False: the reporter did not answer, so not all of this is known."""

    def must_be_open(self, *, unstopped: bool = True) -> None:
        """Refuse what comes too late. Raises HttpProblem."""
        if self.state in OVER:
            raise HttpProblem("task-ended", f"the task has already ended ({self.outcome or self.state})")
        if unstopped and self.stop:
            raise HttpProblem("task-stopping", f"the task is being stopped already ({self.stop})")


class CommandHead(msgspec.Struct, frozen=True):
    """What is needed of a command to choose it."""

    host_id: str
    host: str
    state: str
    outcome: str | None = None


def check_identifier(text: str) -> str:
    """Return what may name a task: an id, its last characters, or `last`. Raises HttpProblem."""
    if not _IDENTIFIER.fullmatch(text):
        raise HttpProblem(
            "task-not-found", f"no task is named {text[:60]!r}: give its id, at least the last 6 characters of it, or `last`"
        )
    return text


async def find_task(gateway: Gateway, given: str, timeout_ms: int = limits.ASK_MS_MAX) -> Found:
    """Return the task that *given* names. Raises HttpProblem."""
    check_identifier(given)
    answer = await gateway.asker.report("progress", questions.TaskQuestion, {"task_id": given}, timeout_ms)
    return decode.json_answer(answer.data, Found, "reporter")


async def find_asked(gateway: Gateway, given: str, *, whole: bool = True) -> Asked:
    """Return what is known of the task for which something is asked; without *whole* only how far it is.

    The whole of a task on very many hosts may be more than the reporter can say at once: then it stays unchecked.

    Raises:
        HttpProblem: there is no such task; or the reporter does not answer, and this is not a full id.
    """
    full_id = decode.is_task_id(given)
    timeout_ms = limits.ASK_CHECK_MS_MAX if full_id else limits.ASK_MS_MAX
    try:
        found = await find_task(gateway, given, timeout_ms)
    except HttpProblem as problem:
        if problem.code not in AWAY or not full_id:
            raise
        return Asked(task_id=given, state="", checked=False)
    brief = Asked(task_id=found.task_id, state=found.state, outcome=found.outcome)
    if not whole or found.state in OVER:
        return brief
    try:
        answer = await gateway.asker.report("task", questions.TaskQuestion, {"task_id": found.task_id}, timeout_ms)
    except HttpProblem:
        return msgspec.structs.replace(brief, checked=False)
    return decode.json_answer(answer.data, Asked, "reporter")


async def hosts_asked(
    gateway: Gateway, task: Asked, host_ids: Sequence[str], hosts: Sequence[str], *, only: str = ""
) -> tuple[str, ...]:
    """Return the ids of the named hosts; they must have commands of the task, some of which are open.

    *only* is the state that some of them must be in. Before the plan, and without the reporter, hosts are found by what
    the gateway knows of them.

    Raises:
        HttpProblem: a name cannot be read or is not known, or all that are named have ended.
    """
    known: dict[str, str] = {}
    able: set[str] = set()
    planned = task.state not in ("", "submitted")
    if planned:
        async for command in commands_of(gateway, task.task_id):
            known[command.host_id] = known[command.host] = command.host_id
            if command.state != "ended" and only in ("", command.state):
                able.add(command.host_id)
    chosen: dict[str, None] = {}
    for field, given in (("host_ids", host_ids), ("hosts", hosts)):
        for index, text in enumerate(given):
            pointer = f"/{field}/{index}"
            for name in decode.expanded(text, pointer):
                found = known.get(name, "") if planned else _host_id(gateway, name)
                if not found:
                    raise invalid(pointer, f"{'this task has no command on' if planned else 'no host is named'} {name[:100]!r}")
                chosen[found] = None
    if planned and not able.intersection(chosen):
        if only:
            raise HttpProblem("nothing-to-skip", "none of these hosts waits: what runs is ended by `cancel`")
        raise HttpProblem("task-ended", "the commands on these hosts have already ended")
    return tuple(chosen)


def _host_id(gateway: Gateway, name: str) -> str:
    host = gateway.access.hosts.named(name)
    return host.host_id if host is not None else ""


async def commands_of(gateway: Gateway, task_id: str) -> AsyncIterator[CommandHead]:
    """Yield the commands of a task, page by page. Raises HttpProblem."""
    cursor = ""
    for _ in range(HOSTS_PER_TASK_MAX // questions.PAGE_MAX + 1):
        fields = {"task_id": task_id, "limit": questions.PAGE_MAX, "cursor": cursor}
        answer = await gateway.asker.report("commands", questions.CommandsQuestion, fields)
        page = decode.json_answer(answer.data, Paged[CommandHead], "reporter")
        for command in page.items:
            yield command
        if not page.next_cursor:
            return
        cursor = page.next_cursor
