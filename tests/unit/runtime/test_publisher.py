"""Appends of many share one batch; each gets its own sequence; one that does not fit fails alone."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from fleetlog_runtime.pure.bus import AppendUnsettled, Batch, BusFull, Draft
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_runtime.shell.publisher import Publisher, TooMany
from fleetlog_schemas import limits


class Counting(MemoryBus):
    """Counts batches, and loses answers or messages when told to."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.batches: list[Batch] = []
        self.lose_answers = 0
        self.lose_messages = 0

    async def append(self, batch: Batch) -> int:
        self.batches.append(batch)
        if self.lose_messages:
            self.lose_messages -= 1
            raise AppendUnsettled("lost on the way")
        seq = await super().append(batch)
        if self.lose_answers:
            self.lose_answers -= 1
            raise AppendUnsettled("lost on the way back")
        return seq


def run(scenario, waiting_max: int = 1000) -> None:
    async def main() -> None:
        bus = Counting(MemoryBroker())
        publisher = Publisher(bus, waiting_max, structlog.get_logger())
        running = asyncio.create_task(publisher.run())
        try:
            await scenario(bus, publisher)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def draft(number: int, size: int = 0) -> Draft:
    return Draft("evt.request", b"%d" % number + b"x" * size)


async def stored(bus: Counting) -> dict[bytes, int]:
    return {one.body: one.seq for one in await bus.get_range("EVENTS", 1, 10_000)}


def test_many_at_once_share_few_batches_and_each_gets_its_own_sequence():
    async def scenario(bus, publisher):
        seqs = await asyncio.gather(*(publisher.append(draft(number)) for number in range(500)))
        assert await stored(bus) == {b"%d" % number: seq for number, seq in enumerate(seqs)}
        assert len(bus.batches) <= 3

    run(scenario)


def test_drafts_given_together_are_stored_together():
    async def scenario(bus, publisher):
        seq = await publisher.append(draft(1), draft(2), draft(3))
        assert await stored(bus) == {b"1": seq - 2, b"2": seq - 1, b"3": seq}

    run(scenario)


@pytest.mark.parametrize("count", [1, 3])
def test_a_lost_answer_is_settled_by_the_same_bytes_and_the_log(count):
    async def scenario(bus, publisher):
        await publisher.append(draft(0))
        bus.lose_answers = 1
        seqs = await asyncio.gather(*(publisher.append(draft(number)) for number in range(1, 1 + count)))
        assert await stored(bus) == {b"0": 1, **{b"%d" % (n + 1): seq for n, seq in enumerate(seqs)}}
        assert bus.batches[1] == bus.batches[2]

    run(scenario)


def test_a_lost_message_is_sent_again_and_not_cut_differently_by_what_arrived_meanwhile():
    async def scenario(bus, publisher):
        bus.lose_messages = 2
        first = asyncio.create_task(publisher.append(draft(1)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rest = [asyncio.create_task(publisher.append(draft(number))) for number in range(2, 5)]
        assert await first == 1
        await asyncio.gather(*rest)
        assert bus.batches[0] == bus.batches[1] == bus.batches[2]
        assert len(await stored(bus)) == 4

    run(scenario)


def test_one_that_does_not_fit_fails_alone():
    async def scenario(bus, publisher):
        results = await asyncio.gather(
            publisher.append(draft(1)), publisher.append(draft(2, limits.EVENT_BYTES_MAX + 8192)),
            publisher.append(draft(3)), return_exceptions=True,
        )
        assert isinstance(results[1], BusFull)
        assert set(await stored(bus)) == {b"1", b"3"}

    run(scenario)


def test_a_full_queue_refuses_more_with_a_clear_error():
    async def scenario(_bus, publisher):
        tasks = [asyncio.create_task(publisher.append(draft(number))) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TooMany, match="2 appends"):
            await publisher.append(draft(3))
        assert await asyncio.gather(*tasks) == [1, 2]

    run(scenario, waiting_max=2)


class Recutting(Publisher):
    """A planted bug: after each unsettled answer the batch is cut anew, with an id of its own."""

    async def _settle(self, batch):
        for _ in range(5):
            try:
                return await self._bus.append(batch)
            except AppendUnsettled:
                batch = Batch(drafts=batch.drafts, message_id=f"{batch.message_id}-again")
        raise AssertionError("never settled")


def test_a_planted_publisher_that_cuts_an_unsettled_batch_anew_is_noticed(monkeypatch):
    """What the tests above hold would not hold: the same appends would stand in the log twice."""

    async def scenario(bus, publisher):
        bus.lose_answers = 1
        await publisher.append(draft(1), draft(2))
        found = [one.body for one in await bus.get_range("EVENTS", 1, 10)]
        assert found == [b"1", b"2", b"1", b"2"]
        assert bus.batches[0] != bus.batches[1]

    monkeypatch.setitem(run.__globals__, "Publisher", Recutting)
    run(scenario)
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        run(scenario)
