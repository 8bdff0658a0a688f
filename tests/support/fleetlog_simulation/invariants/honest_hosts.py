"""A host that was never copied nor set back is never refused, however often its agent is killed.

Hosts that were rebooted are excused: a request of an earlier boot, never granted and seconds late, cannot be told from a
copy's, for boot clocks do not compare.
"""

from __future__ import annotations

from fleetlog_simulation.books import Books
from fleetlog_simulation.hosts import Machine
from fleetlog_simulation.invariants import Violation


class HonestHosts:
    """Compares the refusals in the log with the machines that there were."""

    def __init__(self, books: Books, machines: list[Machine]) -> None:
        """Watch both; *machines* grows."""
        self._books, self._machines = books, machines
        self._seen = 0
        self._doubted: set[str] = set()
        """Host ids for which an older state of a machine, or an earlier boot, may ever have spoken."""
        self._boots: dict[str, str] = {}

    def check(self) -> None:
        """Look at the sessions refused since the last step."""
        for machine in self._machines:
            if machine.stale or self._boots.setdefault(machine.host_id, machine.boot_id) != machine.boot_id:
                self._doubted.add(machine.host_id)
        for line in self._books.since(self._seen):
            self._seen += 1
            if line.kind != "fleetlog.host.session-refused.v1":
                continue
            for refusal in line.data["hosts"]:
                if refusal["host_id"] not in self._doubted:
                    raise Violation(f"{refusal['host_id']} was refused ({refusal['code']}), and is what it always was")

    def finish(self) -> None:
        """Nothing more than after every step."""
        self.check()
