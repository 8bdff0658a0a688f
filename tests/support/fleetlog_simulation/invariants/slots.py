"""No host ever has more commands in flight than it has slots, by the log alone."""

from __future__ import annotations

from fleetlog_simulation.books import AttemptId, Books, attempt_id
from fleetlog_simulation.invariants import Violation


class Slots:
    """Counts dispatches without an end."""

    def __init__(self, books: Books, slots_per_host: int) -> None:
        """Watch the log."""
        self._books, self._slots = books, slots_per_host
        self._seen = 0
        self._open: dict[str, set[AttemptId]] = {}
        self._ended: set[AttemptId] = set()
        self._stopped: set[tuple[str, str]] = set()
        self._tasks_stopped: set[str] = set()

    def check(self) -> None:
        """Look at the events stored since the last step."""
        for line in self._books.since(self._seen):
            self._seen += 1
            if line.kind == "fleetlog.task.cancel-requested.v1":
                hosts = line.data.get("host_ids", ())
                self._stopped.update((line.data["task_id"], host_id) for host_id in hosts)
                if not hosts:
                    self._tasks_stopped.add(line.data["task_id"])
            elif line.kind == "fleetlog.task.timed-out.v1":
                self._tasks_stopped.update(line.data["task_ids"])
            elif line.kind == "fleetlog.attempt.ended.v1":
                for end in line.data["attempts"]:
                    self._ended.add(attempt_id(end))
                    self._open.get(end["host_id"], set()).discard(attempt_id(end))
            elif line.kind == "fleetlog.attempt.dispatched.v1":
                for entry in line.data["attempts"]:
                    self._dispatched(entry["host_id"], attempt_id(entry))

    def _dispatched(self, host_id: str, key: AttemptId) -> None:
        if key in self._ended or key[0] in self._tasks_stopped or key[:2] in self._stopped:
            return  # void: it came after what forbids it
        in_flight = self._open.setdefault(host_id, set())
        in_flight.add(key)
        if len(in_flight) > self._slots:
            raise Violation(f"{len(in_flight)} commands in flight on {host_id}, which has {self._slots} slots")

    def finish(self) -> None:
        """When all is quiet, nothing is in flight."""
        self.check()
        left = {host_id: keys for host_id, keys in self._open.items() if keys}
        if left:
            raise Violation(f"still in flight when all is quiet: {left}")
