"""Which waiting commands go out now: by rank, within every limit. Pure.

One pass over two kinds of sources, merged by rank: the lanes of each host that has room, and each limited task. What
is full is left out at once, so a round costs what can move, not what waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from typing import NamedTuple

from fleetlog_dispatcher.adapting import Room
from fleetlog_dispatcher.gates import ignorance_of, in_flight, policy_gate, room_now, task_gate
from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.plan import Layout
from fleetlog_dispatcher.queues import Place
from fleetlog_dispatcher.state import State
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events, limits
from fleetlog_schemas.records import Task

DISPATCHES_PER_ROUND_MAX = 5_000
"""Attempts dispatched in one round."""
_NO_LIMIT = 1 << 62


class Planned(NamedTuple):
    """A task that is planned in this round."""

    task: Task
    layout: Layout


class _Source(NamedTuple):
    """The next command of a lane."""

    place: Place
    host_id: str
    queue: str
    at: int


class Round:
    """One round of admission: what is still free in it, and what was picked."""

    def __init__(
        self, settings: DispatcherSettings, state: State, live: Live, halting: Collection[str], now_ms: int
    ) -> None:
        """Begin with nothing picked; *halting* tasks get nothing more."""
        self._settings, self._state, self._live, self._now_ms = settings, state, live, now_ms
        self._halting = halting
        self._host_rooms: dict[str, Room] = {}
        self._by_key: dict[str, int] = {}
        self._queue_room = {
            queue: most - live.shares.by_queue.get(queue, 0) for queue, most in state.policies.queues.items()
        }
        self._room = min(DISPATCHES_PER_ROUND_MAX, settings.in_flight_max - live.shares.total)
        self.picked: list[events.Dispatch] = []

    def _host_room(self, host_id: str) -> Room:
        room = self._host_rooms.get(host_id)
        if room is None:
            room = self._host_rooms[host_id] = room_now(self._settings, self._state, self._live, host_id, self._now_ms)
        return room

    def _take(self, task: Task, host_id: str, attempt: int) -> None:
        epoch = self._state.hosts.by_id[host_id].epoch
        self.picked.append(events.Dispatch(task_id=task.task_id, host_id=host_id, attempt=attempt, epoch=epoch))
        self._host_rooms[host_id] = self._host_rooms[host_id].less(task.spec)
        self._room -= 1
        if task.spec.queue in self._queue_room:
            self._queue_room[task.spec.queue] -= 1
        if task.spec.key:
            self._by_key[task.spec.key] = self._by_key.get(task.spec.key, 0) + 1

    def _ends_unsent(self, task: Task, host_id: str) -> bool:
        """Whether the host's agent does not know what the task asks for: such a command ends by decision."""
        return bool(ignorance_of(self._state, self._state.hosts.by_id.get(host_id), task))

    # --- what waits ---

    def waiting(self) -> None:
        """Pick from what waits, until nothing more fits."""
        # Where a limit is shared, room on one host may be the end of a command on another.
        shared = bool(self._queue_room) or self._room < DISPATCHES_PER_ROUND_MAX
        sources = self._lanes(everywhere=self._live.sweep or shared)
        heapq.heapify(sources)
        limited = iter(self._live.queues.limited_order if self._live.steered or shared else ())
        first = next(limited, None)
        tasks = self._state.tasks.by_id
        while self._room > 0 and (sources or first is not None):
            if first is not None and (not sources or first < sources[0].place):
                self._limited(tasks[first[2]])
                first = next(limited, None)
            else:
                self._next_of_lane(sources, heapq.heappop(sources))

    def _next_of_lane(self, sources: list[_Source], source: _Source) -> None:
        room = self._host_room(source.host_id)
        if not room.any or self._queue_room.get(source.queue, 1) <= 0:
            return
        task = self._state.tasks.by_id[source.place[2]]
        if not room.fits(task.spec):
            return  # nor what comes after it: who waits first goes first
        command = self._live.queues.by_host[source.host_id][task.task_id]
        if not (task.stop or command.stop or self._ends_unsent(task, source.host_id)):
            self._take(task, source.host_id, len(command.attempts) + 1)
        lane, at = self._live.queues.lanes[source.host_id][source.queue], source.at + 1
        if at < len(lane):
            heapq.heappush(sources, _Source(lane[at], source.host_id, source.queue, at))

    def _lanes(self, *, everywhere: bool) -> list[_Source]:
        live, lanes = self._live, self._live.queues.lanes
        hosts = lanes if everywhere else [host_id for host_id in live.touched if host_id in lanes]
        return [
            _Source(lane[0], host_id, queue, 0)
            for host_id in hosts
            if host_id not in live.closed and self._host_room(host_id).any
            for queue, lane in lanes[host_id].items()
            if self._queue_room.get(queue, 1) > 0
        ]

    def _limited(self, task: Task) -> None:
        commands = self._live.queues.limited[task.task_id]
        if len(commands) == 1 and not self._host_room(next(iter(commands))).fits(task.spec):
            return  # of thousands of small tasks, most wait for their one host: that is told at once
        if task.stop or task.task_id in self._halting:
            return
        left = self._task_room(task)
        if left <= 0 or task_gate(self._live, task, self._now_ms) is not None:
            return
        for host_id, command in commands.items():
            if left <= 0:
                return
            if command.wave > task.wave or command.stop or command.due_ms > self._now_ms or self._ends_unsent(task, host_id):
                continue
            if self._host_room(host_id).fits(task.spec) and policy_gate(self._live, task.spec, host_id) is None:
                self._take(task, host_id, len(command.attempts) + 1)
                left -= 1

    def _task_room(self, task: Task) -> int:
        spec = task.spec
        left = min(self._room, self._queue_room.get(spec.queue, _NO_LIMIT))
        if spec.parallel:
            left = min(left, spec.parallel - in_flight(task))
        if spec.key_parallel:
            of_key = self._live.shares.by_key.get(spec.key, 0) + self._by_key.get(spec.key, 0)
            left = min(left, spec.key_parallel - of_key)
        return left

    # --- what is planned in this same batch ---

    def planned(self, planned: list[Planned]) -> None:
        """Pick for hosts where nothing waits: one round trip less for a task."""
        for task, layout in planned:
            spec, hosts = task.spec, layout.hosts
            if task.stop or task.hold or spec.rollout or spec.key or len(hosts) > limits.EVENT_COMMANDS_MAX:
                continue
            left = min(spec.parallel or _NO_LIMIT, self._room, self._queue_room.get(spec.queue, _NO_LIMIT))
            for host in hosts:
                host_id = host.host_id
                if left <= 0:
                    break
                if host_id in self._live.queues.lanes or host_id in task.cancelled_early or ignorance_of(self._state, host, task):
                    continue
                if self._host_room(host_id).fits(spec) and policy_gate(self._live, spec, host_id) is None:
                    self._take(task, host_id, 1)
                    left -= 1
