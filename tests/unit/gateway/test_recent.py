"""The same key with the same request gives the same answer, once."""

from __future__ import annotations

import asyncio

import pytest

from fleetlog_gateway.problems import HttpProblem
from fleetlog_gateway.recent import Recent, fingerprint


def test_requests_with_one_key_share_one_answer_even_while_it_is_being_made() -> None:
    async def scenario() -> None:
        recent, calls, gate = Recent[int](), list[int](), asyncio.Event()

        async def answer() -> int:
            calls.append(1)
            await gate.wait()
            return 7

        waiting = [asyncio.create_task(recent.once("k", b"a", answer)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*waiting) == [7, 7, 7]
        assert await recent.once("k", b"a", answer) == 7
        assert len(calls) == 1

    asyncio.run(scenario())


def test_a_client_that_goes_away_does_not_take_the_answer_from_the_next() -> None:
    async def scenario() -> None:
        recent, gate = Recent[int](), asyncio.Event()

        async def answer() -> int:
            await gate.wait()
            return 7

        first = asyncio.create_task(recent.once("k", b"a", answer))
        await asyncio.sleep(0)
        second = asyncio.create_task(recent.once("k", b"a", answer))
        await asyncio.sleep(0)
        first.cancel()
        gate.set()
        assert await second == 7

    asyncio.run(scenario())


def test_one_key_for_two_requests_is_refused() -> None:
    async def scenario() -> None:
        recent = Recent[int]()

        async def answer() -> int:
            return 7

        await recent.once("k", b"a", answer)
        with pytest.raises(HttpProblem) as caught:
            await recent.once("k", b"b", answer)
        assert caught.value.code == "idempotency-key-reused"

    asyncio.run(scenario())


def test_a_request_that_failed_can_be_tried_again() -> None:
    async def scenario() -> None:
        recent = Recent[int]()
        outcomes = [HttpProblem("bus-unavailable", "away"), None]

        async def answer() -> int:
            failure = outcomes.pop(0)
            if failure:
                raise failure
            return 7

        with pytest.raises(HttpProblem):
            await recent.once("k", b"a", answer)
        assert await recent.once("k", b"b", answer) == 7

    asyncio.run(scenario())


def test_the_oldest_keys_are_forgotten_first() -> None:
    async def scenario() -> None:
        recent, calls = Recent[str](keys_max=2), list[str]()

        def maker(key: str):  # type: ignore[no-untyped-def]
            async def answer() -> str:
                calls.append(key)
                return key

            return answer

        for key in ("a", "b", "c", "b", "a"):
            await recent.once(key, b"", maker(key))
            await asyncio.sleep(0)
        assert calls == ["a", "b", "c", "a"]

    asyncio.run(scenario())


def test_a_fingerprint_keeps_its_parts_apart() -> None:
    assert fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")
