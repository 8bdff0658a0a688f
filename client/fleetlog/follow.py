"""Fold the events of one task with the lifecycle that every reader uses, and say when to stop.

Live progress and replay both come from here, so what a person watched is what replay shows later.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from fleetlog_schemas import codec, events, lifecycle, records
from fleetlog_schemas.records import Change, Task, TaskState


class StoredRaw(msgspec.Struct, frozen=True):
    """A stored event whose CloudEvent is still bytes, as the codec wants it."""

    seq: int
    subject: str
    stored_at: str
    event: msgspec.Raw


decode_stored = msgspec.json.Decoder(StoredRaw).decode


class Folds:
    """The records of some tasks, event by event. Others' submissions are passed over, but for those of their parts."""

    def __init__(self, task_ids: Collection[str]) -> None:
        """Fold these tasks."""
        self._wanted = frozenset(task_ids)
        self.tasks = records.Tasks(partial=True)
        self.last_seq = 0
        self.skipped: list[str] = []
        """What could not be read and was passed over, as every reader does; one line each."""
        self._over: set[str] = set()

    def changes(self, stored: StoredRaw) -> list[Change]:
        """Fold one stored event and return what it changed of these tasks."""
        if stored.seq <= self.last_seq:
            return []  # a resumed feed may repeat
        self.last_seq = stored.seq
        try:
            event = codec.decode(
                bytes(stored.event), seq=stored.seq, subject=stored.subject,
                time_ms=codec.parse_rfc3339(stored.stored_at),
            )
        except (codec.TooNew, codec.Malformed) as error:
            self.skipped.append(f"event {stored.seq}: {error}")
            return []
        if isinstance(event.data, events.TasksSubmitted):
            mine = tuple(one for one in event.data.tasks if one.task_id in self._wanted or (one.part_of and one.part_of.task_id in self._wanted))
            event = msgspec.structs.replace(event, data=events.TasksSubmitted(tasks=mine))
        return [change for change in lifecycle.apply(self.tasks, event) if change.task.task_id in self._wanted]

    def feed(self, stored: StoredRaw) -> list[Task]:
        """Fold one stored event and return those tasks that are over by it."""
        ended = {change.task.task_id: change.task for change in self.changes(stored) if is_over(change.task)}
        fresh = [task for task_id, task in ended.items() if task_id not in self._over]
        self._over.update(ended)
        return fresh


def is_over(task: Task) -> bool:
    """Tell whether nothing more can change a task's outcome."""
    return task.state in (TaskState.ENDED, TaskState.REFUSED)


class Fold:
    """The record of one task, event by event."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self._folds = Folds((task_id,))

    @property
    def task(self) -> Task | None:
        """The task, once its submission was folded."""
        return self._folds.tasks.by_id.get(self.task_id)

    @property
    def over(self) -> bool:
        """Whether nothing more can change its outcome."""
        return self.task is not None and is_over(self.task)

    @property
    def last_seq(self) -> int:
        """The sequence of the last event that was folded."""
        return self._folds.last_seq

    @property
    def skipped(self) -> list[str]:
        """What could not be read and was passed over; one line each."""
        return self._folds.skipped

    def feed(self, stored: StoredRaw) -> list[Change]:
        """Fold one stored event and return what it changed of this task."""
        return self._folds.changes(stored)
