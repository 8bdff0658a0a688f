"""A purge by subject, which only the keeper may do: what goes, what stays, and what a reader sees of it."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from fleetlog_runtime.pure.bus import Batch, Draft, NotFound


def one(subject: str, **more) -> Batch:
    return Batch(drafts=(Draft(subject, subject.encode()),), message_id=uuid.uuid4().hex, **more)


def test_a_purge_removes_one_subject_below_a_sequence_and_leaves_a_hole(connect):
    async def scenario(bus, keeper):
        kept = await bus.append(one("evt.catalog"))
        gone = await bus.append(one("evt.request"))
        between = await bus.append(one("evt.catalog"))
        last = await bus.append(one("evt.request"))

        assert await keeper.purge("EVENTS", "evt.request", last) == 1
        assert await keeper.purge("EVENTS", "evt.request", last) == 0

        found = await bus.get_range("EVENTS", kept, 10)
        assert [stored.seq for stored in found] == [kept, between, last]
        with pytest.raises(NotFound):
            await bus.get("EVENTS", gone)

    async def main():
        async with connect("gateway") as bus, connect("keeper") as keeper:
            await scenario(bus, keeper)

    asyncio.run(main())


def test_the_last_message_that_stays_keeps_the_fence_and_without_it_the_bus_forgets(connect):
    async def main():
        async with connect("gateway") as bus, connect("keeper") as keeper:
            await bus.append(one("evt.host"))
            last = await bus.append(one("evt.host"))
            await keeper.purge("EVENTS", "evt.host", last)
            after = await bus.append(one("evt.host", expected_subject="evt.host", expected_seq=last))

            await keeper.purge("EVENTS", "evt.host", after + 1)
            # This is why the keeper never takes a subject's last message: the fence is open to anybody's zero.
            assert await bus.append(one("evt.host", expected_subject="evt.host", expected_seq=0)) == after + 1

    asyncio.run(main())
