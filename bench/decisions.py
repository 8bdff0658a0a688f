"""What one decision of the dispatcher costs with many hosts and much that waits: its pure functions, without a bus.

Each figure is the time from an event until nothing more is due, with every event that this brings folded again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from bench.figures import Figure
from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.sessions import Keys
from fleetlog_dispatcher.state import State
from fleetlog_dispatcher.unit import Dispatcher
from fleetlog_runtime.pure.bus import Batch
from fleetlog_runtime.pure.engine import Engine
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_runtime.pure.signing import Signer
from fleetlog_schemas import codec, events, host_events
from fleetlog_schemas.ids import new_id
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Rollout, Shell, TaskSpec

NOW_MS = 1_800_000_000_000
ENTRIES = 500
"""Hosts in one event of the preparation."""
SLOTS = DispatcherSettings().slots_per_host
LIMITED = 5_000
"""Tasks that wait with a limit or gate of their own."""
WAITING_TASKS = 2
"""Tasks on all hosts that wait behind those that took every slot."""


class Desk:
    """A dispatcher that leads, with its log."""

    def __init__(self, hosts: int) -> None:
        """Let *hosts* be online."""
        keys = Keys(ticket=b"t" * 32, token=b"k" * 32, blob=b"b" * 32, signer=Signer(b"s" * 32))
        self.now_ms, self.seq = NOW_MS, 0
        self.engine: Engine[State, Live] = Engine(Dispatcher(DispatcherSettings(), keys), "/fleetlog/bench/1", self.make_id)
        self.hosts = [f"h{number:05}" for number in range(hosts)]
        self.engine.lead(self.now_ms)
        for start in range(0, hosts, ENTRIES):
            some = self.hosts[start : start + ENTRIES]
            for host_id in some:
                self.store(host_events.HostEnrolled(host_id, host_id, {}, "key"), events.ACCESS)
            sessions = tuple(host_events.Session(host_id, 1, f"n{host_id}", "boot", "1", 1) for host_id in some)
            self.store(host_events.SessionsOpened(sessions), events.DISPATCH)
            self.store(host_events.HostsOnline(tuple(host_events.HostEpoch(host_id, 1) for host_id in some)), events.DISPATCH)
        self.settle()

    def make_id(self) -> str:
        return new_id(self.now_ms, os.urandom(10))

    def store(self, data: events.Data, subject: str) -> None:
        self.seq += 1
        event = codec.Event(
            id=self.make_id(), source="/fleetlog/bench/1", data=data, time_ms=self.now_ms, seq=self.seq, subject=subject
        )
        self.engine.deliver([event], self.now_ms)

    def settle(self) -> None:
        while True:
            batches = [one for one in self.engine.step(self.now_ms) if isinstance(one, Batch)]
            if not batches:
                return
            for draft in batches[0].drafts:
                self.seq += 1
                event = codec.decode(draft.body, seq=self.seq, subject=draft.subject, time_ms=self.now_ms)
                self.engine.deliver([event], self.now_ms)

    def submit(self, *specs: TaskSpec) -> list[str]:
        """Let tasks be asked for in one event, and let everything follow."""
        submissions = tuple(events.Submission(self.make_id(), spec) for spec in specs)
        self.store(events.TasksSubmitted(submissions), events.REQUEST)
        self.settle()
        return [one.task_id for one in submissions]

    def end(self, task_id: str, host_id: str) -> None:
        """Let one command end well, and let everything follow."""
        end = events.End(task_id, host_id, 1, Outcome.SUCCESS, Ran.YES, exit_code=0)
        self.store(events.AttemptsEnded((end,)), events.RESULT)
        self.settle()

    def sweep(self) -> None:
        """Let a second pass, and let everything follow that time alone makes due."""
        self.now_ms += 1_000
        self.settle()


def _ms(what: Callable[[], object]) -> float:
    begun = time.perf_counter()
    what()
    return (time.perf_counter() - begun) * 1_000


def _ends_among(tasks: int, spec: TaskSpec, rounds: int) -> tuple[float, ...]:
    """Return what the ends of the first tasks take, while the others wait."""
    desk = Desk(1)
    ids = desk.submit(*[spec] * 1_000)
    for _ in range(tasks // 1_000 - 1):
        desk.submit(*[spec] * 1_000)
    return tuple(_ms(lambda task_id=task_id: desk.end(task_id, desk.hosts[0])) for task_id in ids[: 4 * rounds])  # type: ignore[misc]


def decisions(hosts: int, rounds: int) -> list[Figure]:
    """Return what decisions cost on *hosts* hosts."""
    spec = TaskSpec(payload=Shell(argv=("true",)), target="all")
    desk = Desk(hosts)
    idle = tuple(_ms(desk.sweep) for _ in range(rounds))
    filling = tuple(_ms(lambda: desk.submit(spec)) for _ in range(SLOTS))
    first = next(iter(desk.engine.state.tasks.by_id))
    for _ in range(WAITING_TASKS):
        desk.submit(spec)
    desk.sweep()
    ends = tuple(_ms(lambda host_id=host_id: desk.end(first, host_id)) for host_id in desk.hosts[: 10 * rounds])  # type: ignore[misc]
    desk.sweep()
    full = tuple(_ms(desk.sweep) for _ in range(rounds))
    rolling = Desk(hosts)
    [rollout] = rolling.submit(TaskSpec(payload=Shell(argv=("true",)), target="all", rollout=Rollout(batch="10")))
    waves = tuple(_ms(lambda host_id=host_id: rolling.end(rollout, host_id)) for host_id in rolling.hosts[: 10 * rounds])  # type: ignore[misc]
    each = [msgspec.structs.replace(spec, target=host_id) for host_id in rolling.hosts[:1_000]]
    spread = _ms(lambda: rolling.submit(*each))
    single = Desk(1)
    many = _ms(lambda: [single.submit(*[spec] * 1_000) for _ in range(10)])
    alone = _ends_among(LIMITED, msgspec.structs.replace(spec, key="bench", single_run="queue"), rounds)
    narrow = _ends_among(LIMITED, msgspec.structs.replace(spec, parallel=1), rounds)
    note = f"{hosts} hosts"
    return [
        Figure("one task planned and dispatched", "ms", filling, note=note),
        Figure("an end, while 2 commands wait on each host", "ms", ends, note=note),
        Figure("an end in a rollout, 10 hosts at once", "ms", waves, note=note),
        Figure("what each second costs: idle", "ms", idle, note=note),
        Figure("what each second costs: every slot taken, 2 waiting", "ms", full, note=note),
        Figure("1,000 tasks, each on a host of its own", "ms", (spread,), note=note),
        Figure("an end, while 5,000 tasks with a limit of their own wait", "ms", narrow, note="one host"),
        Figure("an end, while 5,000 single runs of a key wait", "ms", alone, note="one host"),
        Figure("10,000 tasks admitted on one host", "ms", (many,)),
    ]
