"""Whatever ran is reported: no result is lost between a process and the log."""

from __future__ import annotations

from fleetlog_simulation.books import Books
from fleetlog_simulation.hosts import Machine
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import World


class ResultsKept:
    """Every process that was started has an end that its host reported, at the latest when all is quiet."""

    def __init__(self, world: World, books: Books, machines: list[Machine]) -> None:
        """Watch both. A machine that was restored to an older state is excused: its disk is gone, and its name."""
        self._world, self._books, self._machines = world, books, machines

    def check(self) -> None:
        """Reports take time."""

    def finish(self) -> None:
        """Look at every process."""
        self._books.since(0)
        names = {machine.name for machine in self._machines}
        for run in self._world.executions:
            if run.machine not in names:
                continue
            if (run.task_id, run.host_id, run.attempt) not in self._books.reported_end:
                raise Violation(f"attempt {run.attempt} of {run.task_id} ran on {run.host_id} and was never reported")
