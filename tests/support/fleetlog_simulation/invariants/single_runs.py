"""Of tasks that are single runs of the same thing, one is under way at a time, by the order of the log."""

from __future__ import annotations

from fleetlog_simulation.books import Line
from fleetlog_simulation.in_flight import Dispatch, InFlight
from fleetlog_simulation.invariants import Violation


class SingleRuns:
    """Follows which tasks of each key are planned and have not ended."""

    def __init__(self, flights: InFlight) -> None:
        """Watch the log."""
        self._flights = flights
        self._seen = 0
        self._open: dict[str, list[str]] = {}
        """By key: task ids in the order in which they were planned."""

    def check(self) -> None:
        """Look at what was planned, dispatched and ended since the last step."""
        for line, dispatches in self._flights.since(self._seen):
            self._seen += 1
            if line.kind == "fleetlog.task.planned.v1":
                for plan in line.data["plans"]:
                    self._planned(plan["task_id"])
            elif line.kind == "fleetlog.task.ended.v1":
                self._ended(line)
            for one in dispatches:
                if not one.void:
                    self._dispatched(one)

    def _planned(self, task_id: str) -> None:
        spec = self._flights.specs[task_id]
        of_key = self._open.setdefault(spec.get("key", ""), [])
        if spec.get("single_run") == "refuse" and of_key:
            raise Violation(f"{task_id} was not refused although {of_key[0]} with its key had not ended")
        if spec.get("key") and task_id not in of_key:
            of_key.append(task_id)

    def _ended(self, line: Line) -> None:
        for one in line.data["tasks"]:
            of_key = self._open.get(self._flights.specs[one["task_id"]].get("key", ""), [])
            if one["task_id"] in of_key:
                of_key.remove(one["task_id"])

    def _dispatched(self, one: Dispatch) -> None:
        spec = self._flights.specs[one.task_id]
        if spec.get("single_run") not in ("queue", "replace"):
            return
        first = self._open[spec["key"]][0]
        if first != one.task_id:
            raise Violation(f"{one.task_id} was dispatched although the earlier run {first} of its key had not ended")

    def finish(self) -> None:
        """When all is quiet, no key is taken."""
        self.check()
        taken = {key: tasks for key, tasks in self._open.items() if tasks}
        if taken:
            raise Violation(f"still under way when all is quiet: {taken}")
