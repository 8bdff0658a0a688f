"""What the bus stores: order, expected sequences, atomic batches, reading, looking. On NATS and in memory alike."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleetlog_runtime.pure.bus import AppendRefused, Batch, Bus, BusFull, Draft, NotFound, NotSent, Stored
from fleetlog_schemas import limits

D = "evt.dispatch"


def one(body: bytes, subject: str = D, **more: Any) -> Batch:
    return Batch(drafts=(Draft(subject, body),), message_id=more.pop("message_id", uuid.uuid4().hex), **more)


def several(*bodies: bytes, subject: str = D, **more: Any) -> Batch:
    drafts = tuple(Draft(subject, body) for body in bodies)
    return Batch(drafts=drafts, message_id=more.pop("message_id", uuid.uuid4().hex), **more)


async def last(bus: Bus, subject: str = D) -> int:
    try:
        return (await bus.get_last("EVENTS", subject)).seq
    except NotFound:
        return 0


async def collect(chunks: AsyncIterator[list[Stored]], count: int) -> list[Stored]:
    found: list[Stored] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await anext(chunks)
    return found


def run(connect, scenario, user: str = "dispatcher") -> None:
    async def main() -> None:
        async with connect(user) as bus:
            await scenario(bus)

    asyncio.run(main())


def test_an_append_gives_the_sequence_under_which_it_is_read(connect):
    async def scenario(bus):
        before_ms = int(time.time() * 1000) - 1
        seq = await bus.append(one(b"hello"))
        stored = await bus.get("EVENTS", seq)
        assert (stored.seq, stored.subject, stored.body, stored.batch_end) == (seq, D, b"hello", True)
        assert before_ms <= stored.time_ms <= time.time() * 1000 + 1

    run(connect, scenario)


def test_sequences_grow_by_one(connect):
    async def scenario(bus):
        first = await bus.append(one(b"1"))
        assert [await bus.append(one(b"2")), await bus.append(one(b"3"))] == [first + 1, first + 2]

    run(connect, scenario)


def test_an_append_with_the_right_expected_sequence_is_stored(connect):
    async def scenario(bus):
        seq = await bus.append(one(b"a"))
        assert await bus.append(one(b"b", expected_subject=D, expected_seq=seq)) == seq + 1

    run(connect, scenario)


@pytest.mark.parametrize("make", [one, lambda body, **more: several(body, body, **more)], ids=["alone", "batch"])
def test_a_wrong_expected_sequence_stores_nothing_and_says_the_right_one(connect, make):
    async def scenario(bus):
        seq = await bus.append(one(b"a"))
        with pytest.raises(AppendRefused) as refused:
            await bus.append(make(b"b", expected_subject=D, expected_seq=seq - 1))
        assert refused.value.actual_seq == seq
        assert await last(bus) == seq

    run(connect, scenario)


def test_expecting_an_empty_subject_works_once(connect):
    async def scenario(bus):
        # Each implementation gets a subject that nobody wrote; the reporter's rights do not matter here.
        seq = await last(bus)
        if seq:
            with pytest.raises(AppendRefused):
                await bus.append(one(b"first", expected_subject=D, expected_seq=0))
        else:
            assert await bus.append(one(b"first", expected_subject=D, expected_seq=0)) == 1

    run(connect, scenario)


def test_a_message_sent_twice_is_stored_once_and_acknowledged_twice(connect):
    async def scenario(bus):
        batch = one(b"once")
        seq = await bus.append(batch)
        assert await bus.append(batch) == seq
        assert await last(bus) == seq

    run(connect, scenario)


def test_a_message_sent_twice_with_an_expected_sequence_is_refused_with_its_own_sequence(connect):
    async def scenario(bus):
        batch = one(b"once", expected_subject=D, expected_seq=await last(bus))
        seq = await bus.append(batch)
        with pytest.raises(AppendRefused) as refused:
            await bus.append(batch)
        assert refused.value.actual_seq == seq

    run(connect, scenario)


def test_a_batch_is_stored_whole_in_order_with_its_end_marked(connect):
    async def scenario(bus):
        seq = await bus.append(several(b"1", b"2", b"3"))
        found = await bus.get_range("EVENTS", seq - 2, 3)
        assert [(one.seq, one.body, one.batch_end) for one in found] == [
            (seq - 2, b"1", False), (seq - 1, b"2", False), (seq, b"3", True),
        ]

    run(connect, scenario)


def test_a_batch_sent_twice_is_refused_and_stored_once(connect):
    async def scenario(bus):
        batch = several(b"1", b"2")
        seq = await bus.append(batch)
        with pytest.raises(AppendRefused):
            await bus.append(batch)
        assert (await bus.state("EVENTS")).last_seq == seq

    run(connect, scenario)


def test_a_fenced_batch_sent_twice_is_refused_with_its_own_last_sequence(connect):
    async def scenario(bus):
        batch = several(b"1", b"2", expected_subject=D, expected_seq=await last(bus))
        seq = await bus.append(batch)
        with pytest.raises(AppendRefused) as refused:
            await bus.append(batch)
        assert refused.value.actual_seq == seq

    run(connect, scenario)


def test_the_largest_batch_is_taken_and_a_larger_one_refused(connect):
    async def scenario(bus):
        before = (await bus.state("EVENTS")).last_seq
        full = several(*[b"x"] * limits.BATCH_MESSAGES_MAX)
        assert await bus.append(full) == before + limits.BATCH_MESSAGES_MAX
        with pytest.raises(AppendRefused):
            await bus.append(several(*[b"x"] * (limits.BATCH_MESSAGES_MAX + 1)))
        assert (await bus.state("EVENTS")).last_seq == before + limits.BATCH_MESSAGES_MAX

    run(connect, scenario)


@pytest.mark.parametrize("count", [1, 3])
def test_a_message_too_large_for_its_stream_finds_no_room_and_nothing_is_stored(connect, count):
    async def scenario(bus):
        before = (await bus.state("EVENTS")).last_seq
        bodies = [b"small"] * (count - 1) + [b"x" * (limits.EVENT_BYTES_MAX + 8192)]
        with pytest.raises(BusFull):
            await bus.append(several(*bodies) if count > 1 else one(bodies[0]))
        assert (await bus.state("EVENTS")).last_seq == before

    run(connect, scenario)


def test_a_subject_that_no_stream_takes_is_surely_not_sent(connect):
    async def scenario(bus):
        with pytest.raises(NotSent):
            # An agents' subject: this user may publish it, and nothing stores it.
            await bus.append(one(b"x", subject="cmd.nobody"))

    run(connect, scenario)


def test_reading_from_the_middle_begins_there(connect):
    async def scenario(bus):
        seq = [await bus.append(one(b"%d" % number)) for number in range(5)]
        chunks = bus.read("EVENTS", seq[2])
        found = await collect(chunks, 3)
        assert [(stored.seq, stored.body) for stored in found] == [(seq[2], b"2"), (seq[3], b"3"), (seq[4], b"4")]
        await chunks.aclose()

    run(connect, scenario)


def test_reading_where_nothing_is_yet_gives_an_empty_chunk_first_and_then_follows(connect):
    async def scenario(bus):
        seq = await bus.append(one(b"before"))
        chunks = bus.read("EVENTS", seq + 1)
        async with asyncio.timeout(5):
            assert await anext(chunks) == []
        waiting = asyncio.create_task(collect(chunks, 2))
        await asyncio.sleep(0)
        await bus.append(one(b"live"))
        await bus.append(one(b"live too"))
        found = await waiting
        assert [stored.body for stored in found] == [b"live", b"live too"]
        await chunks.aclose()

    run(connect, scenario)


@pytest.mark.parametrize("ahead", [True, False])
def test_chunks_end_at_batch_ends_and_are_never_empty_but_the_first(connect, ahead):
    async def scenario(bus):
        start = (await bus.state("EVENTS")).last_seq + 1
        chunks = bus.read("EVENTS", start, ahead=ahead)
        assert await anext(chunks) == []
        writing = asyncio.create_task(write_batches(bus, 40, 30))
        total = 0
        async with asyncio.timeout(20):
            while total < 40 * 30:
                chunk = await anext(chunks)
                assert chunk
                assert chunk[-1].batch_end
                assert [stored.seq for stored in chunk] == list(
                    range(start + total, start + total + len(chunk))
                )
                total += len(chunk)
        await writing
        await chunks.aclose()

    async def write_batches(bus, count, size):
        for number in range(count):
            await bus.append(several(*[b"%d" % number] * size))

    run(connect, scenario)


@pytest.mark.parametrize("ahead", [True, False])
def test_reading_much_gives_all_of_it_in_order(connect, ahead):
    async def scenario(bus):
        start = (await bus.state("EVENTS")).last_seq + 1
        for _ in range(8):
            await bus.append(several(*[b"x" * 100] * 1000))
        chunks = bus.read("EVENTS", start, ahead=ahead)
        found = await collect(chunks, 8000)
        assert [stored.seq for stored in found] == list(range(start, start + 8000))
        await chunks.aclose()

    run(connect, scenario)


def test_a_reader_that_rests_gets_what_came_meanwhile_as_one_chunk(connect):
    async def scenario(bus):
        start = (await bus.state("EVENTS")).last_seq + 1
        chunks = bus.read("EVENTS", start, ahead=False)
        assert await anext(chunks) == []
        for round_number in range(3):
            waiting = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0)
            await bus.append(one(b"first"))
            assert len(await waiting) == 1, round_number
            for _ in range(20):
                await bus.append(one(b"meanwhile"))
            assert len(await anext(chunks)) == 20, round_number
        await chunks.aclose()

    run(connect, scenario)


def test_two_readers_see_the_same(connect):
    async def scenario(bus):
        start = (await bus.state("EVENTS")).last_seq + 1
        left, right = bus.read("EVENTS", start), bus.read("EVENTS", start)
        assert await anext(left) == await anext(right) == []
        for number in range(20):
            await bus.append(one(b"%d" % number))
        assert await collect(left, 20) == await collect(right, 20)
        await left.aclose()
        await right.aclose()

    run(connect, scenario)


def test_what_is_read_is_what_is_got(connect):
    async def scenario(bus):
        seq = await bus.append(several(b"1", b"2"))
        chunks = bus.read("EVENTS", seq - 1)
        assert await collect(chunks, 2) == await bus.get_range("EVENTS", seq - 1, 10)
        assert await bus.get("EVENTS", seq) == await bus.get_last("EVENTS", D)
        await chunks.aclose()

    run(connect, scenario)


def test_what_is_not_there_is_not_found(connect):
    async def scenario(bus):
        with pytest.raises(NotFound):
            await bus.get("EVENTS", (await bus.state("EVENTS")).last_seq + 10)
        with pytest.raises(NotFound):
            await bus.get_last("EVENTS", "evt.nothing-here")
        assert await bus.get_range("EVENTS", (await bus.state("EVENTS")).last_seq + 1, 5) == []

    run(connect, scenario)


def test_a_range_is_limited_and_may_be_of_one_subject(connect):
    async def scenario(bus):
        start = (await bus.state("LEADERS")).last_seq + 1
        for number in range(3):
            await bus.append(one(b"%d" % number, subject="lead.dispatcher"))
        await bus.append(one(b"e", subject=D))
        assert len(await bus.get_range("EVENTS", 1, 1)) == 1
        # LEADERS keeps one message of a subject.
        found = await bus.get_range("LEADERS", start, 10, "lead.dispatcher")
        assert [stored.body for stored in found] == [b"2"]
        assert await bus.get_range("LEADERS", start, 10, "lead.other") == []

    run(connect, scenario)


def test_a_range_of_many_is_complete(connect):
    async def scenario(bus):
        start = (await bus.state("EVENTS")).last_seq + 1
        for _ in range(3):
            await bus.append(several(*[b"x" * 1000] * 1000))
        found = await bus.get_range("EVENTS", start, 3000)
        assert [stored.seq for stored in found] == list(range(start, start + 3000))

    run(connect, scenario)


def test_a_time_leads_to_the_first_message_stored_then(connect):
    async def scenario(bus):
        early = await bus.get("EVENTS", await bus.append(one(b"early")))
        later = early
        while later.time_ms <= early.time_ms:
            later = await bus.get("EVENTS", await bus.append(one(b"later")))
        assert await bus.seq_at("EVENTS", later.time_ms) == later.seq
        assert await bus.seq_at("EVENTS", later.time_ms + 60_000) == later.seq + 1
        first = (await bus.state("EVENTS")).first_seq
        assert await bus.seq_at("EVENTS", 0) == first

    run(connect, scenario)


def test_the_state_says_where_a_stream_begins_and_ends(connect):
    async def scenario(bus):
        seq = await bus.append(one(b"x" * 1000))
        before = await bus.state("EVENTS")
        assert (before.first_seq, before.last_seq) == (1, seq)
        await bus.append(one(b"x" * 1000))
        after = await bus.state("EVENTS")
        assert after.last_seq == seq + 1
        assert after.bytes >= before.bytes + 1000
        assert after.bytes_max > after.bytes

    run(connect, scenario)


def test_a_leaders_message_expires_and_its_subject_counts_as_empty_then(connect):
    async def scenario(bus):
        draft = Draft("lead.dispatcher", b"me", {"Nats-TTL": "1s"})
        seq = await bus.append(Batch(drafts=(draft,), message_id=""))
        assert (await bus.get_last("LEADERS", "lead.dispatcher")).seq == seq
        async with asyncio.timeout(5):
            while True:
                try:
                    await bus.get_last("LEADERS", "lead.dispatcher")
                except NotFound:
                    break
                await asyncio.sleep(0.05)
        again = Batch(drafts=(draft,), message_id="", expected_subject="lead.dispatcher", expected_seq=0)
        assert await bus.append(again) > seq

    run(connect, scenario)


def test_blobs_are_kept_by_their_digest_and_kept_once(connect):
    async def scenario(bus):
        body = bytes(range(256)) * 2000
        sha256 = await bus.put_blob(body)
        assert await bus.put_blob(body) == sha256
        assert await bus.get_blob(sha256) == body
        empty = await bus.put_blob(b"")
        assert await bus.get_blob(empty) == b""
        with pytest.raises(NotFound):
            await bus.get_blob("0" * 64)
        with pytest.raises(ValueError, match="one blob"):
            await bus.put_blob(bytes(limits.BLOB_BYTES_MAX + 1))

    run(connect, scenario, user="gateway")


def test_a_batch_may_expect_the_last_sequence_of_another_subject_too(connect):
    async def scenario(bus):
        def batch(seq: int, schedule_seq: int) -> Batch:
            drafts = (Draft("evt.tick", b"fired"), Draft("evt.request", b"submitted"))
            return Batch(
                drafts=drafts, message_id=uuid.uuid4().hex, expected_subject="evt.tick", expected_seq=seq,
                also_expected=(("evt.schedule", schedule_seq),),
            )

        seq = await bus.append(one(b"t", subject="evt.tick"))
        schedule_seq = await last(bus, "evt.schedule")
        for stale in (batch(seq, schedule_seq + 1), batch(seq + 1, schedule_seq)):
            with pytest.raises(AppendRefused):
                await bus.append(stale)
        assert (await bus.state("EVENTS")).last_seq == seq
        assert await bus.append(batch(seq, schedule_seq)) == seq + 2

    run(connect, scenario, "scheduler")
