"""Which version this is, and what older agents know."""

from __future__ import annotations

import re
import typing

import msgspec
import pytest

from fleetlog_schemas import versions
from fleetlog_schemas.spec import Options, Origin, Payload, Shell, TaskSpec
from fleetlog_schemas.version import VERSION
from fleetlog_testing.tree import ROOT

SPEC = TaskSpec(payload=Shell(argv=("true",)), target="all", options=Options(cwd="/tmp"))


@pytest.fixture
def cwd_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since 1.10.0 agents know the option `cwd`."""
    monkeypatch.setitem(versions.OPTIONS_SINCE, "cwd", "1.10.0")
    monkeypatch.setattr(versions, "NEWEST_SINCE", (1, 10, 0))


def test_every_kind_and_every_option_says_since_which_version_agents_know_it() -> None:
    kinds = {str(payload.__struct_config__.tag) for payload in typing.get_args(Payload)}
    assert set(versions.KINDS_SINCE) == kinds
    assert list(versions.OPTIONS_SINCE) == list(Options.__struct_fields__)
    for since in (*versions.KINDS_SINCE.values(), *versions.OPTIONS_SINCE.values(), versions.PARAMETERS_SINCE):
        assert versions.numbers(since) <= versions.numbers(VERSION), "nobody knows it yet"


def test_the_newest_section_of_the_changes_is_of_this_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == VERSION


@pytest.mark.usefixtures("cwd_is_new")
@pytest.mark.parametrize(("agent", "knows"), [("1.9.9", False), ("1.10.0", True), ("2.0.0", True), ("", True), ("mine", True)])
def test_an_agent_knows_what_came_with_its_version_or_before(agent: str, knows: bool) -> None:
    unknown = versions.unknown_to(agent, SPEC)
    assert unknown == ("" if knows else "its agent 1.9.9 does not know the option cwd: upgrade it to 1.10.0 or newer")
    assert versions.unknown_to(agent, msgspec.structs.replace(SPEC, options=Options())) == "", "a default asks for nothing"


def test_a_kind_that_came_later_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.KINDS_SINCE, "shell", "0.2.0")
    monkeypatch.setattr(versions, "NEWEST_SINCE", (0, 2, 0))
    assert versions.unknown_to("0.1.0", SPEC) == "its agent 0.1.0 does not know the kind shell: upgrade it to 0.2.0 or newer"


def test_an_agent_that_would_run_without_the_parameters_does_not_know_them() -> None:
    spec = TaskSpec(payload=Shell(argv=("true",)), target="all", definition=Origin("d1", 1, "report", {"depth": 3}))
    assert "does not know parameters" in versions.unknown_to("0.2.9", spec)
    assert versions.unknown_to("0.3.0", spec) == ""
    assert versions.unknown_to("0.2.9", msgspec.structs.replace(spec, definition=Origin("d1", 1, "report"))) == ""
