"""What is asked of the reporter about the ledger of schedules, and what it answers."""

from __future__ import annotations

import msgspec

from fleetlog_schemas.questions import AsOf


class TicksQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`ticks`: what became of the ticks of schedules, newest decision first. Answer: Page of TickView."""

    schedule: str = ""
    outcome: str = ""
    """fired, missed, skipped or queued."""
    since_ms: int = 0
    """Only ticks of this time or later, by the time that the rule names."""
    until_ms: int = 0
    """Only ticks before this."""
    limit: int = 50
    cursor: str = ""


class TickView(msgspec.Struct, frozen=True):
    """What became of one tick, or of several in a row that met the same fate."""

    schedule: str
    nominal_at: str
    """The time that the rule names; of several, the first."""
    until: str | None
    """Of several, the last."""
    count: int
    more: bool
    """There were more than could be counted."""
    outcome: str
    reason: str
    message: str
    task_id: str | None
    task_outcome: str | None
    """How its task ended; null: it has not, or there is none."""
    version: int | None
    """The definition's version that was run."""
    decided_at: str
    backfill: bool
    seq: int
