"""What becomes history of what a host reports."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_result_recorder.gather import gather
from fleetlog_result_recorder.verify import Refusals, Verdict, cut, verify
from fleetlog_schemas import events, host_events, limits, reports, tokens, wire
from fleetlog_schemas.outcomes import Outcome, Ran

KEY = b"k" * 32
KEYS = {tokens.key_id(KEY): KEY}
TASK = "0190163d-8694-739b-aea5-966c26f8ad91"


def proof(host_id: str = "h1", attempt: int = 1, task_id: str = TASK) -> dict[str, Any]:
    return {
        "task_id": task_id, "attempt": attempt, "token": tokens.attempt_token(KEY, task_id, host_id, attempt),
        "token_key_id": tokens.key_id(KEY),
    }


def ended(outcome: Outcome = Outcome.SUCCESS, ran: Ran = Ran.YES, **fields: Any) -> reports.ReportEnded:
    return reports.ReportEnded(**{**proof(), "outcome": outcome, "ran": ran, **fields})


def report(*items: reports.ReportItem, counter: int = 7) -> bytes:
    return wire.encode(reports.Report(report_id="r", epoch=1, counter=counter, items=items))


def test_a_proved_end_becomes_an_end_with_the_host_of_the_subject() -> None:
    verdict = verify("h1", report(ended(exit_code=0, duration_ms=5)), KEYS)
    assert verdict.refused == {}
    assert verdict.counter == 7
    assert [(end.host_id, end.outcome, end.duration_ms) for end in verdict.ends] == [("h1", Outcome.SUCCESS, 5)]


def test_a_start_and_facts_are_taken_too() -> None:
    start = reports.ReportStarted(**proof(), started_ms=3, slot=2)
    verdict = verify("h1", report(start, reports.ReportFacts(facts={"os": "linux"})), KEYS)
    assert [(one.started_ms, one.slot) for one in verdict.starts] == [(3, 2)]
    assert verdict.facts == host_events.FactsChanged(host_id="h1", facts={"os": "linux"})


@pytest.mark.parametrize(
    "item",
    [
        ended(token="0" * 32),
        ended(attempt=2),
        ended(task_id="0190163d-8694-739b-aea5-000000000000"),
        ended(token_key_id="other"),
    ],
)
def test_a_report_without_the_attempts_token_is_refused(item: reports.ReportEnded) -> None:
    verdict = verify("h1", report(item), KEYS)
    assert (verdict.refused, verdict.ends) == ({"token": 1}, [])


def test_a_report_of_one_host_sent_by_another_is_refused() -> None:
    verdict = verify("h2", report(ended()), KEYS)
    assert (verdict.refused, verdict.ends, verdict.counter) == ({"token": 1}, [], 0)


@pytest.mark.parametrize(
    ("outcome", "ran"),
    [(Outcome.SKIPPED, Ran.NO), (Outcome.SUCCESS, Ran.NO), (Outcome.UNREACHED, Ran.YES), (Outcome.LOST, Ran.YES)],
)
def test_what_an_agent_cannot_know_is_refused(outcome: Outcome, ran: Ran) -> None:
    assert verify("h1", report(ended(outcome, ran)), KEYS).refused == {"form": 1}


def test_a_counter_without_a_proof_counts_for_nothing() -> None:
    verdict = verify("h1", report(reports.ReportFacts(facts={}), counter=1 << 60), KEYS)
    assert verdict.counter == 0


@given(st.binary(max_size=300))
def test_any_bytes_give_a_verdict(body: bytes) -> None:
    verdict = verify("h1", body, KEYS)
    assert not verdict.ends


def test_what_is_too_large_is_refused() -> None:
    assert verify("h1", b"x" * (limits.REPORT_BYTES_MAX + 1), KEYS).refused == {"size": 1}
    facts = reports.ReportFacts(facts={"a": "x" * limits.FACTS_BYTES_MAX})
    assert verify("h1", report(facts), KEYS).refused == {"size": 1}


def test_texts_are_cut_to_their_limits_without_broken_characters() -> None:
    verdict = verify("h1", report(ended(tail="é" * 5_000, error="x" * 9_000)), KEYS)
    [end] = verdict.ends
    assert len(end.tail.encode()) <= limits.OUTPUT_TAIL_BYTES_MAX
    assert len(end.error) == limits.ERROR_TEXT_BYTES_MAX
    assert cut("aé", 1) == ""


def test_many_reports_become_few_events_starts_before_ends() -> None:
    verdicts = [
        verify("h1", report(reports.ReportStarted(**proof(), started_ms=1), counter=3), KEYS),
        verify("h1", report(ended(), counter=4), KEYS),
        verify("h2", report(reports.ReportEnded(**proof("h2"), outcome=Outcome.SUCCESS, ran=Ran.YES), counter=9), KEYS),
    ]
    started, finished = gather(verdicts)
    assert isinstance(started, events.AttemptsStarted)
    assert isinstance(finished, events.AttemptsEnded)
    assert len(finished.attempts) == 2
    assert finished.counters == {"h1": 4, "h2": 9}


def test_large_ends_are_split_over_events_that_fit() -> None:
    verdict = Verdict("h1", counter=1)
    verdict.ends = [
        events.End(task_id=TASK, host_id="h1", attempt=1, outcome=Outcome.SUCCESS, ran=Ran.YES, tail="x" * 2_000)
    ] * 500
    found = list(gather([verdict]))
    assert len(found) > 1
    assert sum(len(one.attempts) for one in found if isinstance(one, events.AttemptsEnded)) == 500


def test_refusals_are_counted_by_host_and_minute_and_told_when_the_minute_is_over() -> None:
    refusals = Refusals()
    for _ in range(3):
        refusals.add(verify("h1", report(ended(token="0" * 32)), KEYS), 60_000)
    assert refusals.due(119_000) == []
    [told] = refusals.due(120_000)
    assert (told.host_id, told.minute, told.counts) == ("h1", 1, {"token": 3})
    assert [key.task_id for key in told.attempts] == [TASK]
    assert refusals.due(500_000) == []


def test_artifacts_that_no_agent_would_name_so_are_left_out() -> None:
    good = events.Artifact("app.tar", 3, "a" * 64, 1, 2)
    bad = [("../x", 3, "a" * 64, 1, 2), ("x", -1, "a" * 64, 1, 2), ("x", 3, "A", 1, 2), ("x", 3, "a" * 64, 5, 2), ("x", 1 << 60, "a" * 64, 1, 2)]
    verdict = verify("h1", report(ended(artifacts=(good, *(events.Artifact(*one) for one in bad)))), KEYS)
    assert [end.artifacts for end in verdict.ends] == [(good,)]
