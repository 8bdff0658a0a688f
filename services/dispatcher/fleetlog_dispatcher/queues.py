"""The commands that wait, in the order in which they are due; and what is in flight, by what it shares.

Order. A task's *rank* is the time it was submitted, moved back by `ageing_ms` for each step of its priority. As all
tasks age alike, ranks never change, and the order between two tasks never does: so it is kept sorted, and nothing
starves, for everything that comes ten steps later stands behind.

A command whose task has a limit or a gate of its own stands with its task (`limited`), so that a gate is looked at once
and not once for each of ten thousand hosts. Every other command stands in a *lane*: one for each host and queue.
"""

from __future__ import annotations

import bisect
import heapq

import msgspec

from fleetlog_schemas.records import Command, CommandState, Task

Place = tuple[int, int, str]
"""Rank, sequence of the submission, task id."""


class Shares(msgspec.Struct):
    """Commands in flight, by the limits that they count against."""

    total: int = 0
    by_queue: dict[str, int] = {}
    by_key: dict[str, int] = {}

    def add(self, task: Task, change: int) -> None:
        """Count *change* more (or fewer) commands of *task*."""
        self.total += change
        _count(self.by_queue, task.spec.queue, change)
        if task.spec.key:
            _count(self.by_key, task.spec.key, change)


def _count(counts: dict[str, int], name: str, change: int) -> None:
    counts[name] = counts.get(name, 0) + change
    if not counts[name]:
        del counts[name]


class Queues(msgspec.Struct):
    """Every command that waits."""

    by_host: dict[str, dict[str, Command]] = {}
    """By host id and task id: all of them."""
    lanes: dict[str, dict[str, list[Place]]] = {}
    """By host id and queue, in order: those that only wait for the host and for what their queue shares."""
    limited: dict[str, dict[str, Command]] = {}
    """By task id, in the order of the plan: those of tasks with a limit or gate of their own."""
    limited_order: list[Place] = []
    later: list[tuple[int, str, str]] = []
    """A heap of due time, task id, host id: retries that are not due yet."""


def is_limited(task: Task) -> bool:
    """Tell whether something about the task itself may keep its commands back."""
    spec = task.spec
    return bool(
        spec.parallel or spec.rollout or spec.key or spec.failures_max or spec.ignore_windows or task.hold or task.stop
    )


def place_of(task: Task, ageing_ms: int) -> Place:
    """Return where a task stands among others: the smaller goes first."""
    return task.submitted_ms - task.spec.priority * ageing_ms, task.submitted_seq, task.task_id


def add(queues: Queues, task: Task, command: Command, now_ms: int, ageing_ms: int) -> None:
    """Let a command wait."""
    queues.by_host.setdefault(command.host_id, {})[task.task_id] = command
    if task.task_id in queues.limited or is_limited(task):
        _limit(queues, task, command, ageing_ms)
    elif command.due_ms > now_ms:
        heapq.heappush(queues.later, (command.due_ms, task.task_id, command.host_id))
    else:
        lane = queues.lanes.setdefault(command.host_id, {}).setdefault(task.spec.queue, [])
        bisect.insort(lane, place_of(task, ageing_ms))


def _limit(queues: Queues, task: Task, command: Command, ageing_ms: int) -> None:
    if task.task_id not in queues.limited:
        queues.limited[task.task_id] = {}
        bisect.insort(queues.limited_order, place_of(task, ageing_ms))
    queues.limited[task.task_id][command.host_id] = command


def remove(queues: Queues, task: Task, host_id: str, ageing_ms: int) -> None:
    """Let a command wait no longer; one that does not is passed over."""
    waiting = queues.by_host.get(host_id, {})
    if waiting.pop(task.task_id, None) is None:
        return
    if not waiting:
        del queues.by_host[host_id]
    commands = queues.limited.get(task.task_id)
    if commands is not None:
        commands.pop(host_id, None)
        if not commands:
            del queues.limited[task.task_id]
            _take(queues.limited_order, place_of(task, ageing_ms))
    else:
        _leave_lane(queues, task, host_id, ageing_ms)


def _leave_lane(queues: Queues, task: Task, host_id: str, ageing_ms: int) -> None:
    lanes = queues.lanes.get(host_id, {})
    lane = lanes.get(task.spec.queue)
    if lane is None or not _take(lane, place_of(task, ageing_ms)):
        return  # a retry that is not due stands in no lane
    if not lane:
        del lanes[task.spec.queue]
    if not lanes:
        del queues.lanes[host_id]


def _take(places: list[Place], place: Place) -> bool:
    index = bisect.bisect_left(places, place)
    found = index < len(places) and places[index] == place
    if found:
        del places[index]
    return found


def hold_back(queues: Queues, task: Task, ageing_ms: int) -> None:
    """Take a task's waiting commands out of the lanes: something about the task now keeps them back."""
    if task.task_id in queues.limited:
        return
    for host_id, command in task.commands.items():
        if command.state is CommandState.WAITING and task.task_id in queues.by_host.get(host_id, ()):
            _leave_lane(queues, task, host_id, ageing_ms)
            _limit(queues, task, command, ageing_ms)


def ripen(queues: Queues, tasks: dict[str, Task], now_ms: int, ageing_ms: int) -> list[str]:
    """Move retries that are due now into their lanes; return their hosts."""
    hosts = []
    while queues.later and queues.later[0][0] <= now_ms:
        due_ms, task_id, host_id = heapq.heappop(queues.later)
        command = queues.by_host.get(host_id, {}).get(task_id)
        if command is not None and command.due_ms == due_ms and task_id not in queues.limited:
            lane = queues.lanes.setdefault(host_id, {}).setdefault(tasks[task_id].spec.queue, [])
            bisect.insort(lane, place_of(tasks[task_id], ageing_ms))
            hosts.append(host_id)
    return hosts


def ahead(queues: Queues, host_id: str, place: Place) -> int:
    """Return how many commands stand before *place* in the lanes of a host."""
    return sum(bisect.bisect_left(lane, place) for lane in queues.lanes.get(host_id, {}).values())
