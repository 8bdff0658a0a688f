"""What the keeper knows from the log, and nothing else: the archive, the open tasks, where each subject ends, what is wrong.

`fold` is the only thing that changes it; only this is snapshotted.
"""

from __future__ import annotations

import msgspec

from fleetlog_keeper import watch as watching
from fleetlog_keeper.watch import Watch
from fleetlog_schemas import archive, lifecycle, records
from fleetlog_schemas.codec import Event
from fleetlog_schemas.events import PASSED_OVER


class State(msgspec.Struct):
    """The folded log."""

    archive: archive.Archive = msgspec.field(default_factory=archive.Archive)
    pruned_from: int = 1
    """Where the last pruning began: the sequence after the one before it."""
    tasks: records.Tasks = msgspec.field(default_factory=lambda: records.Tasks(outline=True))
    """Those that are open."""
    last_by_subject: dict[str, int] = {}
    """Subject to a sequence that it surely has reached: messages below it are never its last."""
    position: int = 0
    watch: Watch = msgspec.field(default_factory=Watch)


def fold(state: State, event: Event) -> tuple[str, ...]:
    """Fold one event; return the names of the schedules that it touched."""
    state.position = event.seq
    state.last_by_subject[event.subject] = event.seq
    if event.data is PASSED_OVER:
        return ()
    before = state.archive.pruned_through
    archive.apply(state.archive, event)
    if state.archive.pruned_through != before:
        state.pruned_from = before + 1
    changes = lifecycle.apply(state.tasks, event)
    touched = watching.fold(state.watch, event, changes)
    for change in changes:
        if change.what in ("refused", "task-ended"):
            state.tasks.evict(change.task.task_id)
    return touched


def oldest_open(state: State) -> records.Task | None:
    """Return the open task that was submitted first."""
    # In the order of their submission, as the log has them: the first is the oldest.
    return next(iter(state.tasks.by_id.values()), None)
