"""A scheduler on a log in memory: people act, time passes, instances are killed and two of them may lead at once.

Every instance is the real engine with the real unit; the log is a list that keeps the fences as the bus does.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from zoneinfo import ZoneInfo

import msgspec

from fleetlog_runtime.pure.bus import Batch
from fleetlog_runtime.pure.engine import Engine
from fleetlog_runtime.pure.settings import SchedulerSettings
from fleetlog_scheduler.live import Live
from fleetlog_scheduler.state import State
from fleetlog_scheduler.unit import Scheduler
from fleetlog_schemas import codec, definition_events, events
from fleetlog_schemas.definitions import Definition, Parameter
from fleetlog_schemas.events import Data
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.schedule_events import (
    Rule,
    SchedulePolicy,
    ScheduleRegistered,
    TickDecision,
    TicksDecided,
)
from fleetlog_schemas.spec import Shell, TaskSpec

ROUNDS_MAX = 1_000


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    """Return a time as Unix milliseconds."""
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


class Scheduling:
    """The log, its clock, and the instances on it."""

    def __init__(self, now_ms: int, **settings: int) -> None:
        self.now_ms = now_ms
        self.log: list[codec.Event] = []
        self.unit = Scheduler(msgspec.convert(settings, SchedulerSettings))
        self.instances: list[Engine[State, Live]] = []
        self._ids = itertools.count(1)
        self._last: dict[str, int] = {}
        self._looked_at = 0
        self.lead()
        self.define("cleanup")

    # --- instances ------------------------------------------------------------------------------------------

    def engine(self) -> Engine[State, Live]:
        """Return an instance that has read the log and follows."""
        engine: Engine[State, Live] = Engine(self.unit, "/fleetlog/scheduler/x", lambda: f"id-{next(self._ids)}")
        self.catch_up(engine)
        return engine

    def lead(self) -> Engine[State, Live]:
        """Let one more instance lead."""
        engine = self.engine()
        engine.lead(self.now_ms)
        self.instances.append(engine)
        return engine

    def kill(self) -> None:
        """End every instance."""
        self.instances.clear()

    def catch_up(self, engine: Engine[State, Live]) -> None:
        engine.deliver(self.log[engine.position :], self.now_ms)

    def store(self, batch: Batch) -> bool:
        """Store a batch as the bus does: all of it, or nothing when a fence says no."""
        expected = [(batch.expected_subject, batch.expected_seq), *batch.also_expected]
        if any(seq is not None and self.last(subject) != seq for subject, seq in expected):
            return False
        for index, draft in enumerate(batch.drafts):
            end = index == len(batch.drafts) - 1
            self.log.append(
                codec.decode(draft.body, seq=len(self.log) + 1, subject=draft.subject, time_ms=self.now_ms, batch_end=end)
            )
        return True

    def last(self, subject: str) -> int:
        """Return the last sequence of a subject."""
        for event in self.log[self._looked_at :]:
            self._last[event.subject] = event.seq
        self._looked_at = len(self.log)
        return self._last.get(subject, 0)

    def decide(self, engine: Engine[State, Live]) -> Batch | None:
        """Let an instance decide, and return what it wants stored."""
        (batch, *_) = [*(one for one in engine.step(self.now_ms) if isinstance(one, Batch)), None]
        return batch

    def settle(self) -> None:
        """Let every instance read and decide until nothing is due."""
        for _ in range(ROUNDS_MAX):
            stored = False
            for engine in self.instances:
                self.catch_up(engine)
                batch = self.decide(engine)
                if batch is not None:
                    stored = True
                    if not self.store(batch):
                        engine.append_refused(len(self.log))
            if not stored:
                return
        raise AssertionError("deciding does not come to an end")

    # --- people and time ------------------------------------------------------------------------------------

    def say(self, data: Data, authid: str = "ada", *, settle: bool = True) -> codec.Event:
        """Append what somebody else writes."""
        subject = events.REGISTRY[events.NAMES[type(data)]].subject.split()[0]
        event = codec.Event(
            id=f"id-{next(self._ids)}", source="/fleetlog/gateway/a", data=data, time_ms=self.now_ms,
            seq=len(self.log) + 1, subject=subject, authid=authid,
        )
        self.log.append(event)
        if settle:
            self.settle()
        return event

    def define(self, name: str, version: int = 1, **parameters: Parameter) -> None:
        """Make a definition, or a new version of it."""
        definition = Definition(
            name=name, spec=TaskSpec(payload=Shell(argv=("true",)), target="all"), parameters=parameters
        )
        self.say(definition_events.DefinitionSet(definition_id=f"d-{name}", version=version, definition=definition))

    def register(self, name: str = "s", *, active: bool = True, definition: str = "cleanup", **rule: object) -> None:
        """Register a schedule; the policy's fields are given among the rule's."""
        policy = {field: rule.pop(field) for field in SchedulePolicy.__struct_fields__ if field in rule}
        made = msgspec.convert({"definition": definition, "kind": "cron", **rule, "policy": policy}, Rule)
        self.say(ScheduleRegistered(name=name, rule=made, active=active))

    def pass_until(self, until_ms: int, step_ms: int = 1_000) -> None:
        """Let time pass in steps, deciding at each; without an instance nothing is decided."""
        while self.now_ms < until_ms:
            wake_ms = min((e.wake_at_ms for e in self.instances if e.wake_at_ms is not None), default=until_ms)
            self.now_ms = min(until_ms, max(self.now_ms + step_ms, wake_ms))
            self.settle()

    def end(self, *task_ids: str) -> None:
        """Let tasks end."""
        ends = tuple(events.TaskEnd(task_id=one, outcome=Outcome.SUCCESS, counts={}) for one in task_ids)
        self.say(events.TasksEnded(tasks=ends))

    # --- looking --------------------------------------------------------------------------------------------

    def ledger(self, name: str = "s") -> list[TickDecision]:
        """Return what became of a schedule's ticks, in the order of the log."""
        return [
            tick for event in self.log if isinstance(event.data, TicksDecided) for tick in event.data.ticks if tick.name == name
        ]

    def fired(self, name: str = "s") -> list[int]:
        """Return the times for which tasks were submitted."""
        return [tick.nominal_ms for tick in self.ledger(name) if tick.outcome == "fired"]

    def fates(self, name: str = "s") -> list[tuple[str, int, str]]:
        """Return outcome, count and reason of each entry."""
        return [(tick.outcome, tick.count, tick.reason) for tick in self.ledger(name)]

    def tasks(self) -> list[events.Submission]:
        """Return what was submitted by schedules."""
        return [
            one for event in self.log if isinstance(event.data, events.TasksSubmitted) for one in event.data.tasks if one.schedule
        ]

    def open_tasks(self) -> list[str]:
        """Return the submitted tasks that have not ended."""
        ended = {one.task_id for event in self.log if isinstance(event.data, events.TasksEnded) for one in event.data.tasks}
        return [one.task_id for one in self.tasks() if one.task_id not in ended]

    def agree(self) -> None:
        """Require that the ledger and the submitted tasks say the same, and that no tick has two fates."""
        ledgers = [self.ledger(name) for name in {task.schedule for task in self.tasks()}]
        fired = Counter((tick.name, tick.nominal_ms, tick.task_id) for ledger in ledgers for tick in ledger if tick.outcome == "fired")
        assert fired == Counter((one.schedule, one.nominal_ms, one.task_id) for one in self.tasks())
        assert all(count == 1 for count in fired.values())
