"""Fold the events of one task with the lifecycle that every reader uses, and say when to stop.

Live progress and replay both come from here, so what a person watched is what replay shows later.
"""

from __future__ import annotations

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


class Fold:
    """The record of one task, event by event. Others' submissions are passed over, but for those of its parts."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self._tasks = records.Tasks(partial=True)
        self.last_seq = 0
        self.skipped: list[str] = []
        """What could not be read and was passed over, as every reader does; one line each."""

    @property
    def task(self) -> Task | None:
        """The task, once its submission was folded."""
        return self._tasks.by_id.get(self.task_id)

    @property
    def over(self) -> bool:
        """Whether nothing more can change its outcome."""
        return self.task is not None and self.task.state in (TaskState.ENDED, TaskState.REFUSED)

    def feed(self, stored: StoredRaw) -> list[Change]:
        """Fold one stored event and return what it changed of this task."""
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
            mine = tuple(one for one in event.data.tasks if self.task_id in (one.task_id, one.part_of and one.part_of.task_id))
            event = msgspec.structs.replace(event, data=events.TasksSubmitted(tasks=mine))
        changes = lifecycle.apply(self._tasks, event)
        return [change for change in changes if change.task.task_id == self.task_id]
