"""A command never runs in two attempts at once, nor twice in one attempt."""

from __future__ import annotations

from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import Execution, World


class RunsOnce:
    """Judged by the processes that the machines really started."""

    def __init__(self, world: World) -> None:
        """Watch *world*."""
        self._world = world
        self._seen = 0
        self._by_command: dict[tuple[str, str], list[Execution]] = {}

    def check(self) -> None:
        """Look at the processes started since the last step."""
        for run in self._world.executions[self._seen :]:
            earlier = self._by_command.setdefault((run.task_id, run.host_id), [])
            for other in earlier:
                if other.attempt == run.attempt:
                    raise Violation(f"attempt {run.attempt} of {run.task_id} ran twice on {run.host_id}")
                if other.ended_ms is None or other.ended_ms > run.started_ms:
                    raise Violation(f"two attempts of {run.task_id} ran at once on {run.host_id}")
            earlier.append(run)
        self._seen = len(self._world.executions)

    def finish(self) -> None:
        """Nothing more than after every step."""
        self.check()
