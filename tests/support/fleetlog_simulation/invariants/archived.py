"""Nothing leaves the bus that is not in the archive; archive and bus are the whole log; what must stay stays."""

from __future__ import annotations

from typing import Any

from fleetlog_simulation.books import Books
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.world import World, unpacked

PRUNED = {"evt.request", "evt.dispatch", "evt.result", "evt.tick", "evt.alert"}
_BEGINS, _ENDS = "fleetlog.task.submitted.v1", {"fleetlog.task.ended.v1": "tasks", "fleetlog.task.refused.v1": "refusals"}


class Archived:
    """Compares bus and archive with the simulation's own copy of the log, after every purge."""

    def __init__(self, world: World, books: Books) -> None:
        """Compare in this world."""
        self._world, self._books = world, books
        self._purges = 0

    def check(self) -> None:
        """Look after a purge."""
        if self._world.purges == self._purges:
            return
        self._purges = self._world.purges
        history, kept = self._world.history(), self._world.store.streams["EVENTS"].messages
        gone = [stored for stored in history if stored.seq not in kept]
        archived = {stored.seq: stored for stored in self._sealed()}
        for stored in gone:
            if archived.get(stored.seq) != stored:
                raise Violation(f"sequence {stored.seq} was pruned and no sealed segment holds it as it was")
            if stored.subject not in PRUNED:
                raise Violation(f"sequence {stored.seq} of {stored.subject} was pruned")
        last = {stored.subject: stored.seq for stored in history}
        for subject, seq in last.items():
            if seq not in kept:
                raise Violation(f"the last message of {subject}, {seq}, was pruned")
        first_open = min(self._open().values(), default=len(history) + 1)
        if gone and gone[-1].seq >= first_open:
            raise Violation(f"sequence {gone[-1].seq} was pruned although a task that began at {first_open} is open")

    def _sealed(self) -> list[Any]:
        """Return what the segments hold that the log says are sealed, each as its file gives it."""
        found: list[Any] = []
        for line in self._books.since(0):
            if line.kind != "fleetlog.segment.sealed.v1" or line.data["first_seq"] != len(found) + 1:
                continue  # a second one of the same part is void
            segment = unpacked(self._world.segments[line.data["first_seq"]])
            if segment.head.sealed.sha256 != line.data["sha256"]:
                raise Violation(f"the segment from {line.data['first_seq']} on is not what was sealed")
            found += segment.messages
        return found

    def _open(self) -> dict[str, int]:
        """Return the tasks that have no end in the books, and where each began."""
        began: dict[str, int] = {}
        ended: set[str] = set()
        for line in self._books.since(0):
            if line.kind == _BEGINS:
                for one in line.data["tasks"]:
                    if "part_of" not in one:  # a workflow is open for as long as its parts, and began before them
                        began.setdefault(one["task_id"], line.seq)
            elif line.kind in _ENDS:
                ended |= {one["task_id"] for one in line.data[_ENDS[line.kind]]}
        return {task_id: seq for task_id, seq in began.items() if task_id not in ended}

    def finish(self) -> None:
        """Read everything once more, as a service without a snapshot does."""
        found: list[Any] = []
        while page := self._world.read(len(found) + 1, 50):
            found += page
        if found != self._world.history():
            raise Violation(f"archive and bus together give {len(found)} messages that are not the log")
        self.check()
