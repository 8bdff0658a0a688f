"""What the bus carries and does not keep, and the work queue. On NATS and in memory alike."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from fleetlog_runtime.pure.bus import Batch, Draft, NoAnswer
from fleetlog_schemas import subjects
from fleetlog_testing.waiting import until

ASK = "ask.dispatcher.test"


def run(scenario) -> None:
    asyncio.run(scenario())


def test_a_message_reaches_every_listener_with_subject_body_and_reply(connect):
    async def scenario():
        async with connect("dispatcher") as service, connect("operator") as person:
            heard = []

            async def handler(subject, body, reply):
                heard.append((subject, body, reply))

            await service.subscribe(ASK, handler)
            await service.subscribe("ask.dispatcher.*", handler)
            await person.publish(ASK, b"hello")
            await until(lambda: len(heard) == 2)
            assert heard == [(ASK, b"hello", "")] * 2

    run(scenario)


def test_messages_of_one_sender_are_heard_in_order_one_at_a_time(connect):
    async def scenario():
        async with connect("dispatcher") as service, connect("operator") as person:
            heard: list[bytes] = []
            inside = 0

            async def handler(_subject, body, _reply):
                nonlocal inside
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1
                heard.append(body)

            await service.subscribe(ASK, handler)
            for number in range(100):
                await person.publish(ASK, b"%d" % number)
            await until(lambda: len(heard) == 100)
            assert heard == [b"%d" % number for number in range(100)]

    run(scenario)


def test_who_stopped_listening_hears_nothing_more(connect):
    async def scenario():
        async with connect("dispatcher") as service, connect("operator") as person:
            gone, stays = [], []

            async def to_gone(_subject, body, _reply):
                gone.append(body)

            async def to_stays(_subject, body, _reply):
                stays.append(body)

            stop = await service.subscribe(ASK, to_gone)
            await service.subscribe(ASK, to_stays)
            await stop()
            await person.publish(ASK, b"x")
            await until(lambda: stays == [b"x"])
            assert gone == []

    run(scenario)


def test_a_request_gets_the_answer_to_it(connect):
    async def scenario():
        async with connect("dispatcher") as service, connect("operator") as person:

            async def handler(_subject, body, reply):
                await service.publish(reply, b"re: " + body)

            await service.subscribe(ASK, handler)
            answers = await asyncio.gather(*(person.request(ASK, b"%d" % n, 5000) for n in range(20)))
            assert answers == [b"re: %d" % n for n in range(20)]

    run(scenario)


def test_an_answer_may_come_long_after_the_request_was_heard(connect):
    async def scenario():
        async with connect("dispatcher") as service, connect("operator") as person:
            replies = []

            async def handler(_subject, _body, reply):
                replies.append(reply)

            await service.subscribe(ASK, handler)
            asked = asyncio.create_task(person.request(ASK, b"", 5000))
            await until(lambda: replies)
            await service.publish(replies[0], b"at last")
            assert await asked == b"at last"

    run(scenario)


def test_without_listeners_there_is_no_answer_and_no_long_wait(connect):
    async def scenario():
        async with connect("operator") as person:
            async with asyncio.timeout(5):
                with pytest.raises(NoAnswer):
                    await person.request("ask.nobody.here", b"", 60_000)

    run(scenario)


def test_a_listener_that_does_not_answer_means_no_answer_in_time(connect):
    async def scenario():
        async with connect("dispatcher") as service, connect("operator") as person:

            async def handler(_subject, _body, _reply):
                pass

            await service.subscribe(ASK, handler)
            with pytest.raises(NoAnswer):
                await person.request(ASK, b"", 100)

    run(scenario)


def test_listeners_of_one_queue_share_its_messages(connect):
    async def scenario():
        async with connect("dispatcher") as service, connect("operator") as person:
            heard: Counter[str] = Counter()

            def listener(name):
                async def handler(_subject, _body, _reply):
                    heard[name] += 1

                return handler

            await service.subscribe(ASK, listener("left"), queue="q")
            await service.subscribe(ASK, listener("right"), queue="q")
            await service.subscribe(ASK, listener("alone"))
            for _ in range(200):
                await person.publish(ASK, b"")
            await until(lambda: heard.total() == 400)
            assert heard["alone"] == 200
            assert heard["left"] + heard["right"] == 200
            assert heard["left"] > 0
            assert heard["right"] > 0

    run(scenario)


def test_a_handler_that_fails_does_not_stop_the_next_message(connect):
    async def scenario():
        async with connect("dispatcher") as service, connect("operator") as person:
            heard = []

            async def handler(_subject, body, _reply):
                if body == b"bad":
                    raise ValueError("cannot take this")
                heard.append(body)

            await service.subscribe(ASK, handler)
            await person.publish(ASK, b"bad")
            await person.publish(ASK, b"good")
            await until(lambda: heard == [b"good"])

    run(scenario)


def test_what_is_acknowledged_leaves_the_work_queue(connect_reports):
    async def scenario():
        async with connect_reports() as (agent, recorder):
            for number in range(5):
                draft = Draft(agent.subject, b"%d" % number)
                await agent.bus.append(Batch(drafts=(draft,), message_id=f"{agent.subject}-{number}"))
            taking = recorder.take(subjects.REPORTS, subjects.RECORDER_CONSUMER)
            taken = []
            async with asyncio.timeout(10):
                while len(taken) < 5:
                    taken += await anext(taking)
            assert [(one.subject, one.body) for one in taken] == [(agent.subject, b"%d" % n) for n in range(5)]
            await recorder.ack(taken)
            await until(lambda: empty(recorder))
            await taking.aclose()

    async def empty(recorder):
        state = await recorder.state(subjects.REPORTS)
        return state.first_seq > state.last_seq

    run(scenario)


def test_a_report_sent_twice_is_taken_once(connect_reports):
    async def scenario():
        async with connect_reports() as (agent, recorder):
            batch = Batch(drafts=(Draft(agent.subject, b"r"),), message_id=f"{agent.subject}-same")
            first = await agent.bus.append(batch)
            assert await agent.bus.append(batch) == first
            taking = recorder.take(subjects.REPORTS, subjects.RECORDER_CONSUMER)
            async with asyncio.timeout(10):
                taken = await anext(taking)
            assert len(taken) == 1
            await recorder.ack(taken)
            await taking.aclose()

    run(scenario)


def test_two_takers_share_a_work_queue(connect_reports):
    async def scenario():
        async with connect_reports() as (agent, recorder):
            found: Counter[bytes] = Counter()

            async def take_all():
                async for taken in recorder.take(subjects.REPORTS, subjects.RECORDER_CONSUMER):
                    found.update(one.body for one in taken)
                    await recorder.ack(taken)

            tasks = [asyncio.create_task(take_all()) for _ in range(2)]
            for number in range(300):
                await agent.bus.append(Batch(drafts=(Draft(agent.subject, b"%d" % number),), message_id=""))
            await until(lambda: len(found) == 300)
            assert set(found.values()) == {1}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(scenario)
