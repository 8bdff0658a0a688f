"""Find a task and its commands by asking the reporter."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import msgspec

from fleetlog_gateway import decode
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem
from fleetlog_gateway.registry import Paged
from fleetlog_schemas import questions
from fleetlog_schemas.limits import HOSTS_PER_TASK_MAX

_IDENTIFIER = re.compile(r"last|[0-9a-f-]{6,36}")


class Found(msgspec.Struct, frozen=True):
    """What is known of a task without its commands."""

    task_id: str
    state: str
    outcome: str | None = None


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


async def find_task(gateway: Gateway, given: str) -> Found:
    """Return the task that *given* names. Raises HttpProblem."""
    check_identifier(given)
    answer = await gateway.asker.report("progress", questions.TaskQuestion, {"task_id": given})
    return decode.json_answer(answer.data, Found, "reporter")


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
