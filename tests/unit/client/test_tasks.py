"""Declared functions: names, checks by type hints, values, and what is kept of an exception."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fleetlog import tasks
from fleetlog.functions import function_spec
from fleetlog_schemas.limits import RETURN_VALUE_BYTES_MAX
from fleetlog_schemas.spec import Choose, SpecError, check_spec
from fleetlog_schemas.workers import Finished


@dataclass
class Point:
    x: int
    y: int


@pytest.fixture(autouse=True)
def _no_others(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tasks, "_registry", {})
    return


def said(work: Callable[[], object]) -> str:
    with pytest.raises(tasks.WrongArguments) as caught:
        work()
    return str(caught.value)


def test_arguments_become_what_the_hints_say() -> None:
    @tasks.task
    def when(at: dt.date, *points: Point, **more: int) -> None: ...

    bound = when.check(["2026-02-28", {"x": 1, "y": 2}], {"extra": 3})
    assert bound.args == (dt.date(2026, 2, 28), Point(1, 2))
    assert bound.kwargs == {"extra": 3}
    assert said(lambda: when.check(["soon"], {})).startswith("argument at of when: ")
    assert "missing a required argument: 'at'" in said(lambda: when.check([], {}))
    assert "Expected `int`" in said(lambda: when.check(["2026-02-28"], {"extra": "x"}))


def test_without_hints_or_with_hints_nobody_can_read_arguments_are_taken_as_they_come() -> None:
    @tasks.task("free")
    def free(a, b=None): ...  # type: ignore[no-untyped-def]

    @tasks.task("unreadable")
    def unreadable(a: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert free.check([1], {"b": [2]}).args == (1, [2])
    assert unreadable.check(["x"], {}).args == ("x",)


def test_names_and_queues_follow_their_rules_and_stand_once() -> None:
    for name, queue in (("a b", "default"), ("", "no queue"), ("-x", "default")):
        with pytest.raises(SpecError):
            tasks.task(name, queue=queue)(lambda: None)
    tasks.task("once")(test_names_and_queues_follow_their_rules_and_stand_once)
    with pytest.raises(tasks.DuplicateName, match="both declare the task 'once'"):
        tasks.task("once")(said)


@pytest.mark.parametrize(
    ("value", "text"), [(object(), "is no JSON"), ("x" * RETURN_VALUE_BYTES_MAX, "at most 65536 are kept"), ({1: object()}, "is no JSON")]
)
def test_a_value_that_cannot_be_kept_is_said(value: object, text: str) -> None:
    with pytest.raises(tasks.Unserialisable, match=text):
        tasks.encoded(value)


def test_an_exception_is_kept_without_the_frames_of_the_worker() -> None:
    @tasks.task
    def breaks() -> None:
        raise KeyError("gone")

    def kept() -> Finished:
        try:
            tasks.call(breaks, breaks.check([], {}), lambda *_: None)
        except KeyError as error:
            return tasks.failure(error, "k", 1, 2)
        raise AssertionError("it raises")

    found = kept()
    assert (found.error, found.value) == ("KeyError: 'gone'", None)
    assert 'raise KeyError("gone")' in found.traceback
    assert "tasks.py\", line" not in found.traceback.replace("test_tasks.py", "")


def test_progress_is_heard_only_while_a_function_runs() -> None:
    heard: list[Any] = []

    @tasks.task
    def steps() -> int:
        tasks.report_progress(1, 2, "half")
        return 7

    tasks.report_progress(0)
    assert tasks.call(steps, steps.check([], {}), lambda *how: heard.append(how)) == "7"
    tasks.report_progress(2)
    assert heard == [(1, 2, "half")]


def test_a_task_goes_to_one_host_unless_a_target_is_given_and_unknown_options_are_refused() -> None:
    anywhere = function_spec("f", (1,), {"b": Point(1, 2)}, {"timeout_s": 1.5, "retries": 2, "tags": ["x"]})
    check_spec(anywhere)
    assert (anywhere.choose, anywhere.timeout_ms, anywhere.retry.attempts_max, anywhere.tags) == (Choose(), 1_500, 3, ("x",))
    assert anywhere.payload.kwargs == {"b": {"x": 1, "y": 2}}  # type: ignore[union-attr]
    assert function_spec("f", (), {}, {"target": "web*"}).choose is None
    with pytest.raises(TypeError, match="there is no option 'targets'; there are: target"):
        function_spec("f", (), {}, {"targets": "all"})
