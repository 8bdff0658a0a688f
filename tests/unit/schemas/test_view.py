"""One view of a task for everyone who shows it."""

from __future__ import annotations

import msgspec
import pytest

from fleetlog_schemas import events
from fleetlog_schemas.outcomes import Outcome, Ran, worst
from fleetlog_schemas.spec import Retry
from fleetlog_schemas.view import GROUPS_MAX, failure_groups, normalise_line, task_view
from fleetlog_testing.history import History


def test_a_view_shows_every_attempt_and_what_came_late() -> None:
    history = History()
    task = history.planned("b", "a", retry=Retry(attempts_max=2))
    history.dispatched(task, "a")
    history.started(task, "a")
    history.wait(20)
    history.ended(task, "a", Outcome.FAILURE, exit_code=1, tail="no\n")
    history.dispatched(task, "a", 2)
    history.ended(task, "a", Outcome.LOST, 2, decided=True, ran=Ran.UNKNOWN)
    history.ended(task, "a", Outcome.SUCCESS, 2, exit_code=0)
    history.ended(task, "b", Outcome.UNREACHED, decided=True, ran=Ran.NO)
    history.task_ended(task)
    view = task_view(task)
    assert [command.host for command in view.commands] == ["a", "b"], "by host name"
    first, second = view.commands[0].attempts
    assert (first.outcome, first.exit_code, first.decided, first.started_at) == ("failure", 1, False, "2026-09-21T14:13:20.000Z")
    assert (second.outcome, second.decided, second.ran) == ("lost", True, "unknown")
    assert [(late.outcome, late.exit_code, late.seq) for late in second.late] == [("success", 0, 8)]
    assert (view.commands[0].ran, view.commands[1].ran) == ("yes", "no")
    assert (view.state, view.outcome, view.counts, view.duration_seconds) == (
        "ended", "lost", {"lost": 1, "unreached": 1}, 0.02,
    )
    assert msgspec.json.encode(view) == msgspec.json.encode(task_view(task))


def test_an_open_task_is_shown_without_what_is_not_known() -> None:
    history = History()
    task = history.planned("a")
    view = task_view(task)
    assert (view.outcome, view.ended_at, view.duration_seconds, view.counts) == (None, None, None, {"waiting": 1})
    assert (view.commands[0].ran, view.commands[0].attempts) == (None, ())


def test_a_refused_task_shows_why() -> None:
    history = History()
    task = history.submitted()
    refusal = events.Refusal(task.task_id, "no-such-host", "no host is called web99", "/target")
    history.add(events.TasksRefused(refusals=(refusal,)))
    view = task_view(task)
    assert (view.state, view.refusal_code, view.refusal, view.refusal_pointer) == (
        "refused", "no-such-host", "no host is called web99", "/target",
    )


def test_failures_that_differ_only_in_numbers_and_names_are_one_group() -> None:
    history = History()
    task = history.planned("web1", "web2", "web3", "db1")
    for host_id, tail in (("web1", "web1: 17 errors\n\n"), ("web2", "x\nweb2: 3 errors\n"), ("db1", "no space left\n")):
        history.dispatched(task, host_id)
        history.ended(task, host_id, Outcome.FAILURE, exit_code=1, tail=tail)
    history.dispatched(task, "web3")
    history.ended(task, "web3", Outcome.SUCCESS, exit_code=0)
    groups = failure_groups(task.commands.values())
    assert [(g.hosts, g.line, g.count, g.example) for g in groups] == [
        ("web[1-2]", "<host>: <n> errors", 2, "web1: 17 errors"),
        ("db1", "no space left", 1, "no space left"),
    ]


def test_kinds_of_failure_beyond_the_limit_are_counted_together() -> None:
    history = History()
    host_ids = [f"h{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(GROUPS_MAX + 5)]
    task = history.planned(*host_ids)
    for host_id in host_ids:
        history.dispatched(task, host_id)
        history.ended(task, host_id, Outcome.FAILURE, exit_code=1, tail=f"kind {host_id[1:]}\n")
    groups = failure_groups(task.commands.values())
    assert len(groups) == GROUPS_MAX
    assert (groups[-1].outcome, groups[-1].count) == ("several", 6)
    assert sum(group.count for group in groups) == len(host_ids)


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("at 2026-01-02T03:04:05.678Z it broke", "at <time> it broke"),
        ("0xDEADBEEF", "<hex>"),
        ("task 01a0c450-6c00-7c1c-8707-070707070707", "task <id>"),
        ("commit 0123456789abcdef", "commit <hex>"),
        ("pid   17  on web1", "pid <n> on <host>"),
        ("x" * 500, "x" * 200),
    ],
)
def test_what_differs_from_host_to_host_is_masked(line: str, masked: str) -> None:
    assert normalise_line(line, "web1") == masked


def test_the_worst_outcome_is_the_first_in_the_order_of_severity() -> None:
    order = ["lost", "error", "timeout", "failure", "cancelled", "unreached", "skipped", "success"]
    assert [outcome.value for outcome in Outcome] == order
    for position, outcome in enumerate(Outcome):
        assert worst(list(Outcome)[position:]) is outcome


def test_a_host_with_an_impossible_clock_can_still_be_shown() -> None:
    history = History()
    task = history.planned("a")
    history.dispatched(task, "a")
    end = events.End(
        task_id=task.task_id, host_id="a", attempt=1, outcome=Outcome.SUCCESS, ran=Ran.YES, started_ms=2**63 - 1, ended_ms=-5
    )
    history.add(events.AttemptsEnded(attempts=(end,)))
    attempt = task_view(task).commands[0].attempts[0]
    assert (attempt.started_at, attempt.ended_at) == ("9999-12-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z")
