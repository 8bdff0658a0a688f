"""What is held back does not start: of a paused, halted or stopped task, on a frozen host, in a blackout.

A pause, a halt and a freeze hold from their place in the log, whatever was decided before. A blackout opens and closes
by time: what is decided around these moments may rest on the last look at the clock.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from fleetlog_simulation.books import Line
from fleetlog_simulation.in_flight import EARLY, UNAPPROVED, Dispatch, InFlight
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import World

LOOK_MS = 1_000
"""How long ago the dispatcher's last look at the windows may be."""
DAY = dt.timedelta(days=1)


class Holds:
    """Follows freezes and windows by the log, and compares what ran with the dispatches that took effect."""

    def __init__(self, world: World, flights: InFlight) -> None:
        """Watch both."""
        self._world, self._flights = world, flights
        self._seen = self._ran = 0
        self._labels: dict[str, dict[str, str]] = {}
        self._freezes: dict[str, str] = {}
        self._windows: dict[str, dict[str, Any]] = {}

    def check(self) -> None:
        """Look at what was held, dispatched and started since the last step."""
        for line, dispatches in self._flights.since(self._seen):
            self._seen += 1
            self._note(line)
            for one in dispatches:
                if not one.void:
                    self._judge(line, one)
        for run in self._world.executions[self._ran :]:
            self._ran += 1
            void = self._flights.void((run.task_id, run.host_id, run.attempt))
            if void is not None and not {EARLY, UNAPPROVED} & set(void):
                why = ", ".join(void) or "not dispatched"
                raise Violation(f"attempt {run.attempt} of {run.task_id} ran on {run.host_id} although it was {why}")

    def _note(self, line: Line) -> None:
        data = line.data
        match line.kind:
            case "fleetlog.access.host-enrolled.v1":
                self._labels[data["host_id"]] = data["labels"]
            case "fleetlog.fleet.frozen.v1":
                self._freezes[data["freeze_id"]] = data["target"]
            case "fleetlog.fleet.thawed.v1":
                self._freezes.pop(data["freeze_id"], None)
            case "fleetlog.window.set.v1":
                self._windows[data["name"]] = data["window"]
            case "fleetlog.window.removed.v1":
                self._windows.pop(data["name"], None)

    def _judge(self, line: Line, one: Dispatch) -> None:
        for target in self._freezes.values():
            if self._means(target, one.host_id):
                raise Violation(f"{one.task_id} was dispatched to {one.host_id}, which is frozen")
        if self._flights.specs[one.task_id].get("ignore_windows"):
            return
        for name, window in self._windows.items():
            if self._means(window["target"], one.host_id) and was_open(window, line.said_ms):
                raise Violation(f"{one.task_id} was dispatched to {one.host_id} in the blackout {name}")

    def _means(self, target: str, host_id: str) -> bool:
        key, _, value = target.partition("=")
        return target in ("all", host_id) or (bool(value) and self._labels[host_id].get(key) == value)

    def finish(self) -> None:
        """Nothing more than after every step."""
        self.check()


def was_open(window: dict[str, Any], now_ms: int) -> bool:
    """Tell whether a window in UTC was open for as long as a look at the clock may be ago."""
    now = dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)
    hour, minute = map(int, window["begins"].split(":"))
    for back in range(9):
        begins = (now - back * DAY).replace(hour=hour, minute=minute, second=0, microsecond=0)
        ends = begins + dt.timedelta(minutes=window["lasts_minutes"])
        if begins.weekday() in window["days"] and begins + dt.timedelta(milliseconds=LOOK_MS) < now < ends:
            return True
    return False
