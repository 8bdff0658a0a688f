"""A copied or rolled-back host runs nothing until a person accepts it."""

from __future__ import annotations

from fleetlog_simulation.hosts import Machine
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import World


class CopiesRunNothing:
    """Watches machines that the log has moved beyond."""

    def __init__(self, world: World, machines: list[Machine]) -> None:
        """Watch *machines*, which grows."""
        self._world, self._machines = world, machines
        self._seen = 0

    def check(self) -> None:
        """Look at the processes started since the last step."""
        stale = {machine.name for machine in self._machines if machine.stale}
        for run in self._world.executions[self._seen :]:
            if run.machine in stale:
                raise Violation(f"the copy {run.machine} of {run.host_id} ran {run.task_id}")
        self._seen = len(self._world.executions)

    def finish(self) -> None:
        """Nothing more than after every step."""
        self.check()
