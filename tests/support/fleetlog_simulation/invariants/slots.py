"""No host ever has more commands in flight than it has slots, by the log alone."""

from __future__ import annotations

from fleetlog_simulation.in_flight import InFlight
from fleetlog_simulation.invariants import Violation


class Slots:
    """Counts dispatches without an end, host by host."""

    def __init__(self, flights: InFlight, slots_per_host: int) -> None:
        """Watch the log."""
        self._flights, self._slots = flights, slots_per_host
        self._seen = 0

    def check(self) -> None:
        """Look at what was dispatched since the last step."""
        for _, dispatches in self._flights.since(self._seen):
            self._seen += 1
            for one in dispatches:
                if one.counts.get("host", 0) > self._slots:
                    count = one.counts["host"]
                    raise Violation(f"{count} commands in flight on {one.host_id}, which has {self._slots} slots")

    def finish(self) -> None:
        """When all is quiet, nothing is in flight."""
        self.check()
        left = {share: count for share, count in self._flights.counts.items() if count}
        if left:
            raise Violation(f"still in flight when all is quiet: {left}")
