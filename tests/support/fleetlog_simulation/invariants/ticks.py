"""Each expected tick has exactly one fate, each that fired exactly one task, and none fires within a pause.

The books are naive: every schedule of the simulation is an interval on the grid of the epoch, so what is expected
between two changes of the log is a range.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from fleetlog_simulation.books import Books, Line
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import World

Tick = tuple[str, int]
"""The schedule, and the time that its rule names."""
PREFIX = "fleetlog.schedule."


class Ticks:
    """Follows the state of each schedule by the log, and compares the ledger with the submitted tasks."""

    def __init__(self, world: World, books: Books) -> None:
        """Watch the log."""
        self._world, self._books = world, books
        self._seen = 0
        self._states: dict[str, str] = {}
        self._rules: dict[str, int] = {}
        self._since_ms: dict[str, int] = {}
        self._expected: set[Tick] = set()
        self._within_pauses: set[Tick] = set()
        self._fates: Counter[Tick] = Counter()
        self._fired: dict[Tick, str] = {}
        self._submitted: dict[Tick, str] = {}

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
            if line.batch_end and self._fired != self._submitted:
                odd = set(self._fired.items()) ^ set(self._submitted.items())
                raise Violation(f"what fired is not what was submitted: {odd}")

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
            case _:
                return
        self._expect(name, state, line.time_ms)
        self._states[name], self._since_ms[name] = following, line.time_ms
        if verb == "registered":
            self._rules[name] = line.data["rule"]["interval_ms"]

    def _expect(self, name: str, state: str, until_ms: int) -> None:
        """Enter what a schedule expected in the time that ends."""
        if state in ("active", "paused"):
            every_ms = self._rules[name]
            first_ms = self._since_ms[name] // every_ms * every_ms + every_ms
            ticks = {(name, at_ms) for at_ms in range(first_ms, until_ms + 1, every_ms)}
            self._expected |= ticks
            if state == "paused":
                self._within_pauses |= ticks

    def _decided(self, line: Line, one: dict[str, Any]) -> None:
        name, nominal_ms = one["name"], one["nominal_ms"]
        count, until_ms = one.get("count", 1), one.get("until_ms", 0)
        every_ms = 1 if count == 1 else (until_ms - nominal_ms) // (count - 1)
        for at_ms in range(nominal_ms, max(until_ms, nominal_ms) + 1, every_ms):
            self._fates[name, at_ms] += 1
            if self._fates[name, at_ms] > 1:
                raise Violation(f"the tick {at_ms} of {name} has a second fate: {one['outcome']}")
        if one["outcome"] != "fired":
            return
        self._fired[name, nominal_ms] = one["task_id"]
        state = self._states.get(name, "none")
        if state != "active" or nominal_ms <= self._since_ms[name]:
            raise Violation(f"the tick {nominal_ms} of {name} fired at {line.time_ms}, when it was {state} or had changed")
        if nominal_ms > line.time_ms:
            raise Violation(f"the tick {nominal_ms} of {name} fired before its time")

    def _was_submitted(self, one: dict[str, Any]) -> None:
        tick = one["schedule"], one["nominal_ms"]
        if tick in self._submitted:
            raise Violation(f"the tick {tick[1]} of {tick[0]} was submitted twice")
        self._submitted[tick] = one["task_id"]

    def finish(self) -> None:
        """Every schedule is gone and the schedulers have caught up: the ledger is what was expected."""
        self.check()
        for name, state in self._states.items():
            if state != "none":
                raise Violation(f"{name} is {state}: this history has not come to its end")
        if set(self._fates) != self._expected:
            without, unexpected = self._expected - set(self._fates), set(self._fates) - self._expected
            raise Violation(f"ticks without a fate: {sorted(without)[:5]}; with one and not expected: {sorted(unexpected)[:5]}")
        if self._within_pauses & set(self._fired):
            raise Violation(f"fired within a pause: {sorted(self._within_pauses & set(self._fired))[:5]}")
