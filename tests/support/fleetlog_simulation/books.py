"""The simulation's own naive books of the log: plain dictionaries of what each event said, in order.

They know nothing of the lifecycle: what an invariant says must not rest on the code that it judges.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import msgspec

from fleetlog_runtime.pure.bus import Batch
from fleetlog_schemas import events
from fleetlog_simulation.world import World

AttemptId = tuple[str, str, int]
"""Task, host, number."""


class Line(NamedTuple):
    """One event as it was stored."""

    seq: int
    subject: str
    time_ms: int
    kind: str
    data: dict[str, Any]
    said: str = ""
    """When its author says that it happened (RFC 3339): for a decision, when it was decided."""
    batch_end: bool = True

    @property
    def said_ms(self) -> int:
        """The same in Unix milliseconds."""
        return round(dt.datetime.fromisoformat(self.said).timestamp() * 1000)


class Books:
    """Every event that was stored so far."""

    def __init__(self, world: World) -> None:
        """Begin with the first event."""
        self._world = world
        self.lines: list[Line] = []
        self.first_end: dict[AttemptId, tuple[Line, dict[str, Any]]] = {}
        self.reported_end: dict[AttemptId, dict[str, Any]] = {}

    def since(self, count: int) -> list[Line]:
        """Return the lines after the first *count*, having read what is new."""
        if len(self.lines) < self._world.stored:
            self._read()
        return self.lines[count:]

    def _read(self) -> None:
        for stored in self._world.history()[len(self.lines) :]:
            event = msgspec.json.decode(stored.body)
            line = Line(
                stored.seq, stored.subject, stored.time_ms, event["type"], event["data"], event["time"], stored.batch_end
            )
            self.lines.append(line)
            if line.kind == "fleetlog.attempt.ended.v1":
                for end in line.data["attempts"]:
                    key = attempt_id(end)
                    self.first_end.setdefault(key, (line, end))
                    if line.subject == "evt.result":
                        self.reported_end.setdefault(key, end)

    def entries(self, kind: type[events.Data], **fields: object) -> list[dict[str, Any]]:
        """Return every entry of events of *kind* that has these *fields*, in the order of the log."""
        return [one for line in self.since(0) for one in _matching(line.kind, line.data, kind, fields)]

    def counter_seen(self, host_id: str) -> int:
        """Return the highest journal counter that the log has of a host since a person last accepted it."""
        highest = 0
        for line in self.since(0):
            if _accepts(line, host_id):
                highest = 0
            highest = max(highest, line.data.get("counters", {}).get(host_id, 0))
            for session in line.data.get("sessions", ()):
                if session["host_id"] == host_id:
                    highest = max(highest, session["counter"])
        return highest

    def epoch_used(self, host_id: str) -> int:
        """Return the newest session of a host whose ticket was used, by the log, since a person last accepted it."""
        newest = 0
        for line in self.since(0):
            if _accepts(line, host_id):
                newest = 0
            elif line.kind == "fleetlog.host.online.v1":
                newest = max(newest, *(one["epoch"] for one in line.data["hosts"] if one["host_id"] == host_id), 0)
        return newest


def _accepts(line: Line, host_id: str) -> bool:
    """Whether a person lets a host in again with this: from here on it may be anything that it once was."""
    return line.kind == "fleetlog.host.accepted.v1" and line.data["host_id"] == host_id


def attempt_id(entry: dict[str, Any]) -> AttemptId:
    """Return which attempt an entry is about."""
    return entry["task_id"], entry["host_id"], entry["attempt"]


def entries_of(batch: Batch, kind: type[events.Data], **fields: object) -> list[dict[str, Any]]:
    """Return every entry of *kind* that has these *fields* in a batch, which may never have been stored."""
    drafted = [msgspec.json.decode(draft.body) for draft in batch.drafts]
    return [one for event in drafted for one in _matching(event["type"], event["data"], kind, fields)]


def _matching(
    name: str, data: dict[str, Any], kind: type[events.Data], fields: dict[str, object]
) -> list[dict[str, Any]]:
    """An event about many things has a list of entries; one about a single thing is its own entry."""
    if name != events.NAMES[kind]:
        return []
    listed = [one for value in data.values() if isinstance(value, list) for one in value if isinstance(one, dict)]
    return [entry for entry in listed or [data] if all(entry.get(field) == value for field, value in fields.items())]
