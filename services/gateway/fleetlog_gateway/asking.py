"""Ask the reporter and the dispatcher over the bus, and hand their answers on unchanged."""

from __future__ import annotations

import asyncio
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
        self, service: str, question: str, content: msgspec.Struct, timeout_ms: int = limits.ASK_MS_MAX
    ) -> RawAnswer:
        """Return the answer to *question*.

        Raises:
            HttpProblem: the service does not answer, or answers with a problem.
        """
        subject = subjects.ask(service, question)
        try:
            body = await self._bus.request(subject, msgspec.json.encode(content), timeout_ms)
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

    async def report(
        self, question: str, kind: type[msgspec.Struct], fields: dict[str, Any], timeout_ms: int = limits.ASK_MS_MAX
    ) -> RawAnswer:
        """Ask the reporter; its answer is no older than this gateway's own appends, unless a past state is asked."""
        content = msgspec.convert({"at_least_seq": self._appended_seq(), **fields}, kind)
        return await self.ask("reporter", question, content, timeout_ms)


def handed_on(answer: RawAnswer) -> web.Response:
    """Return the reporter's answer as it came."""
    return web.Response(
        body=msgspec.json.encode(_Sent(seq=answer.seq, data=answer.data)), content_type="application/json"
    )
