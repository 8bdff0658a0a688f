"""Ask the reporter and the dispatcher over the bus, and hand their answers on unchanged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from fleetlog_gateway import limits
from fleetlog_gateway.problems import HttpProblem, from_answer
from fleetlog_runtime.pure.bus import Bus, NoAnswer
from fleetlog_schemas import questions, subjects


class RawAnswer(msgspec.Struct, frozen=True):
    """An answer whose data is not looked at."""

    seq: int
    data: msgspec.Raw = msgspec.Raw(b"null")
    problem: questions.Problem | None = None


class _Sent(msgspec.Struct, frozen=True):
    seq: int
    data: msgspec.Raw


_decode = msgspec.json.Decoder(RawAnswer).decode


class Asker:
    """Questions to other services."""

    def __init__(self, bus: Bus, appended_seq: Callable[[], int]) -> None:
        """Ask for answers no older than what this gateway appended: who wrote through it reads what he wrote."""
        self._bus = bus
        self._appended_seq = appended_seq

    async def ask(
        self, service: str, question: str, content: msgspec.Struct, timeout_ms: int = limits.ASK_MS_MAX, *,
        each: bool = False,
    ) -> RawAnswer:
        """Return the answer to *question*; with *each*, of whichever instance answers when the first one is silent.

        Raises:
            HttpProblem: the service does not answer, or answers with a problem.
        """
        encoded = msgspec.json.encode(content)
        try:
            if each and timeout_ms > limits.ASK_EACH_MS:
                body = await self._first_of_each(service, question, encoded, timeout_ms)
            else:
                body = await self._bus.request(subjects.ask(service, question), encoded, timeout_ms)
        except NoAnswer:
            raise HttpProblem(
                "service-unavailable", f"the {service} does not answer: is it running? `fleetlog doctor` tells",
                headers={"Retry-After": "2"},
            ) from None
        try:
            # Only large answers are packed; unpacking one takes long enough to be felt by other requests.
            text = body if body[:1] == b"{" else await asyncio.to_thread(questions.unpack_answer, body)
            answer = _decode(text)
        except (msgspec.MsgspecError, ValueError) as error:
            raise HttpProblem("internal", f"the {service} answered what cannot be read: {error}") from None
        if answer.problem is not None:
            raise from_answer(answer.problem)
        return answer

    async def _first_of_each(self, service: str, question: str, content: bytes, timeout_ms: int) -> bytes:
        """Ask one instance, and all of them when it says nothing for a while; return the first answer. Raises NoAnswer."""
        asked = [asyncio.ensure_future(self._bus.request(subjects.ask(service, question), content, timeout_ms))]
        try:
            done, _ = await asyncio.wait(asked, timeout=limits.ASK_EACH_MS / 1000)
            if not done:
                left_ms = timeout_ms - limits.ASK_EACH_MS
                asked.append(asyncio.ensure_future(self._bus.request(subjects.ask_each(service, question), content, left_ms)))
            for first in asyncio.as_completed(asked):
                with contextlib.suppress(NoAnswer):
                    return await first
            raise NoAnswer(f"no {service} answers")
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def report(
        self, question: str, kind: type[msgspec.Struct], fields: dict[str, Any], timeout_ms: int = limits.ASK_MS_MAX
    ) -> RawAnswer:
        """Ask the reporter; its answer is no older than this gateway's own appends, unless a past state is asked."""
        content = msgspec.convert({"at_least_seq": self._appended_seq(), **fields}, kind)
        return await self.ask("reporter", question, content, timeout_ms, each=question not in limits.ASKED_ONCE)


def handed_on(answer: RawAnswer) -> web.Response:
    """Return the reporter's answer as it came."""
    return web.Response(
        body=msgspec.json.encode(_Sent(seq=answer.seq, data=answer.data)), content_type="application/json"
    )
