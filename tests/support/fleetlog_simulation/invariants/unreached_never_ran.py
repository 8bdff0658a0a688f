"""What the log says never ran, never ran; what it says ran, ran."""

from __future__ import annotations

from fleetlog_simulation.books import Books
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import World


class UnreachedNeverRan:
    """Compares the first end of each attempt with the processes."""

    def __init__(self, world: World, books: Books) -> None:
        """Watch both."""
        self._world, self._books = world, books

    def check(self) -> None:
        """Only the whole history can be judged."""

    def finish(self) -> None:
        """Look at every attempt."""
        self._books.since(0)
        ran = {(run.task_id, run.host_id, run.attempt) for run in self._world.executions}
        for key, (_, end) in self._books.first_end.items():
            if end["ran"] == "no" and key in ran:
                raise Violation(f"attempt {key} is said to be {end['outcome']}, never ran, and it ran")
            if end["ran"] == "yes" and key not in ran:
                raise Violation(f"attempt {key} is said to be {end['outcome']}, and it never ran")
