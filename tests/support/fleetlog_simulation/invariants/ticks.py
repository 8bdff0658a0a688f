"""Each expected tick has exactly one fate, each that fired exactly one task, none fires within a pause or beside another.

The books are naive: an interval is a range on the grid of the epoch, a pattern is compared with what a clock on the wall shows,
second by second (`wall_clock.py`), and a window is so many minutes of each day.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from fleetlog_simulation.books import Books, Line
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.invariants.wall_clock import is_within, shown
from fleetlog_simulation.world import World

Tick = tuple[str, int]
"""The schedule, and the time that its rule names."""
PREFIX = "fleetlog.schedule."


def times(rule: dict[str, Any], after_ms: int, until_ms: int) -> list[int]:
    """Return what a rule names, later than *after_ms* and not later than *until_ms*."""
    if rule["kind"] == "cron":
        return shown(rule, after_ms, until_ms)
    every_ms = rule["interval_ms"]
    return list(range(after_ms // every_ms * every_ms + every_ms, until_ms + 1, every_ms))


class Ticks:
    """Follows the state of each schedule by the log, and compares the ledger with the submitted tasks."""

    def __init__(self, world: World, books: Books) -> None:
        """Watch the log."""
        self._world, self._books = world, books
        self._seen = 0
        self._states: dict[str, str] = {}
        self._rules: dict[str, list[dict[str, Any]]] = {}
        """Every rule that a schedule has had, the newest last."""
        self._since_ms: dict[str, int] = {}
        self._expected: set[Tick] = set()
        self._within_pauses: set[Tick] = set()
        self._fates: Counter[Tick] = Counter()
        self._fired: dict[str, Tick] = {}
        self._submitted: dict[str, Tick] = {}
        self._queued: set[Tick] = set()
        """Those that wait for the end of an earlier run."""
        self._until_ms: dict[str, int] = {}
        """When a pause ends by itself."""
        self._overlaps: dict[str, str] = {}
        self._asked: dict[tuple[str, int], int] = {}
        """Ticks of backfills, by schedule and the place of the request, that have no fate yet."""
        self._backfilled: set[str] = set()
        """Tasks of backfills."""
        self._open: dict[str, str] = {}
        """Tasks that have not ended, and the schedule of each."""
        self._cancelled: set[str] = set()
        self._crossed: list[tuple[str, str]] = []
        """Tasks that were fired beside an open one, and that one: allowed if it is cancelled in the same batch."""

    def check(self) -> None:
        """Look at what was changed, decided and submitted since the last step."""
        for line in self._books.since(self._seen):
            self._seen += 1
            if line.kind.startswith(PREFIX):
                self._changed(line.data["name"], line)
            elif line.kind == "fleetlog.tick.decided.v1":
                for one in line.data["ticks"]:
                    self._decided(line, one)
            elif line.kind == "fleetlog.task.submitted.v1":
                for one in line.data["tasks"]:
                    if one.get("schedule"):
                        self._was_submitted(one)
            elif line.kind == "fleetlog.task.cancel-requested.v1" and not line.data.get("host_ids"):
                self._cancelled.add(line.data["task_id"])
            elif line.kind in ("fleetlog.task.ended.v1", "fleetlog.task.refused.v1"):
                for one in line.data.get("tasks") or line.data.get("refusals", ()):
                    self._open.pop(one["task_id"], None)
            if line.batch_end:
                self._batch_ends()

    def _batch_ends(self) -> None:
        if self._fired != self._submitted:
            odd = set(self._fired.items()) ^ set(self._submitted.items())
            raise Violation(f"what fired is not what was submitted: {odd}")
        for task_id, beside in self._crossed:
            if beside not in self._cancelled:
                raise Violation(f"{self._fired[task_id]} was fired beside an earlier run that nobody cancelled")
        self._crossed.clear()

    def _changed(self, name: str, line: Line) -> None:
        state = self._states.get(name, "none")
        verb = line.kind.removeprefix(PREFIX).removesuffix(".v1")
        match verb, state:
            case "registered", "none":
                following = "active" if line.data.get("active", True) else "inactive"
            case "registered", _:
                following = state
            case "unregistered", _:
                following = "none"
            case ("started", "inactive") | ("resumed", "paused"):
                following = "active"
            case "stopped", "active" | "paused":
                following = "inactive"
            case "paused", "active" | "paused":
                following = "paused"
            case "backfill-requested", "active" | "paused":
                self._asked[name, line.seq] = len(line.data["ticks"])
                return
            case _:
                return
        if verb == "resumed" and 0 < self._until_ms.get(name, 0) <= line.time_ms:
            return  # it has resumed by itself
        self._expect(name, state, line.time_ms)
        self._states[name], self._since_ms[name] = following, line.time_ms
        if verb == "paused":
            self._until_ms[name] = line.data.get("until_ms", 0)
        if verb == "registered":
            self._rules.setdefault(name, []).append(line.data["rule"])
            self._overlaps[name] = line.data["rule"].get("policy", {}).get("overlap", "skip")

    def _expect(self, name: str, state: str, until_ms: int) -> None:
        """Enter what a schedule expected in the time that ends."""
        if state in ("active", "paused"):
            ticks = {(name, at_ms) for at_ms in times(self._rules[name][-1], self._since_ms[name], until_ms)}
            self._expected |= ticks
            if state == "paused":
                until_ms = self._until_ms[name]
                self._within_pauses |= {tick for tick in ticks if not until_ms or tick[1] <= until_ms}

    def _decided(self, line: Line, one: dict[str, Any]) -> None:
        name, nominal_ms = one["name"], one["nominal_ms"]
        tick = name, nominal_ms
        if request := one.get("backfill_seq"):
            if not self._asked.get((name, request)):
                raise Violation(f"the tick {nominal_ms} of {name} was backfilled, and nobody asked for it, or it was already")
            self._asked[name, request] -= 1
            if one["outcome"] == "fired":
                self._fired[one["task_id"]] = tick
                self._backfilled.add(one["task_id"])
            return
        waited = tick in self._queued
        if not waited:  # the rule under which it was let in counts; when it fires that may be another one
            self._check_window(one)
        if one["outcome"] == "queued":
            if any(waiting == name for waiting, _ in self._queued):
                raise Violation(f"a second tick of {name} waits: {nominal_ms}")
            self._queued.add(tick)
            return
        self._queued.discard(tick)
        self._settled(one)
        if one["outcome"] != "fired":
            return
        self._fired[one["task_id"]] = tick
        state = self._states.get(name, "none")
        since_ms = self._since_ms.get(name, 0)
        if state == "paused" and 0 < self._until_ms[name] <= line.time_ms:
            state, since_ms = "active", self._until_ms[name]
        if state != "active" or (nominal_ms <= since_ms and not waited):
            raise Violation(f"the tick {nominal_ms} of {name} fired at {line.time_ms}, when it was {state} or had changed")
        if nominal_ms > line.time_ms:
            raise Violation(f"the tick {nominal_ms} of {name} fired before its time")

    def _check_window(self, one: dict[str, Any]) -> None:
        name, nominal_ms, outcome = one["name"], one["nominal_ms"], one["outcome"]
        windows = self._rules[name][-1].get("policy", {}).get("windows", ())
        within = not windows or any(is_within(window, nominal_ms) for window in windows)
        if (outcome in ("fired", "queued") and not within) or (one.get("reason") == "window" and within):
            raise Violation(f"the tick {nominal_ms} of {name} was {outcome}, and its window was {'open' if within else 'closed'}")
        if one.get("reason") == "late" and not within:
            raise Violation(f"the tick {nominal_ms} of {name} was late and {outcome}, and its window was closed")

    def _settled(self, one: dict[str, Any]) -> None:
        name = one["name"]
        for at_ms in self._meant(one):
            self._fates[name, at_ms] += 1
            if self._fates[name, at_ms] > 1:
                raise Violation(f"the tick {at_ms} of {name} has a second fate: {one['outcome']}")

    def _meant(self, one: dict[str, Any]) -> list[int]:
        """Return the ticks that an entry of the ledger is about: as many as it says, by one of the rules that there were."""
        nominal_ms, count = one["nominal_ms"], one.get("count", 1)
        if count == 1:
            return [nominal_ms]
        for rule in reversed(self._rules[one["name"]]):
            meant = times(rule, nominal_ms - 1, one["until_ms"])
            if len(meant) == count and (meant[0], meant[-1]) == (nominal_ms, one["until_ms"]):
                return meant
        raise Violation(f"{count} ticks of {one['name']} from {nominal_ms} to {one['until_ms']} are {one['outcome']}, and no rule names so many")

    def _was_submitted(self, one: dict[str, Any]) -> None:
        task_id, name = one["task_id"], one["schedule"]
        tick = name, one["nominal_ms"]
        if task_id in self._submitted:
            raise Violation(f"the tick {tick[1]} of {name} was submitted twice")
        self._submitted[task_id] = tick
        beside = [other for other, of in self._open.items() if of == name]
        overlap = self._overlaps.get(name, "skip")
        if beside and overlap in ("skip", "queue-one"):
            raise Violation(f"the tick {tick[1]} of {name} was fired beside {beside[0]}, and its policy is {overlap}")
        if overlap == "cancel-running" and task_id not in self._backfilled:
            self._crossed += [(task_id, other) for other in beside]
        self._open[task_id] = name

    def finish(self) -> None:
        """Every schedule is gone and the schedulers have caught up: the ledger is what was expected."""
        self.check()
        for name, state in self._states.items():
            if state != "none":
                raise Violation(f"{name} is {state}: this history has not come to its end")
        if set(self._fates) != self._expected:
            without, unexpected = self._expected - set(self._fates), set(self._fates) - self._expected
            raise Violation(f"ticks without a fate: {sorted(without)[:5]}; with one and not expected: {sorted(unexpected)[:5]}")
        fired = {tick for task_id, tick in self._fired.items() if task_id not in self._backfilled}
        if self._within_pauses & fired:
            raise Violation(f"fired within a pause: {sorted(self._within_pauses & fired)[:5]}")
        if self._queued or any(self._asked.values()):
            raise Violation(f"still waiting: {sorted(self._queued)[:5]}, {self._asked}")
