"""The keeper passes over what happens to attempts: it knows which tasks are open as well as who reads all of it."""

from __future__ import annotations

import json
from importlib import resources

import msgspec
import pytest

from fleetlog_keeper.state import State
from fleetlog_keeper.unit import Keeper
from fleetlog_runtime.pure.engine import Engine
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_schemas import codec, events, lifecycle, records

GOLDEN = resources.files("fleetlog_schemas") / "golden"


def keeper() -> Engine[State, object]:
    return Engine(Keeper(KeeperSettings()), "/fleetlog/keeper/test", lambda: "id")


def test_a_task_is_open_for_the_keeper_just_as_long_as_for_who_reads_everything() -> None:
    whole, engine = records.Tasks(), keeper()
    open_at = []
    for row in json.loads((GOLDEN / "trace.json").read_bytes()):
        event = codec.decode(
            json.dumps(row["event"]).encode(), seq=row["seq"], subject=row["subject"],
            time_ms=codec.parse_rfc3339(row["stored_at"]),
        )
        for change in lifecycle.apply(whole, event):
            if change.what == "task-ended":
                whole.evict(change.task.task_id)
        engine.deliver([event], event.time_ms)
        assert list(engine.state.tasks.by_id) == list(whole.by_id)
        assert engine.state.last_by_subject[event.subject] == engine.state.position == event.seq
        open_at.append(bool(whole.by_id))
    assert open_at[0]
    assert not open_at[-1]


@pytest.mark.parametrize("name", sorted(events.NAMES[one] for one in Keeper.passes_over))
def test_what_is_passed_over_moves_only_the_keepers_place(name: str) -> None:
    engine = keeper()
    submitted = codec.decode((GOLDEN / "fleetlog.task.submitted.v1.json").read_bytes(), seq=1, subject=events.REQUEST)
    engine.deliver([submitted], submitted.time_ms)
    before = msgspec.structs.asdict(engine.state)
    kept = {name: msgspec.msgpack.encode(before[name]) for name in ("archive", "tasks", "watch")}
    event = codec.decode((GOLDEN / f"{name}.json").read_bytes(), seq=2, subject=events.RESULT)
    engine.deliver([event], event.time_ms)
    assert (engine.state.position, engine.state.last_by_subject[events.RESULT]) == (2, 2)
    after = msgspec.structs.asdict(engine.state)
    assert {name: msgspec.msgpack.encode(after[name]) for name in kept} == kept
