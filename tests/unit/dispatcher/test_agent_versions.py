"""What an agent is too old for is an error before anything is sent, and the plan says so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleetlog_runtime.pure.effects import Request
from fleetlog_schemas import events, pushes, subjects, versions
from fleetlog_schemas.admission import PlanQuestion
from fleetlog_schemas.graph import Binding
from fleetlog_schemas.spec import Options, Part, Retry, TaskSpec, Workflow
from fleetlog_testing.dispatching import Stage, shell

UNKNOWN = "its agent 0.9.0 does not know the option cwd: upgrade it to 1.0.0 or newer"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Two hosts, of which `old` has an agent from before the option `cwd`."""
    monkeypatch.setitem(versions.OPTIONS_SINCE, "cwd", "1.0.0")
    monkeypatch.setattr(versions, "NEWEST_SINCE", (1, 0, 0))
    made = Stage()
    made.enrolled("new", "old")
    for name, version in (("new", "1.0.0"), ("old", "0.9.0")):
        made.opens(name, version=version)
        made.beats(name)
    return made


def spec(**fields: Any) -> TaskSpec:
    return shell(options=Options(cwd="/srv"), **fields)


@pytest.mark.parametrize("limited", [{}, {"parallel": 1}], ids=["free", "limited"])
def test_a_command_that_its_agent_does_not_know_ends_as_an_error_and_is_never_sent(
    stage: Stage, limited: dict[str, int]
) -> None:
    task_id = stage.submitted(spec(**limited))
    stage.passes(2_000)
    assert stage.outcomes(task_id) == {"old": "error"}
    end = stage.decided(events.AttemptsEnded)[0].attempts[0]
    assert (end.error, end.ran) == (UNKNOWN, "no")
    assert stage.pushed(pushes.StartPush, "old") == []
    assert stage.dispatched_hosts(task_id) == ["new"]


def test_an_agent_that_is_too_old_still_gets_what_it_knows(stage: Stage) -> None:
    task_id = stage.submitted(shell())
    assert sorted(stage.dispatched_hosts(task_id)) == ["new", "old"]


def test_a_host_that_is_away_may_come_back_with_a_newer_agent(stage: Stage) -> None:
    stage.beats("old", goodbye=True)
    task_id = stage.submitted(spec(wait_offline_ms=600_000))
    stage.passes(5_000)
    assert stage.outcomes(task_id) == {}
    stage.opens("old", version="1.0.0")
    stage.beats("old")
    assert stage.pushed(pushes.StartPush, "old") == [(task_id, 1)]


def test_a_retry_goes_out_when_the_agent_was_upgraded_meanwhile(stage: Stage) -> None:
    task_id = stage.submitted(spec(retry=Retry(attempts_max=2, backoff_ms=60_000)))
    stage.passes(2_000)
    assert stage.outcomes(task_id) == {"old": "error"}
    stage.opens("old", version="1.0.0")
    stage.passes(120_000)
    assert (task_id, 2) in stage.pushed(pushes.StartPush, "old")


def test_the_plan_names_the_hosts_whose_agents_are_too_old(stage: Stage) -> None:
    asked = Request(subjects.ask("dispatcher", "plan"), msgspec.json.encode(PlanQuestion(spec())), "reply")
    stage.engine.observe(asked, stage.now_ms)
    stage.settle()
    hosts = stage.answers[-1][1]["data"]["hosts"]
    assert {host["name"]: (host["would"], host["reason"]) for host in hosts} == {
        "new": ("run", ""), "old": ("be an error", UNKNOWN),
    }


def test_a_part_whose_value_another_takes_is_not_run_by_an_agent_that_returns_none() -> None:
    stage = Stage()
    stage.enrolled("old", "older")
    for name in ("old", "older"):
        stage.opens(name, version="0.2.0")
        stage.beats(name)
    ask, use = (Part(name, task=shell(target="old")) for name in ("ask", "use"))
    takes = msgspec.structs.replace(use, after=("ask",), given={"file": Binding(part="ask")})
    spec = TaskSpec(payload=Workflow(parts=(ask, takes, Part("alone", task=shell(target="older")))))
    stage.engine.observe(Request(subjects.ask("dispatcher", "plan"), msgspec.json.encode(PlanQuestion(spec)), "reply"), stage.now_ms)
    stage.settle()
    planned = {part["name"]: part.get("too_old") for part in stage.answers[-1][1]["data"]["parts"]}
    assert planned["ask"][0].startswith("old: its agent 0.2.0 does not know FLEETLOG_RETURN, and another part takes")
    assert not planned["alone"]
    stage.submitted(spec)
    stage.passes(2_000)
    end, = [one for data in stage.decided(events.AttemptsEnded) for one in data.attempts]
    assert (end.outcome, end.ran) == ("error", "no")
    assert "does not know FLEETLOG_RETURN, and another part takes what this one returns" in end.error
    assert stage.pushed(pushes.StartPush, "old") == []
    assert len(set(stage.pushed(pushes.StartPush, "older"))) == 1, "nobody takes what this one returns"
