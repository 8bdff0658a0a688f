"""A wave begins when every command of the earlier ones has ended for good, its soak time is over, and it was approved."""

from __future__ import annotations

from fleetlog_simulation.in_flight import EARLY, UNAPPROVED, InFlight
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import World


class Waves:
    """Looks at when waves are dispatched, and at the processes of those that may not begin."""

    def __init__(self, world: World, flights: InFlight) -> None:
        """Watch both."""
        self._world, self._flights = world, flights
        self._seen = self._ran = 0

    def check(self) -> None:
        """Look at what was dispatched and started since the last step."""
        for line, dispatches in self._flights.since(self._seen):
            self._seen += 1
            for one in dispatches:
                soak_ms = self._flights.specs[one.task_id].get("rollout", {}).get("soak_ms", 0)
                if not one.void and one.wave and line.time_ms < one.turn_ms + soak_ms:
                    early_ms = one.turn_ms + soak_ms - line.time_ms
                    raise Violation(f"wave {one.wave + 1} of {one.task_id} began {early_ms} ms before its soak time was over")
        for run in self._world.executions[self._ran :]:
            self._ran += 1
            why = {EARLY, UNAPPROVED} & set(self._flights.void((run.task_id, run.host_id, run.attempt)) or ())
            if why:
                raise Violation(f"{run.task_id} ran on {run.host_id} although its wave could not begin: {', '.join(why)}")

    def finish(self) -> None:
        """Nothing more than after every step."""
        self.check()
