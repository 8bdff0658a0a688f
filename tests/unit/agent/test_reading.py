"""A push from a newer dispatcher: what is not understood is answered, the rest is done."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleetlog_agent import messages as m
from fleetlog_agent import reading
from fleetlog_agent.journal_records import Key
from fleetlog_schemas import pushes, wire
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.version import VERSION
from fleetlog_testing.agent_rig import HOST, SERVER_MS, TASK, Rig, ends, of, start_of

OTHER = TASK[:-1] + "2"


@pytest.fixture
def rig() -> Rig:
    """A host with an open session."""
    host = Rig()
    host.connect()
    return host


def newer(**changes: Any) -> dict[str, Any]:
    """Return a start as a newer dispatcher would send it."""
    start: dict[str, Any] = msgspec.msgpack.decode(wire.encode(start_of()))
    for name, value in changes.items():
        start[name] = {**start[name], **value} if isinstance(value, dict) and isinstance(start.get(name), dict) else value
    return start


def heard(rig: Rig, *starts: dict[str, Any], **changes: Any) -> list[m.Effect]:
    """Let the agent hear a signed push of them."""
    rig.seq += 1
    push = {
        "verb": "start", "host_id": HOST, "epoch": rig.epoch, "expires_ms": SERVER_MS + rig.now_ms + 30_000, "seq": rig.seq,
        "attempts": list(starts), **changes,
    }
    rig.core.observe(m.Push(wire.encode(rig.signer.sign(msgspec.msgpack.encode(push)))), rig.now_ms)
    return rig.step()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"payload": {"kind": "container", "image": "x"}}, "'container' - at `$.payload.kind`"),
        ({"payload": {"stage": "x"}}, "unknown field `stage` - at `$.payload`"),
        ({"options": {"sandbox": True}}, "unknown field `sandbox` - at `$.options`"),
        ({"timeout_ms": "long"}, "`$.timeout_ms`"),
    ],
    ids=["kind", "of-payload", "option", "type"],
)
def test_what_this_version_does_not_know_is_an_error_that_says_so_and_never_starts(
    rig: Rig, changes: dict[str, Any], named: str
) -> None:
    effects = heard(rig, newer(**changes))
    end, = ends(effects)
    assert (end.outcome, end.ran, end.token) == (Outcome.ERROR, Ran.NO, start_of().token)
    assert named in end.error
    assert f"agent {VERSION} does not know" in end.error
    assert of(effects, m.Spawn) == []
    assert of(rig.start(start_of()), m.Spawn) == [], "also not later"


def test_what_is_understood_in_the_same_push_runs(rig: Rig) -> None:
    effects = heard(rig, newer(payload={"kind": "container"}), newer(task_id=OTHER))
    assert [end.task_id for end in ends(effects)] == [TASK]
    assert [effect.key for effect in of(effects, m.Spawn)] == [Key(OTHER, 1)]


def test_a_newer_dispatcher_may_say_more_beside_what_is_to_run(rig: Rig) -> None:
    assert len(of(heard(rig, newer(colour="blue"), weather="fine"), m.Spawn)) == 1


def test_a_start_that_is_here_already_is_not_refused_by_a_copy_that_cannot_be_read(rig: Rig) -> None:
    rig.start(start_of())
    assert ends(heard(rig, newer(options={"sandbox": True}))) == []
    rig.exit(Key(TASK, 1))
    assert ends(rig.step())[0].outcome == Outcome.SUCCESS


@pytest.mark.parametrize("attempts", [[1], [{}], [{"task_id": TASK}], "x"])
def test_a_push_in_which_nothing_has_a_name_is_dropped_with_an_alarm(rig: Rig, attempts: Any) -> None:
    effects = heard(rig, attempts=attempts)
    assert ends(effects) == []
    assert "cannot be read" in of(effects, m.Alarm)[0].text


def test_an_unknown_verb_is_dropped_with_an_alarm(rig: Rig) -> None:
    assert "cannot be read" in of(heard(rig, newer(), verb="signal"), m.Alarm)[0].text


@pytest.mark.parametrize("fault", [{"epoch": 99}, {"expires_ms": SERVER_MS}, {"seq": 1}, {"host_id": "other"}])
def test_nothing_is_answered_that_would_not_be_obeyed(rig: Rig, fault: dict[str, Any]) -> None:
    assert ends(heard(rig, newer(payload={"kind": "container"}), **fault)) == []
    assert rig.core.state.entries == {}


def test_both_readings_of_a_push_are_alike() -> None:
    assert reading.StartPush.__struct_fields__ == pushes.StartPush.__struct_fields__
