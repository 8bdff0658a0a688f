"""Nothing that runs is given up as lost before its time and every grace are over: that would free what it still holds."""

from __future__ import annotations

from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_simulation.books import AttemptId, Line, attempt_id
from fleetlog_simulation.in_flight import InFlight
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import Execution, World


class Patience:
    """Compares ends that were decided with the processes that the machines really ran.

    A host that was refused is excused: its word counts for nothing, so what it runs is given up at once.
    """

    def __init__(self, world: World, flights: InFlight, settings: DispatcherSettings) -> None:
        """Watch both."""
        self._world, self._flights, self._settings = world, flights, settings
        self._seen = self._ran = 0
        self._runs: dict[AttemptId, Execution] = {}
        self._started: set[AttemptId] = set()
        self._refused: set[str] = set()

    def check(self) -> None:
        """Look at what was started and given up since the last step."""
        for run in self._world.executions[self._ran :]:
            self._ran += 1
            self._runs[run.task_id, run.host_id, run.attempt] = run
        for line, _ in self._flights.since(self._seen):
            self._seen += 1
            if line.kind == "fleetlog.host.session-refused.v1":
                self._refused |= {one["host_id"] for one in line.data["hosts"]}
            elif line.kind == "fleetlog.attempt.started.v1":
                self._started |= {attempt_id(one) for one in line.data["attempts"]}
            elif line.kind == "fleetlog.attempt.ended.v1" and line.subject == "evt.dispatch":
                for end in line.data["attempts"]:
                    if end["outcome"] == "lost" and end["host_id"] not in self._refused:
                        self._given_up(line, attempt_id(end))

    def _given_up(self, line: Line, key: AttemptId) -> None:
        run = self._runs.get(key)
        if run is None or (run.ended_ms is not None and run.ended_ms <= line.said_ms):
            return
        dispatched_ms = min(one.time_ms for one, entry in self._flights.dispatches[key] if not entry.void)
        settings, spec = self._settings, self._flights.specs[key[0]]
        owed_ms = spec.get("timeout_ms", 3_600_000) + settings.kill_grace_ms + settings.end_grace_ms
        if key not in self._started:
            # Nobody may have heard of it: then it is offered to the host for a time, and given up after that.
            owed_ms = min(owed_ms, settings.delivery_grace_ms + settings.end_grace_ms)
        if line.said_ms < dispatched_ms + owed_ms:
            early_ms = dispatched_ms + owed_ms - line.said_ms
            raise Violation(f"attempt {key[2]} of {key[0]} runs on {key[1]}, and was given up {early_ms} ms too early")

    def finish(self) -> None:
        """Nothing more than after every step."""
        self.check()
