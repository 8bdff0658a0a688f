"""Any order of any events, sensible or not, leaves tasks and hosts in a state that keeps its own rules.

The events are drawn from a few tasks, hosts and attempts, so that they collide often: ends before dispatches,
plans after cancels, sessions out of order. A log written by our services is one of these orders.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetlog_schemas import (
    control_events,
    events,
    host_events,
    hosts,
    ids,
    lifecycle,
    policies,
    policy_events,
    records,
    rollout,
)
from fleetlog_schemas.codec import Event, decode, encode
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.records import CommandState, TaskState
from fleetlog_schemas.spec import Retry, Rollout, Shell, TaskSpec
from fleetlog_schemas.view import task_view
from fleetlog_testing.history import START_MS

TASK_IDS = [ids.new_id(START_MS, bytes([number] * 10)) for number in range(2)]
HOST_IDS = ["h1", "h2"]
RETRY = Retry(attempts_max=2, on=(Outcome.FAILURE, Outcome.LOST), backoff_ms=100)
SPECS = [
    TaskSpec(payload=Shell(argv=("true",)), target="h*"),
    TaskSpec(payload=Shell(argv=("true",)), target="h*", retry=RETRY),
    TaskSpec(payload=Shell(argv=("true",)), target="h*", retry=RETRY, rollout=Rollout(batch="1", approve=(2,))),
]

task_ids = st.sampled_from(TASK_IDS)
host_ids = st.sampled_from(HOST_IDS)
attempts = st.integers(0, 3)
keys = {"task_id": task_ids, "host_id": host_ids, "attempt": attempts}
ends = st.builds(
    events.End, **keys, outcome=st.sampled_from(list(Outcome)), ran=st.sampled_from(list(Ran)),
    exit_code=st.sampled_from([None, 0, 1]),
)
some_hosts = st.lists(host_ids, max_size=2).map(tuple)
waves = st.sampled_from([(), (1, 1), (2,), (7,)])
planned_hosts = st.lists(st.sampled_from([events.PlannedHost(h, h) for h in HOST_IDS]), min_size=1, max_size=2).map(tuple)

of_tasks = st.one_of(
    st.builds(events.Submission, task_id=task_ids, spec=st.sampled_from(SPECS)).map(lambda s: events.TasksSubmitted((s,))),
    st.builds(control_events.CancelRequested, task_id=task_ids, host_ids=st.lists(host_ids, max_size=1).map(tuple)),
    st.builds(
        events.Plan, task_id=task_ids, hosts=planned_hosts, plan_hash=st.just("x"), part=st.integers(0, 1), parts=st.just(1),
        waves=waves,
    ).map(lambda plan: events.TasksPlanned((plan,))),
    st.builds(events.Refusal, task_id=task_ids, code=st.just("c"), message=st.just("m")).map(
        lambda refusal: events.TasksRefused((refusal,))
    ),
    task_ids.map(lambda task_id: events.TasksTimedOut((task_id,))),
    st.builds(events.TaskEnd, task_id=task_ids, outcome=st.sampled_from(list(Outcome)), counts=st.just({})).map(
        lambda end: events.TasksEnded((end,))
    ),
    st.builds(
        events.AttemptsDispatched, attempts=st.builds(events.Dispatch, **keys, epoch=st.just(1)).map(lambda one: (one,)),
        decided_seq=st.integers(0, 40),
    ),
    st.builds(events.Start, **keys, started_ms=st.just(START_MS)).map(lambda one: events.AttemptsStarted((one,))),
    st.lists(ends, min_size=1, max_size=2).map(lambda some: events.AttemptsEnded(tuple(some))),
    st.builds(events.AttemptKey, **keys).map(lambda key: host_events.ReportsRefused("h1", 1, {"token": 1}, (key,))),
)
window = policy_events.Window(kind="maintenance", target="all", days=(0,), begins="10:00", lasts_minutes=60)
of_admission = st.one_of(
    st.builds(control_events.AllCancelRequested, reason=st.just("r")),
    *(st.builds(kind, task_id=task_ids) for kind in (control_events.PauseRequested, control_events.ResumeRequested, control_events.AbortRequested)),
    st.builds(control_events.TaskApproved, task_id=task_ids, wave=st.integers(1, 3)),
    st.builds(control_events.SkipRequested, task_id=task_ids, host_ids=some_hosts),
    st.builds(events.Halt, task_id=task_ids, failures=st.just(1), failures_max=st.just(0), wave=st.just(1)).map(
        lambda halt: events.TasksHalted((halt,))
    ),
    st.builds(events.Replacement, task_id=task_ids, by_task_id=task_ids).map(lambda one: events.TasksReplaced((one,))),
    st.builds(
        events.WaitingFor, reason=st.sampled_from(["slot", "freeze"]), message=st.just("m"),
        commands=st.builds(events.WaitingCommands, task_id=task_ids, host_ids=some_hosts).map(lambda one: (one,)),
    ).map(lambda group: events.CommandsWaiting((group,))),
    st.builds(policy_events.FleetFrozen, freeze_id=st.sampled_from("ab"), target=st.just("all"), reason=st.just("r")),
    st.builds(policy_events.FleetThawed, freeze_id=st.sampled_from("ab")),
    st.builds(policy_events.WindowSet, name=st.sampled_from("ab"), window=st.just(window)),
    st.builds(policy_events.WindowRemoved, name=st.sampled_from("ab")),
    st.builds(policy_events.QueueLimited, queue=st.sampled_from("ab"), in_flight_max=st.integers(0, 2)),
)
of_tasks = st.one_of(of_tasks, of_admission)
epochs = st.integers(0, 3)
of_hosts = st.one_of(
    host_ids.map(lambda h: host_events.HostEnrolled(host_id=h, name=h, labels={}, public_key="U")),
    host_ids.map(lambda h: host_events.HostRevoked(host_id=h, public_key="U")),
    host_ids.map(lambda h: host_events.HostAccepted(host_id=h)),
    st.builds(host_events.HostLabelled, host_id=host_ids, labels=st.sampled_from([{"a": "b"}, {"a": None}])),
    st.builds(host_events.MaintenanceSet, host_id=host_ids, on=st.booleans(), reason=st.just("r")),
    st.builds(
        host_events.Session, host_id=host_ids, epoch=epochs, nonce=st.just("n"), boot_id=st.just("b"), version=st.just("1"),
        counter=st.integers(0, 9),
    ).map(lambda session: host_events.SessionsOpened((session,))),
    host_ids.map(lambda h: host_events.SessionsRefused((host_events.SessionRefusal(h, "ticket", "m"),))),
    st.builds(host_events.HostEpoch, host_ids, epochs).map(lambda one: host_events.HostsOnline((one,))),
    st.builds(host_events.HostEpoch, host_ids, epochs).map(lambda one: host_events.HostsOffline((one,), "silent")),
    st.builds(events.AttemptsStarted, attempts=st.just(()), counters=st.dictionaries(host_ids, st.integers(0, 20))),
)


def log(data: list[tuple[events.Data, bool]]) -> list[Event]:
    """Return these events as a log would give them back; the flag chooses between two subjects of an end."""
    stored = []
    for seq, (one, decided) in enumerate(data, 1):
        event = Event(id=ids.new_id(START_MS, seq.to_bytes(10, "big")), source="/fleetlog/test/1", data=one, time_ms=START_MS)
        subject = events.REGISTRY[events.NAMES[type(one)]].subject.split()[-1 if decided else 0]
        stored.append(decode(encode(event), seq=seq, subject=subject, time_ms=START_MS + seq * 10))
    return stored


task_logs = st.lists(st.tuples(of_tasks, st.booleans()), max_size=40).map(log)
# A story that has begun gets further than one that starts with chance.
begun_logs = st.tuples(st.sampled_from(SPECS), st.lists(st.tuples(of_tasks, st.booleans()), max_size=40)).map(
    lambda pair: log([
        (events.TasksSubmitted((events.Submission(TASK_IDS[0], pair[0]),)), False),
        (events.TasksPlanned((events.Plan(TASK_IDS[0], tuple(events.PlannedHost(h, h) for h in HOST_IDS), "x"),)), False),
        *pair[1],
    ])
)
host_logs = st.lists(st.tuples(of_hosts, st.booleans()), max_size=40).map(log)


def copy(value: Any) -> Any:
    """Return *value* as a snapshot of it would be read back."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))


@given(task_logs | begun_logs)
@settings(max_examples=200)
def test_counts_say_what_the_commands_are(stored: list[Event]) -> None:
    tasks = records.Tasks()
    for event in stored:
        lifecycle.apply(tasks, event)
        for task in tasks.by_id.values():
            if task.state in (TaskState.SUBMITTED, TaskState.REFUSED):
                continue
            commands = list(task.commands.values())
            states = [str(one.outcome) if one.state is CommandState.ENDED else one.state.value for one in commands]
            assert task.counts == {state: states.count(state) for state in states}
            assert task.open == sum(one.state is not CommandState.ENDED for one in commands)
            assert task.state is not TaskState.ENDED or task.open == 0


@given(task_logs | begun_logs)
@settings(max_examples=200)
def test_waves_count_their_commands_and_begin_in_order_unless_the_task_is_on_hold(stored: list[Event]) -> None:
    tasks = records.Tasks()
    for event in stored:
        held = {task.task_id for task in tasks.by_id.values() if task.hold}
        changes = lifecycle.apply(tasks, event)
        assert not [change for change in changes if change.what == "dispatched" and change.task.task_id in held]
        for task in tasks.by_id.values():
            assert task.hold is None or task.state not in (TaskState.ENDED, TaskState.REFUSED)
            assert not task.forgiven or task.forgiven <= rollout.failures(task)
            if task.state not in (TaskState.PLANNED, TaskState.ENDED):
                continue
            for number, wave in enumerate(task.waves):
                mine = [one for one in task.commands.values() if one.wave == number]
                assert (wave.hosts, wave.open) == (len(mine), sum(one.state is not CommandState.ENDED for one in mine))
                assert number >= task.wave or not wave.open, "a wave that is behind has ended"
                assert number <= task.wave or not wave.begun_ms, "no wave begins before its turn"


@given(task_logs | begun_logs)
def test_a_command_waits_for_one_reason_at_a_time_and_for_none_once_it_moves(stored: list[Event]) -> None:
    tasks = records.Tasks()
    for event in stored:
        lifecycle.apply(tasks, event)
        for task in tasks.by_id.values():
            for command in task.commands.values():
                assert all(one.until_ms for one in command.waits[:-1])
                assert command.wait is None or command.state is CommandState.WAITING


@given(task_logs, st.integers(0, 40))
def test_a_reader_that_starts_from_a_snapshot_reaches_the_same_policies(stored: list[Event], at: int) -> None:
    kept, restored = policies.Policies(), policies.Policies()
    for number, event in enumerate(stored):
        if number == at:
            restored = copy(restored)
        assert policies.apply(kept, event) == policies.apply(restored, event)
    assert kept == restored


@given(task_logs | begun_logs)
@settings(max_examples=200)
def test_attempts_are_numbered_without_gaps_and_only_the_last_may_be_open(stored: list[Event]) -> None:
    tasks = records.Tasks()
    for event in stored:
        lifecycle.apply(tasks, event)
    for task in tasks.by_id.values():
        for command in task.commands.values():
            assert [attempt.number for attempt in command.attempts] == list(range(1, len(command.attempts) + 1))
            assert all(attempt.end for attempt in command.attempts[:-1])
            assert len(command.attempts) <= task.spec.retry.attempts_max


@given(task_logs | begun_logs)
@settings(max_examples=200)
def test_an_end_never_changes(stored: list[Event]) -> None:
    tasks = records.Tasks()
    first: dict[tuple[str, str, int], events.End] = {}
    for event in stored:
        lifecycle.apply(tasks, event)
        for task in tasks.by_id.values():
            for command in task.commands.values():
                for attempt in command.attempts:
                    if attempt.end is not None:
                        key = (task.task_id, command.host_id, attempt.number)
                        assert first.setdefault(key, attempt.end) == attempt.end


@given(task_logs | begun_logs)
def test_reading_an_event_twice_changes_nothing(stored: list[Event]) -> None:
    tasks = records.Tasks()
    for event in stored:
        lifecycle.apply(tasks, event)
        before = msgspec.msgpack.encode(tasks)
        marks = {"report-refused"}  # an alert is a mark; setting it again is no change
        assert {change.what for change in lifecycle.apply(tasks, event)} <= marks
        assert msgspec.msgpack.encode(tasks) == before


@given(task_logs | begun_logs, st.integers(0, 40))
def test_a_reader_that_starts_from_a_snapshot_reaches_the_same_tasks(stored: list[Event], at: int) -> None:
    kept, restored = records.Tasks(), records.Tasks()
    for number, event in enumerate(stored):
        if number == at:
            restored = copy(restored)
        lifecycle.apply(kept, event)
        lifecycle.apply(restored, event)
    assert kept == restored


@given(task_logs | begun_logs)
def test_any_task_can_be_shown(stored: list[Event]) -> None:
    tasks = records.Tasks()
    for event in stored:
        lifecycle.apply(tasks, event)
    for task in tasks.by_id.values():
        view = task_view(task)
        assert msgspec.json.decode(msgspec.json.encode(view), type=type(view)) == view
        assert sum(group.count for group in view.failures) <= view.hosts


@given(host_logs)
def test_hosts_keep_their_rules(stored: list[Event]) -> None:
    found, epochs_seen = hosts.Hosts(), {}
    for event in stored:
        hosts.apply(found, event)
        for host in found.by_id.values():
            assert host.epoch >= epochs_seen.get(host.host_id, 0), "epochs only grow"
            epochs_seen[host.host_id] = host.epoch
            assert not (host.online and (host.revoked or host.blocked))
            # One that opens its next session stays online meanwhile; only the first ticket has to be used for it.
            assert not host.online or host.ticket_used or host.previous_epoch
            assert host.previous_epoch <= host.epoch


@given(host_logs, st.integers(0, 40))
def test_a_reader_that_starts_from_a_snapshot_reaches_the_same_hosts(stored: list[Event], at: int) -> None:
    kept, restored = hosts.Hosts(), hosts.Hosts()
    for number, event in enumerate(stored):
        if number == at:
            restored = copy(restored)
        hosts.apply(kept, event)
        hosts.apply(restored, event)
    assert kept == restored


@pytest.mark.parametrize("spec", SPECS, ids=["once", "with retries", "in waves"])
def test_these_logs_reach_every_transition(spec: TaskSpec) -> None:
    """What no drawn log can reach would be tested by nobody: this is the shortest story that needs them all."""
    stored = log([
        (events.TasksSubmitted((events.Submission(TASK_IDS[0], spec),)), False),
        (events.TasksPlanned((events.Plan(TASK_IDS[0], (events.PlannedHost("h1", "h1"),), "x"),)), False),
        (events.AttemptsDispatched((events.Dispatch(TASK_IDS[0], "h1", 1, 1),)), False),
        (events.AttemptsStarted((events.Start(TASK_IDS[0], "h1", 1, START_MS),)), False),
        (events.AttemptsEnded((events.End(TASK_IDS[0], "h1", 1, Outcome.SUCCESS, Ran.YES),)), False),
        (events.TasksEnded((events.TaskEnd(TASK_IDS[0], Outcome.SUCCESS, {}),)), False),
    ])
    tasks = records.Tasks()
    assert all(lifecycle.apply(tasks, event) for event in stored)
