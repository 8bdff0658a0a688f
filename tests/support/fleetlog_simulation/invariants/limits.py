"""No limit that tasks share, nor a task's own, is ever exceeded by what is dispatched."""

from __future__ import annotations

from fleetlog_simulation.in_flight import Dispatch, InFlight
from fleetlog_simulation.invariants import Violation


class Limits:
    """Counts what is in flight in each queue, task and key, and in all, when something is added.

    Only what is added can be wrong: a limit that is lowered stops nothing that is in flight.
    """

    def __init__(self, flights: InFlight, in_flight_max: int) -> None:
        """Watch the log."""
        self._flights, self._in_flight_max = flights, in_flight_max
        self._seen = 0
        self._queues: dict[str, int] = {}

    def check(self) -> None:
        """Look at what was limited and dispatched since the last step."""
        for line, dispatches in self._flights.since(self._seen):
            self._seen += 1
            if line.kind == "fleetlog.queue.limited.v1":
                self._queues[line.data["queue"]] = line.data["in_flight_max"]
            for one in dispatches:
                if not one.void:
                    self._judge(one)

    def _judge(self, one: Dispatch) -> None:
        spec = self._flights.specs[one.task_id]
        queue = spec.get("queue", "default")
        for share, what, most in (
            ("all", "in all", self._in_flight_max),
            ("queue", f"in the queue {queue}", self._queues.get(queue, 0)),
            ("task", f"of task {one.task_id}", spec.get("parallel", 0)),
            ("key", f"with the key {spec.get('key')}", spec.get("key_parallel", 0)),
        ):
            if most and one.counts.get(share, 0) > most:
                raise Violation(f"{one.counts[share]} commands in flight {what}, and at most {most} may be")

    def finish(self) -> None:
        """Nothing more than after every step."""
        self.check()
