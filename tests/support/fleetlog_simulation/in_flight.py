"""Naive books of what is in flight: which dispatches of the log took effect, and how many count against each limit then.

A dispatch in the log is not yet one that may be obeyed. It is void when its task was stopped or held before it, when
its command has ended or is under way, when admission was narrowed between its decision and its place in the log, or
when its wave may not begin. These books follow that with dictionaries of their own, for the invariants judge the
lifecycle by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fleetlog_simulation.books import AttemptId, Books, Line, attempt_id

RETRIED_ON = ("failure", "timeout", "error")
"""Outcomes that a task retries unless it says otherwise."""
NARROWING = ("fleetlog.fleet.frozen.v1", "fleetlog.window.set.v1", "fleetlog.queue.limited.v1")
"""After these, what was decided before them is void; so it is after a host was taken out of work."""
EARLY = "an earlier wave has not ended"
UNAPPROVED = "not approved"


class Dispatch(NamedTuple):
    """One entry of a dispatch."""

    task_id: str
    host_id: str
    attempt: int
    void: str
    """Why it has no effect, in a word; empty: it took effect."""
    counts: dict[str, int]
    """How many are in flight with it, by `all`, `host`, `queue`, `task` and `key`; of one that took effect."""
    wave: int
    turn_ms: int
    """When the turn of its wave came: every command of the earlier ones had ended."""

    @property
    def attempt_id(self) -> AttemptId:
        """Which attempt it is about."""
        return self.task_id, self.host_id, self.attempt


@dataclass
class OpenTask:
    """A task that was submitted and has not ended."""

    spec: dict[str, Any]
    """As JSON: what is not there has its default."""
    wave_of: dict[str, int] = field(default_factory=dict)
    """By host, once it is planned."""
    waves: list[int] = field(default_factory=list)
    """Their sizes."""
    attempts: dict[str, int] = field(default_factory=dict)
    """By host: the newest attempt."""
    under_way: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    """Hosts whose command has ended for good."""
    stopped: bool = False
    stopped_hosts: set[str] = field(default_factory=set)
    hold: str = ""
    held_with: str = ""
    """The workflow with which it was held."""
    tasks: dict[str, str] = field(default_factory=dict)
    """Of a workflow: its tasks, and the part of each."""
    approved: int = 0
    begun: set[int] = field(default_factory=set)
    turn_ms: dict[int, int] = field(default_factory=dict)

    @property
    def wave(self) -> int:
        """The first wave with a command that has not ended."""
        return min((wave for host, wave in self.wave_of.items() if host not in self.done), default=len(self.waves))

    def waits_for_approval(self, wave: int) -> bool:
        """Tell whether this wave has not begun and needs a person's word."""
        asked = self.spec.get("rollout", {}).get("approve", ())
        needed = wave + 1 in asked or (0 in asked and wave > 0)
        return needed and wave not in self.begun and self.approved <= wave


class InFlight:
    """Follows the log, line by line."""

    def __init__(self, books: Books) -> None:
        """Begin with the first line."""
        self._books = books
        self._lines: list[tuple[Line, list[Dispatch]]] = []
        self._tasks: dict[str, OpenTask] = {}
        self._narrowed = 0
        self.specs: dict[str, dict[str, Any]] = {}
        """Of every task that was ever submitted, as JSON."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """In flight, by (`host`, id), (`queue`, name), (`task`, id), (`key`, key) and (`all`, empty)."""
        self.dispatches: dict[AttemptId, list[tuple[Line, Dispatch]]] = {}
        """Every entry about an attempt, void or not."""
        self._follow: dict[str, Callable[[Line], None]] = {
            "task.submitted": self._submitted, "task.planned": self._planned, "task.refused": self._refused,
            "task.ended": self._task_ended, "attempt.ended": self._ended, "task.approved": self._approved,
            "task.cancel-requested": self._cancelled, "task.all-cancel-requested": self._all_cancelled,
            "task.timed-out": self._timed_out, "task.replaced": self._replaced, "task.abort-requested": self._aborted,
            "task.skip-requested": self._skipped, "task.pause-requested": self._paused, "task.halted": self._halted,
            "task.resume-requested": self._resumed,
        }

    def since(self, count: int) -> list[tuple[Line, list[Dispatch]]]:
        """Return the lines after the first *count*, each with what it dispatched, having read what is new."""
        for line in self._books.since(len(self._lines)):
            dispatched = []
            if line.kind == "fleetlog.attempt.dispatched.v1":
                dispatched = [self._dispatched(line, entry) for entry in line.data["attempts"]]
            elif line.kind in NARROWING or (line.kind == "fleetlog.host.maintenance-set.v1" and line.data["on"]):
                self._narrowed = line.seq
            elif (follow := self._follow.get(line.kind.removeprefix("fleetlog.").removesuffix(".v1"))) is not None:
                follow(line)
            self._lines.append((line, dispatched))
        return self._lines[count:]

    def open_tasks(self) -> dict[str, OpenTask]:
        """Return the tasks that have not ended, by id."""
        self.since(len(self._lines))
        return dict(self._tasks)

    def void(self, key: AttemptId) -> list[str] | None:
        """Return why each dispatch of an attempt has no effect; None when one of them took effect."""
        self.since(len(self._lines))
        entries = [entry for _, entry in self.dispatches.get(key, ())]
        return None if any(not entry.void for entry in entries) else [entry.void for entry in entries]

    # --- what is asked for, and planned ---

    def _submitted(self, line: Line) -> None:
        for one in line.data["tasks"]:
            if one["task_id"] not in self.specs:
                self.specs[one["task_id"]] = one["spec"]
                self._tasks[one["task_id"]] = OpenTask(one["spec"])
                of = one.get("part_of")
                if of and of["task_id"] in self._tasks:
                    self._tasks[of["task_id"]].tasks[one["task_id"]] = of["part"]

    def _planned(self, line: Line) -> None:
        for plan in line.data["plans"]:
            task = self._tasks.get(plan["task_id"])
            if task is None or task.waves:
                continue
            hosts = [host["host_id"] for host in plan["hosts"]]
            task.waves = list(plan.get("waves", ())) or [len(hosts)]
            waves = (wave for wave, size in enumerate(task.waves) for _ in range(size))
            task.wave_of = dict(zip(hosts, waves, strict=True))

    def _refused(self, line: Line) -> None:
        for one in line.data["refusals"]:
            self._tasks.pop(one["task_id"], None)

    def _task_ended(self, line: Line) -> None:
        for one in line.data["tasks"]:
            self._tasks.pop(one["task_id"], None)

    # --- attempts ---

    def _dispatched(self, line: Line, entry: dict[str, Any]) -> Dispatch:
        task_id, host_id, attempt = attempt_id(entry)
        task = self._tasks.get(task_id)
        void = self._why_void(line, task, host_id, attempt)
        wave = task.wave_of.get(host_id, 0) if task else 0
        counts = {}
        if task is not None and not void:
            task.attempts[host_id] = attempt
            task.under_way.add(host_id)
            task.begun.add(wave)
            for share in self._shares(task_id, host_id):
                self.counts[share] += 1
                counts[share[0]] = self.counts[share]
        dispatch = Dispatch(task_id, host_id, attempt, void, counts, wave, task.turn_ms.get(wave, 0) if task else 0)
        self.dispatches.setdefault(dispatch.attempt_id, []).append((line, dispatch))
        return dispatch

    def _why_void(self, line: Line, task: OpenTask | None, host_id: str, attempt: int) -> str:
        if task is None or host_id not in task.wave_of:
            return "not planned, or ended"
        if host_id in task.under_way or host_id in task.done or attempt != task.attempts.get(host_id, 0) + 1:
            return "not the next attempt"
        if task.stopped or host_id in task.stopped_hosts:
            return "stopped"
        if task.hold:
            return task.hold
        if 0 < line.data.get("decided_seq", 0) < self._narrowed:
            return "decided before admission was narrowed"
        if task.wave_of[host_id] > task.wave:
            return EARLY
        return UNAPPROVED if task.waits_for_approval(task.wave_of[host_id]) else ""

    def _shares(self, task_id: str, host_id: str) -> Iterator[tuple[str, str]]:
        spec = self.specs[task_id]
        yield from (("all", ""), ("host", host_id), ("queue", spec.get("queue", "default")), ("task", task_id))
        if spec.get("key"):
            yield "key", spec["key"]

    def _ended(self, line: Line) -> None:
        for end in line.data["attempts"]:
            task_id, host_id, attempt = attempt_id(end)
            task = self._tasks.get(task_id)
            if task is None or host_id not in task.wave_of or host_id in task.done:
                continue
            newest = task.attempts.get(host_id, 0)
            if host_id in task.under_way and attempt == newest:
                task.under_way.remove(host_id)
                self.counts.subtract(self._shares(task_id, host_id))
            elif host_id not in task.under_way and attempt == newest + 1 and line.subject == "evt.dispatch":
                task.attempts[host_id] = attempt  # ended while it waited
            else:
                continue
            retry = task.spec.get("retry", {})
            again = attempt < retry.get("attempts_max", 1) and end["outcome"] in retry.get("on", RETRIED_ON)
            if not again or task.stopped or host_id in task.stopped_hosts:
                self._done(task, host_id, line)

    def _done(self, task: OpenTask, host_id: str, line: Line) -> None:
        before = task.wave
        task.done.add(host_id)
        if task.wave != before:
            task.turn_ms[task.wave] = line.time_ms

    # --- what people and time stop ---

    def _stop(self, line: Line, task_id: str) -> None:
        task = self._tasks.get(task_id)
        if task is not None:
            task.stopped = True
            self._no_more(task, list(task.wave_of), line)
            for one in task.tasks:
                self._stop(line, one)

    def _stop_hosts(self, line: Line, *, waiting_only: bool) -> None:
        task = self._tasks.get(line.data["task_id"])
        if task is None or task.stopped or (waiting_only and not task.waves):
            return
        hosts = [one for one in line.data["host_ids"] if not (waiting_only and one in task.under_way)]
        task.stopped_hosts.update(hosts)
        self._no_more(task, [one for one in hosts if one in task.wave_of], line)

    def _no_more(self, task: OpenTask, hosts: list[str], line: Line) -> None:
        """A command that waits for another attempt has ended with the last one."""
        for host_id in hosts:
            if task.attempts.get(host_id) and host_id not in task.under_way and host_id not in task.done:
                self._done(task, host_id, line)

    def _cancelled(self, line: Line) -> None:
        if line.data.get("parts"):
            workflow = self._tasks.get(line.data["task_id"])
            for task_id, part in workflow.tasks.items() if workflow else ():
                if part in line.data["parts"]:
                    self._stop(line, task_id)
        elif line.data.get("host_ids"):
            self._stop_hosts(line, waiting_only=False)
        else:
            self._stop(line, line.data["task_id"])

    def _skipped(self, line: Line) -> None:
        self._stop_hosts(line, waiting_only=True)

    def _all_cancelled(self, line: Line) -> None:
        for task_id in self._tasks:
            self._stop(line, task_id)

    def _timed_out(self, line: Line) -> None:
        for task_id in line.data["task_ids"]:
            self._stop(line, task_id)

    def _replaced(self, line: Line) -> None:
        for one in line.data["replacements"]:
            self._stop(line, one["task_id"])

    def _aborted(self, line: Line) -> None:
        self._stop(line, line.data["task_id"])

    # --- what people and failures hold ---

    def _hold(self, task_id: str, hold: str, held_with: str = "") -> None:
        task = self._tasks.get(task_id)
        if task is None or task.stopped or task.hold:
            return
        task.hold, task.held_with = hold, held_with
        for one in task.tasks:
            self._hold(one, hold, task_id)

    def _paused(self, line: Line) -> None:
        self._hold(line.data["task_id"], "paused")

    def _halted(self, line: Line) -> None:
        for one in line.data["halts"]:
            self._hold(one["task_id"], "halted")

    def _resumed(self, line: Line) -> None:
        task_id = line.data["task_id"]
        task = self._tasks.get(task_id)
        if task is None or not task.hold:
            return
        task.hold = task.held_with = ""
        for one in (self._tasks[one] for one in task.tasks if one in self._tasks):
            if one.held_with == task_id:
                one.hold = one.held_with = ""

    def _approved(self, line: Line) -> None:
        task = self._tasks.get(line.data["task_id"])
        if task is not None:
            task.approved = max(task.approved, line.data["wave"])
