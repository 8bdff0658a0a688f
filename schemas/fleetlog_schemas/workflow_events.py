"""The stored events of workflows: what the dispatcher decided about their parts.

Part of the format that `events.py` begins, by the same rules. The tasks of a part are submitted on `evt.dispatch` too, as
`TasksSubmitted` with `part_of`; when the last of them has ended, so has the part, and no event is needed to say so.
"""

from __future__ import annotations

from typing import Literal

from fleetlog_schemas.events import DISPATCH, Data, event
from fleetlog_schemas.outcomes import Outcome


class PartDecision(Data, frozen=True):
    """What becomes of one part."""

    task_id: str
    """The workflow."""
    part: str
    decision: Literal["begun", "ended"]
    """It begins, and its tasks follow; or it ends without (further) tasks."""
    items: int = 1
    """As many tasks follow."""
    outcome: Outcome | None = None
    """With which it ends."""
    reason: str = ""
    """Why it ends so: a stable word (`after`, `no-items`, `value`, `cancelled` ...); see the glossary."""
    message: str = ""
    """The same for people."""


@event("fleetlog.workflow.parts-decided.v1", DISPATCH, "dispatcher", "dispatcher", "reporter", minreader=2)
class PartsDecided(Data, frozen=True):
    """Parts of workflows begin, or end without having run."""

    parts: tuple[PartDecision, ...]
