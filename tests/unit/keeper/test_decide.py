"""When the keeper seals and prunes, in which order, and what it never does."""

from __future__ import annotations

import msgspec
import pytest

from fleetlog_keeper import works
from fleetlog_keeper.live import RETRY_MS, TOLD
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.effects import Request
from fleetlog_schemas import archive_events, chain, events, host_events, policy_events
from fleetlog_schemas.alert_events import AlertsResolved
from fleetlog_schemas.schedule_events import TickDecision, TicksDecided
from fleetlog_testing.keeping import DAY_MS, SETTINGS, Stage


def old(stage: Stage, days: int = 31) -> None:
    """Let so much time pass that everything so far is old."""
    stage.settle()
    stage.settle(days * DAY_MS)


def full(count: int = 4, stage: Stage | None = None) -> Stage:
    """Return a stage on which so many tasks have passed: five events each."""
    stage = stage or Stage()
    for _ in range(count):
        stage.ended()
    return stage


# --- sealing ---


def test_a_segment_is_sealed_when_there_are_enough_events_and_not_before():
    stage = full(1)
    stage.settle()
    assert stage.sealed == []
    stage.ended()
    stage.settle()
    assert [(one.first_seq, one.last_seq) for one in stage.sealed] == [(1, 10)]


def test_segments_follow_on_one_another_without_a_hole_and_are_chained():
    stage = full(13)
    stage.settle()
    assert [one.first_seq for one in stage.sealed] == [1, 11, 21, 31, 41, 51, 61]
    heads = [segments.unpack(stage.disk[one.first_seq], one).head for one in stage.sealed]
    assert segments.joined(heads) == ""
    assert heads[0].chain_before == chain.START


def test_few_large_events_make_a_segment_too():
    stage = Stage(msgspec.structs.replace(SETTINGS, segment_bytes=1_000))
    stage.submitted()
    stage.settle()
    assert stage.sealed == []
    for _ in range(4):
        stage.happened(host_events.HostLabelled("h1", {"note": "x" * 200}))
    stage.settle(SETTINGS.look_ms)
    assert stage.sealed[0].first_seq == 1
    assert stage.sealed[0].last_seq < 6


def test_a_segment_that_is_not_full_is_not_read_again_and_again():
    stage = Stage(msgspec.structs.replace(SETTINGS, segment_bytes=10_000))
    stage.happened(host_events.HostLabelled("h1", {"note": "x" * 200}))
    for _ in range(5):
        stage.settle(SETTINGS.look_ms)
    assert not [what for what in stage.did if isinstance(what, works.Make)]


def test_what_is_in_the_log_is_only_what_was_read_back_from_the_disk():
    stage = Stage(by_hand=True)
    full(2, stage)
    stage.settle()
    stage.done(works.Room(1, 100))
    stage.settle()
    assert isinstance(stage.did[-1], works.Make)
    stage.done(error="the disk is full")
    stage.settle()
    assert stage.sealed == []
    assert stage.status().error == "the disk is full"
    asked = len(stage.did)
    stage.settle(RETRY_MS)
    assert len(stage.did) > asked, "it is tried again"


def test_a_keeper_that_takes_over_before_the_segment_is_in_the_log_makes_the_same_one():
    stage = full(2)
    stage.settle()
    at_rest = dict(stage.disk)
    stage.log = stage.log[:10]
    stage.take_over()
    stage.settle()
    assert stage.disk == at_rest
    assert len(stage.sealed) == 1


def test_a_segment_that_another_keeper_sealed_meanwhile_is_not_sealed_again():
    stage = Stage(by_hand=True)
    full(2, stage)
    stage.settle()
    stage.done(works.Room(1, 100))
    stage.settle()
    sealed, _ = segments.pack(stage.log[:10], chain.START)
    stage.happened(sealed)
    stage.done(sealed)
    stage.settle()
    assert stage.sealed == [sealed]
    assert len([one for one in stage.log if one.subject == events.ARCHIVE]) == 1


# --- pruning ---


def test_what_is_sealed_and_old_is_pruned_and_the_rest_stays():
    stage = full(4)
    old(stage)
    full(4, stage)
    stage.settle()
    assert [(one.through_seq, one.reason) for one in stage.pruned] == [(20, "age")]
    assert len(stage.sealed) == 4
    below = stage.pruned[0].below
    assert stage.gone == {one.seq for one in stage.log[:20] if one.seq < below.get(one.subject, 0)}
    assert {16, 19, 20}.isdisjoint(stage.gone), "the last ones of their subjects at that time"
    assert len(stage.gone) == 17
    # Another day brings nothing new.
    did = len(stage.pruned)
    stage.settle(1)
    assert len(stage.pruned) == did


def test_nothing_young_is_pruned_while_there_is_room():
    stage = full(8)
    old(stage, days=29)
    assert stage.pruned == []


def test_what_an_open_task_began_after_stays():
    stage = full(2)
    task_id = stage.submitted()
    full(4, stage)
    old(stage)
    assert stage.pruned[-1].through_seq == 10
    assert stage.status().held_back == f"task {task_id} is open"
    stage.refused(task_id)
    stage.settle(SETTINGS.look_ms)
    assert stage.pruned[-1].through_seq > 10
    assert stage.status().held_back == ""


def test_a_pruning_starts_with_the_checked_segments_and_ends_with_the_purge():
    stage = full(4)
    old(stage)
    kinds = [type(what) for what in stage.did if not isinstance(what, works.Look)]
    assert kinds[-2:] == [works.Check, works.Purge]
    assert stage.did[kinds.index(works.Check)] is not None
    (pruned,) = stage.pruned
    assert works.Check(1, pruned.through_seq) in stage.did
    assert works.Purge(1, pruned.through_seq, pruned.below) in stage.did


def test_a_segment_that_cannot_be_read_again_keeps_everything():
    stage = Stage(by_hand=True)
    full(4, stage)

    def until(kind: type, error: str = "") -> None:
        for _ in range(20):
            stage.settle()
            if isinstance(stage.did[-1], kind):
                return
            stage.done(stage._do(stage.did[-1]))

    until(works.Make)
    stage.now_ms += 31 * DAY_MS
    until(works.Check)
    stage.done(error="a segment is damaged")
    stage.settle()
    assert stage.pruned == []
    assert stage.gone == set()
    assert stage.status().error == "a segment is damaged"


def test_the_last_message_of_a_subject_stays():
    stage = Stage()
    for _ in range(3):
        stage.ended()
    for number in range(20):
        stage.happened(host_events.HostLabelled("h1", {"n": str(number)}))
    old(stage)
    (pruned,) = stage.pruned
    written = set(archive_events.PRUNABLE) & {one.subject for one in stage.log}
    last = {subject: max(one.seq for one in stage.log if one.subject == subject) for subject in written}
    assert pruned.through_seq > max(last.values())
    assert pruned.below == last
    assert not set(last.values()) & stage.gone


def test_only_requests_dispatches_reports_ticks_and_alerts_are_pruned():
    stage = full(2)
    for number in range(2):
        stage.happened(TicksDecided((TickDecision(name="s", outcome="missed", nominal_ms=number + 1),)))
        stage.happened(AlertsResolved((f"a{number}",)))
    for data in (
        host_events.HostLabelled("h1", {"a": "b"}), policy_events.QueueLimited("q", 1), host_events.AccessRefused(1, {"token": 1}),
        policy_events.FleetThawed("f"),
    ):
        stage.happened(data)
    full(4, stage)
    old(stage)
    assert stage.pruned
    assert {stage.log[seq - 1].subject for seq in stage.gone} == set(archive_events.PRUNABLE)


@pytest.mark.parametrize("service", ["dispatcher", "scheduler", "reporter", "keeper"])
def test_what_a_service_would_read_on_from_stays(service):
    stage = full(6)
    stage.snapshots[service] = 15
    old(stage)
    assert stage.pruned[-1].through_seq == 10
    assert stage.status().held_back == f"the {service} would read on from there"
    stage.snapshots[service] = 40
    stage.settle(SETTINGS.look_ms)
    assert stage.pruned[-1].through_seq >= 30


def test_the_slowest_instance_of_a_service_counts_and_one_that_is_gone_does_not():
    stage = full(6)
    stage.settle()
    stage.told("dispatcher", 15, instance="b2")
    old(stage, days=0)
    stage.now_ms += 31 * DAY_MS
    stage.told("dispatcher", 12, instance="b2")
    stage.settle()
    assert stage.pruned[-1].through_seq == 10
    # b2 does not answer any more, a1 still does.
    for _ in range(5):
        stage.settle(SETTINGS.look_ms)
    assert stage.pruned[-1].through_seq > 10


def test_a_service_that_does_not_answer_is_waited_for_and_then_it_will_read_the_archive():
    stage = full(6)
    old(stage, days=0)
    del stage.snapshots["reporter"]
    stage.now_ms += 31 * DAY_MS
    stage.take_over()
    stage.settle()
    assert stage.pruned == []
    assert stage.status().held_back == "the reporter does not answer, and may have to read on from there"
    stage.settle(SETTINGS.silent_ms)
    assert stage.pruned[-1].through_seq == 30


def test_a_log_that_is_too_full_loses_its_oldest_segments_until_it_is_not():
    stage = full(12)
    stage.settle()
    size = sum(len(one.body) for one in stage.log)
    stage.bytes_max = int(size * 1.2)
    stage.settle(SETTINGS.look_ms)
    assert {one.reason for one in stage.pruned} == {"room"}
    left = sum(len(one.body) for one in stage.log if one.seq not in stage.gone)
    assert left <= stage.settings.full_ratio * stage.bytes_max
    assert stage.pruned[-1].through_seq < stage.sealed[-1].last_seq, "no more than is needed"


def test_also_for_room_an_open_task_is_kept_and_said_to_be_why():
    stage = Stage()
    task_id = stage.submitted()
    full(12, stage)
    stage.settle()
    stage.bytes_max = 1_000
    stage.settle(SETTINGS.look_ms)
    assert stage.pruned == []
    assert stage.status().held_back == f"task {task_id} is open"


def test_a_purge_that_was_cut_off_is_done_by_whoever_leads_next():
    stage = full(4)
    old(stage)
    stage.gone.clear()
    stage.did.clear()
    stage.take_over()
    stage.settle()
    purge = next(what for what in stage.did if isinstance(what, works.Purge))
    assert (purge.through_seq, purge.below) == (stage.pruned[-1].through_seq, stage.pruned[-1].below)
    assert stage.gone
    assert len(stage.pruned) == 1, "and it is not said twice"


def test_nothing_is_purged_before_the_pruning_was_read_back():
    stage = full(4)
    stage.settle()
    stage.now_ms += 31 * DAY_MS
    order = []
    original = stage._store

    def store(subject: str, body: bytes) -> int:
        order.append("stored" if b"log.pruned" in body else "other")
        assert not [what for what in stage.did if isinstance(what, works.Purge)] or "stored" in order
        return original(subject, body)

    stage._store = store  # type: ignore[method-assign]
    stage.settle()
    assert "stored" in order
    assert stage.gone


def test_strange_words_on_the_bus_change_nothing():
    stage = full(4)
    for body in (b"", b"{", b'{"service":"dispatcher"}', b'{"service":"x","instance":"y","snapshot":-1}', b"\xff" * 9):
        stage.engine.observe(Request(TOLD, body, ""), stage.now_ms)
    old(stage)
    assert stage.pruned
