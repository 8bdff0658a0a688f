"""The dispatcher reads the catalog and passes over definitions: nothing is looked up, stopped or narrowed by one."""

from __future__ import annotations

import msgspec
import pytest

from fleetlog_dispatcher.state import State, fold
from fleetlog_schemas import definition_events, events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.spec import Origin
from fleetlog_testing.dispatching import Stage, shell

SET = definition_events.DefinitionSet("d1", 1, Definition("report", shell(single_run="refuse")))
REMOVED = definition_events.DefinitionRemoved("d1", "report")


@pytest.mark.parametrize("data", [SET, REMOVED, msgspec.structs.replace(SET, version=9)])
def test_what_becomes_of_a_definition_changes_nothing_but_the_place_in_the_log(data: events.Data) -> None:
    state, event = State(), Event(id="e", source="/t", data=data, time_ms=5, seq=7, subject=events.CATALOG)
    assert fold(state, event) is None
    assert state == State(position=7, time_ms=5)


def test_a_second_run_of_a_definition_is_refused_while_one_is_open_whatever_became_of_the_definition() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.happened(SET)
    run = shell(key="d1", single_run="refuse", definition=Origin("d1", 1, "report"))
    first = stage.submitted(run)
    stage.happened(REMOVED)
    second = stage.submitted(run)
    other = stage.submitted(shell(key="d2", single_run="refuse", definition=Origin("d2", 1, "report")))
    assert stage.dispatched() == [first, other], "of the same name is not of the same definition"
    assert stage.state.tasks.by_id.get(second) is None
