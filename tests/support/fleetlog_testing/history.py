"""A log in memory, for tests that read given/when/then: events get sequence, time and subject as the bus gives them.

Every event passes through its stored bytes, so that what a test folds is what a reader would read.
"""

from __future__ import annotations

import itertools

from fleetlog_schemas import events, hosts, ids, lifecycle, records
from fleetlog_schemas.codec import Event, decode, encode
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.rollout import wave_sizes
from fleetlog_schemas.spec import Retry, Rollout, Shell, TaskSpec

START_MS = 1_790_000_000_000
_entropy = itertools.count(1)


def make_id(now_ms: int = START_MS) -> str:
    """Return an id of *now_ms* that no earlier call returned."""
    return ids.new_id(now_ms, next(_entropy).to_bytes(10, "big"))


class History:
    """Appends events and folds them at once."""

    def __init__(self) -> None:
        self.tasks = records.Tasks()
        self.hosts = hosts.Hosts()
        self.events: list[Event] = []
        self.now_ms = START_MS

    def wait(self, duration_ms: int) -> None:
        """Let time pass."""
        self.now_ms += duration_ms

    def add(self, data: events.Data, *, subject: str = "", authid: str | None = None) -> list[records.Change]:
        """Store one event and fold it; return what it changed in tasks. Changed hosts are in `host_ids`."""
        subject = subject or events.REGISTRY[events.NAMES[type(data)]].subject.split()[0]
        body = encode(Event(id=make_id(), source="/fleetlog/test/1", data=data, time_ms=self.now_ms, authid=authid))
        event = decode(body, seq=len(self.events) + 1, subject=subject, time_ms=self.now_ms)
        self.events.append(event)
        self.host_ids = hosts.apply(self.hosts, event)
        return lifecycle.apply(self.tasks, event)

    # --- the events that most stories need --------------------------------------------------------------

    def submitted(
        self, *, target: str = "web*", retry: Retry | None = None, rollout: Rollout | None = None
    ) -> records.Task:
        """Submit one task."""
        task_id = make_id(self.now_ms)
        spec = TaskSpec(payload=Shell(argv=("true",)), target=target, retry=retry or Retry(), rollout=rollout)
        self.add(events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),)), authid="ada")
        return self.tasks.by_id[task_id]

    def planned(
        self, *host_ids: str, retry: Retry | None = None, rollout: Rollout | None = None
    ) -> records.Task:
        """Submit one task and plan it on *host_ids*."""
        task = self.submitted(retry=retry, rollout=rollout)
        hosts_of_plan = tuple(events.PlannedHost(host_id=host_id, name=host_id) for host_id in host_ids)
        waves = wave_sizes(rollout, len(host_ids)) if rollout else ()
        self.add(events.TasksPlanned(plans=(events.Plan(task.task_id, hosts_of_plan, "hash", waves=waves),)))
        return task

    def dispatched(self, task: records.Task, host_id: str, attempt: int = 1) -> list[records.Change]:
        """Dispatch one attempt."""
        one = events.Dispatch(task_id=task.task_id, host_id=host_id, attempt=attempt, epoch=1)
        return self.add(events.AttemptsDispatched(attempts=(one,)))

    def started(self, task: records.Task, host_id: str, attempt: int = 1) -> list[records.Change]:
        """Report one start."""
        one = events.Start(task_id=task.task_id, host_id=host_id, attempt=attempt, started_ms=self.now_ms)
        return self.add(events.AttemptsStarted(attempts=(one,)))

    def ended(
        self, task: records.Task, host_id: str, outcome: Outcome, attempt: int = 1, *, decided: bool = False,
        ran: Ran = Ran.YES, exit_code: int | None = None, tail: str = "",
    ) -> list[records.Change]:
        """End one attempt: by the agent's report, or by the dispatcher's decision."""
        end = events.End(
            task_id=task.task_id, host_id=host_id, attempt=attempt, outcome=outcome, ran=ran, exit_code=exit_code,
            ended_ms=self.now_ms, tail=tail,
        )
        return self.add(events.AttemptsEnded(attempts=(end,)), subject=events.DISPATCH if decided else events.RESULT)

    def waiting(self, task: records.Task, reason: str, *host_ids: str, message: str = "not yet") -> list[records.Change]:
        """Note why commands wait: those on *host_ids*, or all that do."""
        commands = (events.WaitingCommands(task.task_id, host_ids),)
        return self.add(events.CommandsWaiting(groups=(events.WaitingFor(reason, message, commands),)))

    def task_ended(self, task: records.Task) -> list[records.Change]:
        """End the task as its commands say."""
        return self.add(events.TasksEnded(tasks=(lifecycle.task_end(task),)))
