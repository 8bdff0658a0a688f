"""A restored log fires no schedule before a person has looked."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from fleetlog_runtime.shell import restore
from fleetlog_schemas import codec, events
from fleetlog_schemas.schedule_events import Rule, SchedulePaused, ScheduleRegistered


def test_every_schedule_that_would_fire_is_paused_and_one_that_would_not_keeps_its_reason() -> None:
    known = restore._Open()
    rule = Rule(kind="interval", definition="d", interval_ms=60_000)
    happened = [ScheduleRegistered(name=name, rule=rule, active=name != "off") for name in ("on", "off", "held", "short")]
    for seq, data in enumerate((*happened, SchedulePaused("held", "mine"), SchedulePaused("short", "mine", 10**13)), 1):
        known.fold(codec.Event(id=f"e{seq}", source="/t", data=data, time_ms=1_000_000 + seq, seq=seq, subject=events.SCHEDULE))
    stored: list[Any] = []

    class Bus:
        async def append(self, batch: Any) -> None:
            stored.extend(batch.drafts)

    manifest: Any = SimpleNamespace(made_at="2026-01-01T00:00:00Z")
    bus: Any = Bus()
    restored = asyncio.run(restore._tell(bus, manifest, 6, known))
    told = [codec.decode(one.body, seq=9, subject=one.subject, time_ms=1).data for one in stored]
    assert {one.subject for one in stored} == {events.SCHEDULE}
    assert [one.name for one in told if isinstance(one, SchedulePaused) and not one.until_ms] == ["on", "short"]
    assert all("2026-01-01" in one.reason for one in told if isinstance(one, SchedulePaused))
    assert restored.schedules_paused == 2
