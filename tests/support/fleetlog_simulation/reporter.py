"""The reporter in the simulated world: its pure fold, tables that are lists, transactions, and kills between them."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_reporter import rows
from fleetlog_reporter.apply import Batch, OpenState, Projector
from fleetlog_schemas import events, lifecycle
from fleetlog_simulation.world import World

Tables = dict[str, list[Any]]
Known = dict[tuple[str, str, int], list[events.End]]
"""The ends of each attempt that the tables hold, the standing one first."""


def tables_of(batch: Batch, known: Known) -> Tables:
    """Return the rows that a transaction would write; a late end that the tables hold already is none."""
    for ended in batch.ended:
        for command in ended.task.commands.values():
            for attempt in command.attempts:
                if attempt.end is not None:
                    known.setdefault((ended.task.task_id, command.host_id, attempt.number), []).insert(0, attempt.end)
    late = []
    # Within one event the order says nothing, and it differs with what was still in memory.
    for one in sorted(batch.late, key=lambda one: (one.seq, one.end.task_id, one.end.host_id, one.end.attempt)):
        others = known.setdefault((one.end.task_id, one.end.host_id, one.end.attempt), [])
        if not any(lifecycle.same_end(one.end, other) for other in others):
            others.append(one.end)
            late.append((one.seq, one.end))
    return {
        "late": late,
        "events": list(batch.events),
        "parked": list(batch.parked),
        "tasks": [(one.task.task_id, one.task.ended_seq, rows.task_row(one.task)) for one in batch.ended],
        "attempts": [row for ended in batch.ended for row in rows.attempt_rows(ended.task, ended.stopped)],
    }


class SimReporter:
    """One reporter process and its file."""

    def __init__(self, world: World) -> None:
        """Start with an empty file."""
        self.world = world
        self.tables: Tables = {name: [] for name in tables_of(Batch(), {})}
        self._known: Known = {}
        self.position = 0
        self.open_state: bytes | None = None
        self.projector = Projector()
        self.alive = True
        self._due = False
        world.stored_listeners.append(self.poll_soon)

    def kill(self) -> None:
        """Kill it; it comes back by itself from its file."""
        self.alive = False
        self.world.after(self.world.random.randint(100, 20_000), self._revive)

    @property
    def would_read_from(self) -> int:
        """The sequence after which it would read on if it were killed now."""
        return msgspec.json.decode(self.open_state, type=OpenState).position if self.open_state is not None else 0

    def _revive(self) -> None:
        self.projector = Projector(written_through=self.position)
        if self.open_state is not None:
            state = msgspec.json.decode(self.open_state, type=OpenState)
            closed = [task_id for task_id, ended_seq, _ in self.tables["tasks"] if ended_seq <= state.position]
            self.projector.restore(state, closed)
        self.alive = True
        self.poll_soon()

    def poll_soon(self) -> None:
        """Read the log before long."""
        if self.alive and not self._due:
            self._due = True
            self.world.after(self.world.random.randint(0, 60), self._poll)

    def _poll(self) -> None:
        self._due = False
        if not self.alive or self.world.bus_down:
            return
        chunk = self.world.read(self.projector.position + 1, self.world.random.choice((1, 5, 500)))
        while chunk and not chunk[-1].batch_end:
            chunk.pop()  # the log reader releases whole batches only
        if not chunk:
            chunk = self.world.read(self.projector.position + 1, 1_000)
        for stored in chunk:
            self.projector.fold(stored)
        if chunk:
            self._write()
            self.poll_soon()

    def _write(self) -> None:
        if self.projector.position <= self.position or self.world.chance(0.5):
            return  # still refolding what the tables hold, or gathering more into one transaction
        batch = self.projector.take()
        if self.world.chance(self.world.faults.kill_at_effect * 5):
            self.kill()
            return
        for name, written in tables_of(batch, self._known).items():
            self.tables[name] += written
        self.position = batch.position
        if self.world.chance(0.3):
            self.open_state = self.projector.open_state()
        self.projector.written(batch)

    def catch_up(self) -> None:
        """Read and write everything that there is."""
        while chunk := self.world.read(self.projector.position + 1, 1_000_000):
            for stored in chunk:
                self.projector.fold(stored)
        batch = self.projector.take()
        for name, written in tables_of(batch, self._known).items():
            self.tables[name] += written
        self.position = batch.position
