"""Plural events are cut so that each fits into one message, and nothing is lost or reordered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetlog_runtime.pure.split import TooLarge, split
from fleetlog_schemas import codec, events, limits
from fleetlog_schemas.outcomes import Outcome, Ran


def ended(entries):
    return events.AttemptsEnded(attempts=entries, counters={entry.host_id: 10**9 for entry in entries})


def end(number: int, tail: str = "") -> events.End:
    return events.End(
        task_id="0" * 36, host_id=f"h{number}", attempt=1, outcome=Outcome.FAILURE, ran=Ran.YES, tail=tail
    )


def fits(data: events.Data) -> bool:
    body = codec.encode(codec.Event(id="0" * 36, source="/fleetlog/dispatcher/" + "i" * 60, data=data, time_ms=0))
    return len(body) <= limits.EVENT_BYTES_MAX


def test_few_entries_are_one_event_and_none_are_none():
    assert list(split(ended, [])) == []
    assert list(split(ended, [end(1), end(2)])) == [ended((end(1), end(2)))]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2_000), max_size=2_500))
def test_all_entries_come_out_in_order_in_events_that_fit(sizes):
    entries = [end(number, "x" * size) for number, size in enumerate(sizes)]
    cut = list(split(ended, entries))
    assert [entry for data in cut for entry in data.attempts] == entries
    assert all(len(data.attempts) <= limits.EVENT_COMMANDS_MAX and fits(data) for data in cut)


def test_what_the_event_adds_for_each_entry_is_counted_too():
    entries = [end(number, "x" * 130) for number in range(1_000)]
    cut = list(split(ended, entries))
    assert all(fits(data) for data in cut)


def test_the_hosts_of_a_plan_count_as_entries():
    def plan(number: int) -> events.Plan:
        hosts = tuple(events.PlannedHost(host_id=f"h{n}", name=f"web{n}") for n in range(600))
        return events.Plan(task_id=str(number), hosts=hosts, plan_hash="p")

    cut = list(split(lambda entries: events.TasksPlanned(plans=entries), [plan(1), plan(2)]))
    assert [len(data.plans) for data in cut] == [1, 1]


def test_one_entry_that_never_fits_is_an_error_that_says_so():
    with pytest.raises(TooLarge, match="AttemptsEnded"):
        list(split(ended, [end(1, "x" * limits.EVENT_BYTES_MAX)]))
