"""Every task whose submission was acknowledged ends or is refused, and its id stands in the log."""

from __future__ import annotations

from fleetlog_simulation.books import Books
from fleetlog_simulation.invariants import Violation


class TasksEnd:
    """Compares what users were told with the log."""

    def __init__(self, books: Books, acknowledged: set[str]) -> None:
        """Watch the log for *acknowledged*, which grows."""
        self._books, self._acknowledged = books, acknowledged

    def check(self) -> None:
        """Ends take time."""

    def open_tasks(self) -> set[str]:
        """Return the submitted tasks that have not ended."""
        submitted: set[str] = set()
        ended: set[str] = set()
        for line in self._books.since(0):
            if line.kind == "fleetlog.task.submitted.v1":
                submitted |= {one["task_id"] for one in line.data["tasks"] if "part_of" not in one}
            elif line.kind == "fleetlog.task.planned.v1":
                # A task of a part may be submitted too late, and then never is one: `Parts` judges that.
                submitted |= {one["task_id"] for one in line.data["plans"]}
            elif line.kind == "fleetlog.task.ended.v1":
                ended |= {one["task_id"] for one in line.data["tasks"]}
            elif line.kind == "fleetlog.task.refused.v1":
                ended |= {one["task_id"] for one in line.data["refusals"]}
        lost = self._acknowledged - submitted
        if lost:
            raise Violation(f"acknowledged and not in the log: {lost}")
        return submitted - ended

    def finish(self) -> None:
        """Nothing is open."""
        still = self.open_tasks()
        if still:
            raise Violation(f"never ended: {still}")
