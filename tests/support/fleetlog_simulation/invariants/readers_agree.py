"""Every reader of the log reaches the same state, kept or rebuilt, and an end that stands never changes."""

from __future__ import annotations

import msgspec

from fleetlog_dispatcher import state as folding
from fleetlog_dispatcher.state import State
from fleetlog_schemas import lifecycle, records
from fleetlog_simulation.books import Books
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.services import SimDispatcher, decode
from fleetlog_simulation.world import World

_encode = msgspec.json.Encoder(order="deterministic").encode


class ReadersAgree:
    """Folds the log anew and compares it with what the running readers hold."""

    def __init__(self, world: World, books: Books, dispatchers: list[SimDispatcher]) -> None:
        """Compare these dispatchers."""
        self._world, self._books, self._dispatchers = world, books, dispatchers
        self._watched = 0

    def check(self) -> None:
        """A snapshot stands at the end of a batch."""
        for dispatcher in self._dispatchers:
            if dispatcher.snapshot is not None and not self._world.history()[dispatcher.snapshot[1] - 1].batch_end:
                raise Violation(f"{dispatcher.name} took a snapshot inside a batch, at {dispatcher.snapshot[1]}")

    def finish(self) -> None:
        """Fold everything once more."""
        everything = [decode(one) for one in self._world.history()]
        for dispatcher in self._dispatchers:
            fresh = State()
            for event in everything[: dispatcher.engine.position]:
                folding.fold(fresh, event)
            if _encode(fresh) != _encode(dispatcher.engine.state):
                raise Violation(f"{dispatcher.name} holds another state than the log gives")
        self._ends_stand(everything)

    def _ends_stand(self, everything: list[lifecycle.Event]) -> None:
        tasks = records.Tasks()
        for event in everything:
            lifecycle.apply(tasks, event)
        self._books.since(0)
        for (task_id, host_id, number), (_, end) in self._books.first_end.items():
            command = tasks.by_id[task_id].commands.get(host_id)
            if command is None or number > len(command.attempts):
                continue
            standing = command.attempts[number - 1].end
            if standing is not None and standing.outcome.value != end["outcome"]:
                raise Violation(f"the first end of {task_id} on {host_id} was {end['outcome']}, not {standing.outcome}")
