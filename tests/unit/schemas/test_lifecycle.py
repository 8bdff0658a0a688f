"""Every transition of tasks, commands and attempts, and every case that must change nothing."""

from __future__ import annotations

import pytest

from fleetlog_schemas import control_events, events, host_events, lifecycle, limits, records
from fleetlog_schemas.commands import retry_due_ms
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.records import AttemptState, CommandState, TaskState
from fleetlog_schemas.spec import Retry, Shell, TaskSpec
from fleetlog_testing.history import START_MS, History, make_id

RETRY = Retry(attempts_max=3, on=(Outcome.FAILURE, Outcome.ERROR), backoff_ms=1_000, backoff_ms_max=4_000)


def whats(changes: list[records.Change]) -> list[str]:
    return [change.what for change in changes]


def submit(history: History, task_id: str, argv: str = "true") -> list[records.Change]:
    spec = TaskSpec(payload=Shell(argv=(argv,)), target="web*")
    return history.add(events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),)), authid="ada")


# --- a life without trouble ------------------------------------------------------------------------------


def test_a_task_goes_from_submitted_over_planned_to_ended() -> None:
    history = History()
    task = history.submitted()
    assert (task.state, task.submitted_by, task.submitted_seq) == (TaskState.SUBMITTED, "ada", 1)
    history.add(events.TasksPlanned(plans=(events.Plan(task.task_id, (events.PlannedHost("h1", "web1"),), "x"),)))
    assert (task.state, task.open, task.counts) == (TaskState.PLANNED, 1, {"waiting": 1})
    history.dispatched(task, "h1")
    assert task.commands["h1"].state is CommandState.DISPATCHED
    history.started(task, "h1")
    assert task.commands["h1"].state is CommandState.RUNNING
    assert task.counts == {"running": 1}
    history.ended(task, "h1", Outcome.SUCCESS, exit_code=0)
    assert (task.commands["h1"].outcome, task.open, task.counts) == (Outcome.SUCCESS, 0, {"success": 1})
    assert task.state is TaskState.PLANNED
    assert whats(history.task_ended(task)) == ["task-ended"]
    assert (task.state, task.outcome, task.ended_seq) == (TaskState.ENDED, Outcome.SUCCESS, len(history.events))


def test_an_end_without_a_start_before_it_is_enough() -> None:
    history = History()
    task = history.planned("h1")
    history.dispatched(task, "h1")
    assert whats(history.ended(task, "h1", Outcome.FAILURE, exit_code=1)) == ["ended"]
    assert task.commands["h1"].attempts[0].state is AttemptState.ENDED


def test_a_task_has_the_worst_outcome_of_its_commands() -> None:
    history = History()
    task = history.planned("h1", "h2", "h3")
    for host_id, outcome in (("h1", Outcome.SUCCESS), ("h2", Outcome.FAILURE), ("h3", Outcome.UNREACHED)):
        history.dispatched(task, host_id)
        history.ended(task, host_id, outcome)
    end = lifecycle.task_end(task)
    assert end.outcome is Outcome.FAILURE
    assert end.counts == {Outcome.SUCCESS: 1, Outcome.FAILURE: 1, Outcome.UNREACHED: 1}


def test_a_refused_task_has_ended_and_nothing_of_it_runs() -> None:
    history = History()
    task = history.submitted()
    assert whats(history.add(events.TasksRefused(refusals=(events.Refusal(task.task_id, "code", "why"),)))) == ["refused"]
    assert (task.state, task.ended_ms) == (TaskState.REFUSED, START_MS)
    plan = events.Plan(task.task_id, (events.PlannedHost("h1", "web1"),), "x")
    assert history.add(events.TasksPlanned(plans=(plan,))) == []
    assert history.add(control_events.CancelRequested(task_id=task.task_id)) == []
    assert history.add(events.TasksTimedOut(task_ids=(task.task_id,))) == []


def test_a_plan_in_parts_is_whole_with_its_last_part() -> None:
    history = History()
    task = history.submitted()
    first = events.Plan(task.task_id, (events.PlannedHost("h1", "a"),), "x", part=0, parts=2)
    second = events.Plan(task.task_id, (events.PlannedHost("h2", "b"),), "x", part=1, parts=2)
    assert history.add(events.TasksPlanned(plans=(first,))) == []
    assert task.state is TaskState.SUBMITTED
    assert history.add(events.TasksPlanned(plans=(first,))) == [], "a part that came already"
    assert whats(history.add(events.TasksPlanned(plans=(second,)))) == ["planned"]
    assert (task.state, list(task.commands), task.open) == (TaskState.PLANNED, ["h1", "h2"], 2)
    assert history.add(events.TasksPlanned(plans=(first,))) == [], "a plan never changes"


# --- what changes nothing --------------------------------------------------------------------------------


def test_the_first_submission_of_an_id_stands() -> None:
    history = History()
    task_id = make_id()
    assert whats(submit(history, task_id, "first")) == ["submitted"]
    assert submit(history, task_id, "second") == []
    assert history.tasks.by_id[task_id].spec.payload == Shell(argv=("first",))


@pytest.mark.parametrize(
    ("age_ms", "taken"),
    [
        (limits.TASK_ID_AGE_MS_MAX, True),
        (limits.TASK_ID_AGE_MS_MAX + 1, False),
        (-limits.TASK_ID_AHEAD_MS_MAX, True),
        (-limits.TASK_ID_AHEAD_MS_MAX - 1, False),
    ],
)
def test_an_id_that_is_too_old_or_from_the_future_is_refused(age_ms: int, taken: bool) -> None:
    history = History()
    assert bool(submit(history, make_id(START_MS - age_ms))) is taken


def test_an_id_that_is_no_uuid7_is_refused() -> None:
    assert submit(History(), "0b7e1f0e-5c5b-4d3f-9a52-0f0b2f6e7d11") == []


def test_the_id_of_a_task_that_left_memory_stays_used_for_as_long_as_it_could_return() -> None:
    history = History()
    task_id = make_id()
    submit(history, task_id)
    history.tasks.evict(task_id)
    assert task_id not in history.tasks.by_id
    assert submit(history, task_id) == []
    history.wait(limits.TASK_ID_AGE_MS_MAX + limits.TASK_ID_AHEAD_MS_MAX + 1)
    assert submit(history, task_id) == [], "by now it is too old"
    submit(history, make_id(history.now_ms))
    assert history.tasks.closed == {}, "so nobody needs to remember it"


def test_a_second_end_is_late_and_changes_nothing_but_is_kept() -> None:
    history = History()
    task = history.planned("h1")
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.LOST, decided=True, ran=Ran.UNKNOWN)
    history.wait(5)
    assert whats(history.ended(task, "h1", Outcome.SUCCESS, exit_code=0)) == ["late"]
    attempt = task.commands["h1"].attempts[0]
    assert (task.commands["h1"].outcome, attempt.decided) == (Outcome.LOST, True)
    assert [(end.outcome, seq) for end, seq in zip(attempt.late, attempt.late_seq, strict=True)] == [
        (Outcome.SUCCESS, len(history.events))
    ]
    assert task.counts == {"lost": 1}
    assert history.ended(task, "h1", Outcome.SUCCESS, exit_code=0) == [], "the same late report again"
    assert len(attempt.late) == 1


def test_the_same_end_reported_twice_is_not_late() -> None:
    history = History()
    task = history.planned("h1")
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.SUCCESS, exit_code=0)
    assert history.ended(task, "h1", Outcome.SUCCESS, exit_code=0) == []
    assert task.commands["h1"].attempts[0].late == []


def test_a_decided_end_after_an_end_changes_nothing() -> None:
    history = History()
    task = history.planned("h1")
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.SUCCESS, exit_code=0)
    assert history.ended(task, "h1", Outcome.LOST, decided=True, ran=Ran.UNKNOWN) == []


def test_the_end_of_a_waiting_command_is_a_decision() -> None:
    history = History()
    task = history.planned("h1", "h2")
    assert whats(history.ended(task, "h1", Outcome.UNREACHED, decided=True, ran=Ran.NO)) == ["ended"]
    command = task.commands["h1"]
    assert (command.outcome, command.ran, command.attempts[0].dispatched_ms) == (Outcome.UNREACHED, Ran.NO, None)
    assert history.ended(task, "h2", Outcome.SUCCESS) == [], "an agent cannot end what was never dispatched"
    assert task.commands["h2"].state is CommandState.WAITING


def test_an_agent_cannot_end_or_start_an_attempt_that_was_never_dispatched() -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    history.dispatched(task, "h1")
    assert history.ended(task, "h1", Outcome.SUCCESS, attempt=2) == []
    assert history.ended(task, "h1", Outcome.SUCCESS, attempt=0) == []
    assert history.started(task, "h1", attempt=2) == []
    assert history.started(task, "h1", attempt=0) == []
    assert history.started(task, "h9") == []
    assert task.commands["h1"].state is CommandState.DISPATCHED


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_only_the_next_attempt_of_a_waiting_command_can_be_dispatched(attempt: int) -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    history.dispatched(task, "h1")
    assert history.dispatched(task, "h1", 2) == [], "attempt 1 has not ended"
    history.ended(task, "h1", Outcome.FAILURE)
    assert history.dispatched(task, "h1", attempt) == []
    assert whats(history.dispatched(task, "h1", 2)) == ["dispatched"]


def test_nothing_is_dispatched_before_the_plan_or_to_a_host_outside_it() -> None:
    history = History()
    task = history.submitted()
    assert history.dispatched(task, "h1") == []
    task = history.planned("h1")
    assert history.dispatched(task, "h2") == []


def test_a_start_after_the_end_changes_nothing() -> None:
    history = History()
    task = history.planned("h1")
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.SUCCESS)
    assert history.started(task, "h1") == []
    history.task_ended(task)
    assert history.task_ended(task) == [], "a task ends once"
    assert task.commands["h1"].attempts[0].start is None


def test_a_task_with_open_commands_cannot_end() -> None:
    history = History()
    task = history.planned("h1", "h2")
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.SUCCESS)
    assert history.task_ended(task) == []
    assert task.state is TaskState.PLANNED


def test_entries_about_unknown_tasks_change_nothing() -> None:
    history = History()
    ghost = History().planned("h1")
    plan = events.Plan(ghost.task_id, (), "x")
    key = events.AttemptKey(task_id=ghost.task_id, host_id="h1", attempt=1)
    assert history.add(events.TasksPlanned(plans=(plan,))) == []
    assert history.add(events.TasksRefused(refusals=(events.Refusal(ghost.task_id, "c", "m"),))) == []
    assert history.dispatched(ghost, "h1") == []
    assert history.ended(ghost, "h1", Outcome.SUCCESS) == []
    assert history.add(control_events.CancelRequested(task_id=ghost.task_id)) == []
    assert history.add(events.TasksTimedOut(task_ids=(ghost.task_id,))) == []
    assert history.add(events.TasksEnded(tasks=(events.TaskEnd(ghost.task_id, Outcome.SUCCESS, {}),))) == []
    assert history.add(host_events.ReportsRefused(host_id="h1", minute=1, counts={}, attempts=(key,))) == []
    assert history.tasks.by_id == {}


def test_events_about_other_things_change_no_task() -> None:
    history = History()
    assert history.add(host_events.HostLabelled(host_id="h1", labels={})) == []


# --- stopping --------------------------------------------------------------------------------------------


def test_cancelling_a_task_stops_every_open_command_and_its_next_dispatch_is_void() -> None:
    history = History()
    task = history.planned("h1", "h2", "h3")
    history.dispatched(task, "h1")
    history.dispatched(task, "h3")
    history.ended(task, "h3", Outcome.SUCCESS)
    changes = history.add(control_events.CancelRequested(task_id=task.task_id, reason="wrong"), authid="bob")
    assert [(c.what, c.command.host_id if c.command else None) for c in changes] == [
        ("stop", None), ("stop", "h1"), ("stop", "h2"),
    ]
    assert (task.stop, task.stop_by, task.stop_reason) == ("cancelled", "bob", "wrong")
    assert history.dispatched(task, "h2") == [], "dispatch after cancel"
    assert history.add(control_events.CancelRequested(task_id=task.task_id, reason="again")) == []
    assert history.add(events.TasksTimedOut(task_ids=(task.task_id,))) == [], "the first reason stands"
    history.ended(task, "h1", Outcome.CANCELLED)
    history.ended(task, "h2", Outcome.CANCELLED, decided=True, ran=Ran.NO)
    history.task_ended(task)
    assert (task.outcome, task.counts) == (Outcome.CANCELLED, {"success": 1, "cancelled": 2})


def test_cancelling_one_host_leaves_the_others_alone() -> None:
    history = History()
    task = history.planned("h1", "h2", "h3")
    history.dispatched(task, "h3")
    history.ended(task, "h3", Outcome.SUCCESS)
    changes = history.add(control_events.CancelRequested(task_id=task.task_id, host_ids=("h1", "h3", "h9")))
    assert [change.command.host_id for change in changes if change.command] == ["h1"], "h3 has ended, h9 is no host of it"
    assert (task.stop, task.commands["h1"].stop) == ("", "cancelled")
    assert history.dispatched(task, "h1") == []
    assert whats(history.dispatched(task, "h2")) == ["dispatched"]
    assert history.add(control_events.CancelRequested(task_id=task.task_id, host_ids=("h1",))) == []


def test_cancelling_during_a_retry_wait_ends_the_command_with_the_outcome_it_had() -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.FAILURE, exit_code=1)
    assert task.commands["h1"].state is CommandState.WAITING
    assert task.counts == {"waiting": 1}
    history.add(control_events.CancelRequested(task_id=task.task_id))
    assert (task.commands["h1"].state, task.commands["h1"].outcome) == (CommandState.ENDED, Outcome.FAILURE)
    assert (task.open, task.counts) == (0, {"failure": 1})
    assert whats(history.task_ended(task)) == ["task-ended"]


def test_cancelling_one_host_during_its_retry_wait_ends_its_command() -> None:
    history = History()
    task = history.planned("h1", "h2", retry=RETRY)
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.FAILURE)
    history.add(control_events.CancelRequested(task_id=task.task_id, host_ids=("h1",)))
    assert task.commands["h1"].state is CommandState.ENDED
    assert task.counts == {"failure": 1, "waiting": 1}


def test_a_failure_after_a_cancel_is_not_retried() -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    history.dispatched(task, "h1")
    history.add(control_events.CancelRequested(task_id=task.task_id))
    history.ended(task, "h1", Outcome.FAILURE)
    assert task.commands["h1"].state is CommandState.ENDED


def test_a_timed_out_task_is_stopped_with_that_reason() -> None:
    history = History()
    task = history.planned("h1")
    changes = history.add(events.TasksTimedOut(task_ids=(task.task_id,)))
    assert whats(changes) == ["stop", "stop"]
    assert task.stop == "timeout"
    assert history.dispatched(task, "h1") == []
    history.ended(task, "h1", Outcome.SKIPPED, decided=True, ran=Ran.NO)
    history.task_ended(task)
    assert task.outcome is Outcome.SKIPPED


def test_a_task_that_was_cancelled_before_its_plan_dispatches_nothing() -> None:
    history = History()
    task = history.submitted()
    assert whats(history.add(control_events.CancelRequested(task_id=task.task_id))) == ["stop"]
    history.add(events.TasksPlanned(plans=(events.Plan(task.task_id, (events.PlannedHost("h1", "web1"),), "x"),)))
    assert history.dispatched(task, "h1") == []
    assert whats(history.ended(task, "h1", Outcome.CANCELLED, decided=True, ran=Ran.NO)) == ["ended"]


# --- retries ---------------------------------------------------------------------------------------------


def test_a_command_is_retried_by_outcome_until_its_attempts_are_used() -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    for attempt in (1, 2):
        history.dispatched(task, "h1", attempt)
        history.ended(task, "h1", Outcome.FAILURE, attempt)
        assert task.commands["h1"].state is CommandState.WAITING
    history.dispatched(task, "h1", 3)
    history.ended(task, "h1", Outcome.FAILURE, 3)
    assert (task.commands["h1"].state, task.open) == (CommandState.ENDED, 0)


def test_an_outcome_that_is_not_named_is_not_retried() -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.LOST, decided=True, ran=Ran.UNKNOWN)
    assert task.commands["h1"].outcome is Outcome.LOST


@pytest.mark.parametrize(("attempt", "backoff_ms"), [(1, 1_000), (2, 2_000), (3, 4_000), (4, 4_000), (60, 4_000)])
def test_the_backoff_doubles_up_to_its_limit_with_jitter_in_its_upper_half(attempt: int, backoff_ms: int) -> None:
    history = History()
    hosts = [f"h{number}" for number in range(50)]
    retry = Retry(attempts_max=100, on=(Outcome.FAILURE,), backoff_ms=1_000, backoff_ms_max=4_000)
    task = history.planned(*hosts, retry=retry)
    waits = []
    for host_id in hosts:
        for number in range(1, attempt + 1):
            history.dispatched(task, host_id, number)
            history.ended(task, host_id, Outcome.FAILURE, number)
        due_ms = retry_due_ms(task, task.commands[host_id])
        assert due_ms == task.commands[host_id].due_ms
        assert due_ms is not None
        waits.append(due_ms - history.now_ms)
    assert all(backoff_ms // 2 <= wait <= backoff_ms for wait in waits)
    assert len(set(waits)) > 30, "so that hosts that failed together do not come back together"


def test_every_reader_computes_the_same_time_of_a_retry() -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.FAILURE)
    other = records.Tasks()
    for event in history.events:
        lifecycle.apply(other, event)
    assert retry_due_ms(other.by_id[task.task_id], other.by_id[task.task_id].commands["h1"]) == retry_due_ms(
        task, task.commands["h1"]
    )


def test_nothing_is_due_before_the_first_attempt_has_ended() -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    assert retry_due_ms(task, task.commands["h1"]) is None
    history.dispatched(task, "h1")
    assert retry_due_ms(task, task.commands["h1"]) is None


def test_a_zero_backoff_is_due_at_once() -> None:
    history = History()
    task = history.planned("h1", retry=Retry(attempts_max=2, backoff_ms=0, backoff_ms_max=0))
    history.dispatched(task, "h1")
    history.ended(task, "h1", Outcome.ERROR)
    assert task.commands["h1"].due_ms == history.now_ms


# --- the rest --------------------------------------------------------------------------------------------


def test_a_refused_report_marks_its_attempt_and_nothing_else() -> None:
    history = History()
    task = history.planned("h1")
    history.dispatched(task, "h1")
    key = events.AttemptKey(task_id=task.task_id, host_id="h1", attempt=1)
    event = host_events.ReportsRefused(host_id="h1", minute=1, counts={"token": 1}, attempts=(key,))
    assert whats(history.add(event)) == ["report-refused"]
    assert task.commands["h1"].attempts[0].refused
    assert task.commands["h1"].state is CommandState.DISPATCHED


@pytest.mark.parametrize(
    ("ran", "whole"),
    [((Ran.NO,), Ran.NO), ((Ran.UNKNOWN, Ran.NO), Ran.UNKNOWN), ((Ran.UNKNOWN, Ran.YES), Ran.YES)],
)
def test_a_command_ran_when_any_attempt_did(ran: tuple[Ran, ...], whole: Ran) -> None:
    history = History()
    task = history.planned("h1", retry=RETRY)
    for number, one in enumerate(ran, 1):
        history.dispatched(task, "h1", number)
        history.ended(task, "h1", Outcome.ERROR, number, ran=one)
    assert task.commands["h1"].ran is whole


def test_folding_an_event_again_changes_nothing() -> None:
    history = History()
    task = history.planned("h1", "h2", retry=RETRY)
    history.dispatched(task, "h1")
    history.started(task, "h1")
    history.ended(task, "h1", Outcome.FAILURE)
    history.add(control_events.CancelRequested(task_id=task.task_id))
    for event in history.events:
        assert lifecycle.apply(history.tasks, event) == []


def test_a_task_that_is_refused_while_it_is_paused_holds_nothing_any_more() -> None:
    history = History()
    task = history.submitted()
    assert whats(history.add(control_events.PauseRequested(task_id=task.task_id))) == ["held"]
    history.add(events.TasksRefused(refusals=(events.Refusal(task.task_id, "code", "why"),)))
    assert task.hold is None


def test_a_reason_to_wait_that_is_said_again_goes_on_and_another_one_ends_it() -> None:
    history = History()
    task = history.planned("h1")
    for reason in ("slot", "slot", "freeze"):
        history.wait(1_000)
        history.waiting(task, reason)
    assert [(one.reason, one.since_ms - START_MS, one.until_ms and one.until_ms - START_MS) for one in task.commands["h1"].waits] == [
        ("slot", 1_000, 3_000), ("freeze", 3_000, 0),
    ]


def test_every_row_of_the_tables_is_taken_by_these_stories() -> None:
    assert len(lifecycle.ATTEMPT_TRANSITIONS) == 5, "a new transition needs its story here"
    assert len(lifecycle.TASK_TRANSITIONS) == 4, "a new transition needs its story here"
