"""The projection that was kept through kills equals the one that is rebuilt from the log."""

from __future__ import annotations

from fleetlog_reporter.apply import Projector
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.reporter import SimReporter, tables_of
from fleetlog_simulation.world import World


class ProjectionAgrees:
    """Compares the rows, table by table and in order."""

    def __init__(self, world: World, reporter: SimReporter) -> None:
        """Compare the rows of *reporter*."""
        self._world, self._reporter = world, reporter

    def check(self) -> None:
        """Only when all is quiet have both read everything."""

    def finish(self) -> None:
        """Fold the whole log once more."""
        self._reporter.catch_up()
        fresh = Projector()
        for stored in self._world.history():
            fresh.fold(stored)
        rebuilt = tables_of(fresh.take(), {})
        for name, kept in self._reporter.tables.items():
            if kept != rebuilt[name]:
                raise Violation(f"table {name}: {len(kept)} rows kept, {len(rebuilt[name])} rebuilt, not the same")
        if fresh.open_state() != self._reporter.projector.open_state():
            raise Violation("what is open differs between the kept and the rebuilt projection")
