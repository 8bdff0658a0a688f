"""The engine stores a short decision one by one, each event fenced by the one before, and a long one as a batch."""

from __future__ import annotations

import itertools

from fleetlog_runtime.pure.bus import Batch
from fleetlog_runtime.pure.effects import Append, Effect
from fleetlog_runtime.pure.engine import Engine
from fleetlog_schemas import archive_events, codec, events


class Wanting:
    """A unit that wants these events to be in the log, and counts how often it was asked to decide."""

    name = "wanting"
    subject = events.DISPATCH
    fences = ()
    passes_over: frozenset[type[events.Data]] = frozenset()

    def __init__(self, wanted: list[events.Data]) -> None:
        self.wanted = wanted
        self.decided = 0

    def initial(self) -> list[events.Data]:
        return []

    def fold(self, state: list[events.Data], event: codec.Event) -> object:
        state.append(event.data)
        return None

    def awaken(self, state: list[events.Data], now_ms: int) -> object:
        return object()

    def observe(self, state: list[events.Data], live: object, observation: object, now_ms: int) -> None:
        pass

    def decide(self, state: list[events.Data], live: object, now_ms: int) -> list[Effect]:
        self.decided += 1
        missing = [one for one in self.wanted if one not in state]
        return [Append(tuple(missing))] if missing else []


def leading(wanted: list[events.Data]) -> tuple[Wanting, Engine[list[events.Data], object]]:
    ids = itertools.count(1)
    unit = Wanting(wanted)
    engine = Engine(unit, "/fleetlog/wanting/1", lambda: f"id-{next(ids)}")
    engine.lead(0)
    return unit, engine


def batch_of(engine: Engine[list[events.Data], object]) -> Batch:
    [batch] = engine.step(0)
    assert isinstance(batch, Batch)
    return batch


def read_back(engine: Engine[list[events.Data], object], batch: Batch, first_seq: int) -> None:
    stored = [
        codec.decode(draft.body, seq=first_seq + index, subject=draft.subject, time_ms=0, batch_end=draft is batch.drafts[-1])
        for index, draft in enumerate(batch.drafts)
    ]
    engine.deliver(stored, 0)


def timed_out(*names: str) -> list[events.Data]:
    return [events.TasksTimedOut(task_ids=(name,)) for name in names]


def test_each_event_of_a_short_decision_waits_for_the_one_before_and_is_fenced_by_it() -> None:
    unit, engine = leading(timed_out("a", "b"))
    first = batch_of(engine)
    assert (len(first.drafts), first.expected_seq) == (1, 0)
    assert engine.step(0) == []
    read_back(engine, first, 11)
    second = batch_of(engine)
    assert (len(second.drafts), second.expected_seq) == (1, 11)
    assert unit.decided == 1, "nothing is decided before the whole decision is read back"
    read_back(engine, second, 15)
    assert engine.step(0) == []
    assert unit.decided == 2


def test_the_next_event_of_a_decision_follows_as_soon_as_the_bus_says_where_the_one_before_stands() -> None:
    unit, engine = leading(timed_out("a", "b"))
    first = batch_of(engine)
    second = engine.append_taken(11)
    assert second is not None
    assert (second.expected_seq, second is engine.pending) == (11, True)
    assert engine.append_taken(12) is None, "there is no more"
    read_back(engine, first, 11)
    assert (engine.step(0), unit.decided) == ([], 1), "nothing is decided before the whole decision is read back"
    read_back(engine, second, 12)
    assert (engine.step(0), unit.decided) == ([], 2)


def test_what_follows_and_is_refused_is_decided_anew_once_what_came_in_between_is_read() -> None:
    unit, engine = leading(timed_out("a", "b"))
    first = batch_of(engine)
    assert engine.append_taken(11) is not None
    engine.append_refused(12)
    read_back(engine, first, 11)
    assert (engine.step(0), unit.decided) == ([], 1)
    other = codec.Event(id="other", source="/fleetlog/wanting/2", data=timed_out("c")[0], time_ms=0)
    engine.deliver([codec.decode(codec.encode(other), seq=12, subject=events.DISPATCH, time_ms=0)], 0)
    assert (batch_of(engine).expected_seq, unit.decided) == (12, 2)


def test_where_a_short_decision_breaks_off_the_rest_is_decided_anew() -> None:
    unit, engine = leading(timed_out("a", "b"))
    first = batch_of(engine)
    read_back(engine, first, 11)
    lost = batch_of(engine)
    engine.append_refused(12)
    assert engine.step(0) == [], "what came in between must be read first"
    other = codec.Event(id="other", source="/fleetlog/wanting/2", data=timed_out("c")[0], time_ms=0)
    engine.deliver([codec.decode(codec.encode(other), seq=12, subject=events.DISPATCH, time_ms=0)], 0)
    again = batch_of(engine)
    assert (again.expected_seq, unit.decided) == (12, 2)
    assert again.message_id != lost.message_id
    assert engine.state == timed_out("a", "c")


def test_a_deposed_engine_stores_nothing_more_of_its_decision() -> None:
    _, engine = leading(timed_out("a", "b"))
    read_back(engine, batch_of(engine), 11)
    engine.follow()
    assert engine.step(0) == []
    engine.lead(0)
    assert batch_of(engine).expected_seq == 11


def test_a_long_decision_is_one_batch() -> None:
    _, engine = leading(timed_out("a", "b", "c", "d", "e"))
    batch = batch_of(engine)
    assert (len(batch.drafts), batch.expected_seq) == (5, 0)
    read_back(engine, batch, 11)
    assert engine.step(0) == []


def test_the_parts_of_a_plan_stay_together() -> None:
    parts = [
        events.TasksPlanned(plans=(events.Plan(task_id="a", hosts=(), plan_hash="", part=part, parts=2),)) for part in (0, 1)
    ]
    _, engine = leading([*parts])
    assert len(batch_of(engine).drafts) == 2


def test_of_an_event_that_a_unit_passes_over_it_is_told_only_where_it_stands() -> None:
    unit, engine = leading(timed_out("a"))
    unit.passes_over = frozenset({events.TasksHalted})
    halted = codec.Event(id="halted", source="/fleetlog/other", data=events.TasksHalted(halts=()), time_ms=0)
    engine.deliver([codec.decode(codec.encode(halted), seq=4, subject=events.DISPATCH, time_ms=0)], 0)
    assert engine.state == [events.PASSED_OVER]
    assert (engine.position, batch_of(engine).expected_seq) == (4, 4)


class OnTwoSubjects(Wanting):
    """One that writes a second subject of its own."""

    subject = events.ARCHIVE
    fences = (events.DISPATCH,)


def on_two_subjects(wanted: list[events.Data]) -> Engine[list[events.Data], object]:
    ids = itertools.count(1)
    engine = Engine(OnTwoSubjects(wanted), "/fleetlog/wanting/1", lambda: f"id-{next(ids)}")
    engine.lead(0)
    engine.fence_seqs.update({events.ARCHIVE: 3, events.DISPATCH: 7})
    return engine


def test_a_decision_is_fenced_by_the_subject_that_it_begins_with() -> None:
    sealed = archive_events.SegmentSealed(1, 2, 3, 4, 5, "s", "c")
    batch = batch_of(on_two_subjects([sealed]))
    assert (batch.drafts[0].subject, batch.expected_subject, batch.expected_seq) == (events.ARCHIVE, events.ARCHIVE, 3)
    engine = on_two_subjects(timed_out("a", "b"))
    first = batch_of(engine)
    assert (first.drafts[0].subject, first.expected_subject, first.expected_seq) == (events.DISPATCH, events.DISPATCH, 7)
    read_back(engine, first, 9)
    second = batch_of(engine)
    assert (second.expected_subject, second.expected_seq) == (events.DISPATCH, 9)


def test_a_long_decision_on_a_second_subject_expects_the_first_one_too() -> None:
    batch = batch_of(on_two_subjects(timed_out("a", "b", "c", "d", "e")))
    assert (batch.expected_subject, batch.expected_seq, batch.also_expected) == (events.DISPATCH, 7, ((events.ARCHIVE, 3),))
