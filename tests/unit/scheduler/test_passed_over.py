"""What the scheduler passes over says nothing to it: folded in full, it would change nothing either."""

from __future__ import annotations

from importlib import resources

import msgspec
import pytest

from fleetlog_runtime.pure.settings import SchedulerSettings
from fleetlog_scheduler import state as folding
from fleetlog_scheduler.unit import Scheduler
from fleetlog_schemas import codec, events

GOLDEN = resources.files("fleetlog_schemas") / "golden"
UNIT = Scheduler(SchedulerSettings())


@pytest.mark.parametrize("name", sorted(events.NAMES[one] for one in UNIT.passes_over))
def test_what_is_passed_over_would_change_nothing(name: str) -> None:
    state = UNIT.initial()
    for task in ("fleetlog.schedule.registered.v1", "fleetlog.tick.decided.v1", "fleetlog.definition.set.v1"):
        folding.fold(state, codec.decode((GOLDEN / f"{task}.json").read_bytes(), seq=1))
    before = msgspec.msgpack.encode(state)
    assert folding.fold(state, codec.decode((GOLDEN / f"{name}.json").read_bytes(), seq=2)) == ()
    assert msgspec.msgpack.encode(state) == before
