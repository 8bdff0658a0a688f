"""A question to the reporter: one of them is asked, and all of them when that one is silent."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from fleetlog_gateway import limits
from fleetlog_gateway.asking import Asker
from fleetlog_gateway.problems import HttpProblem
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_schemas import questions, subjects

QUEUED, EACH = subjects.ask("reporter", "tasks"), subjects.ask_each("reporter", "tasks")


class Reporters:
    """A bus with reporters on it that note what they hear."""

    def __init__(self) -> None:
        self.bus = MemoryBus(MemoryBroker())
        self.heard: list[str] = []

    async def add(self, name: str, *, answers: bool) -> None:
        async def asked(subject: str, _body: bytes, reply: str) -> None:
            self.heard.append(f"{name} {subject}")
            if answers:
                await self.bus.publish(reply, msgspec.json.encode(questions.Answer(seq=7, data=msgspec.Raw(f'"{name}"'.encode()))))

        await self.bus.subscribe(QUEUED, asked, queue="reporter")
        await self.bus.subscribe(EACH, asked)

    async def ask(self, timeout_ms: int = limits.ASK_MS_MAX) -> str:
        answer = await Asker(self.bus, lambda: 0).report("tasks", questions.TasksQuestion, {}, timeout_ms)
        return str(msgspec.json.decode(answer.data))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ASK_EACH_MS", 50)


def test_one_that_answers_is_asked_once() -> None:
    async def scenario() -> None:
        reporters = Reporters()
        await reporters.add("well", answers=True)
        assert await reporters.ask() == "well"
        assert reporters.heard == [f"well {QUEUED}"]

    asyncio.run(scenario())


def test_a_question_that_went_to_a_stopped_one_is_answered_by_another() -> None:
    async def scenario() -> None:
        reporters = Reporters()
        await reporters.add("stopped", answers=False)
        await reporters.add("well", answers=True)
        assert [await reporters.ask() for _ in range(10)] == ["well"] * 10
        assert f"stopped {QUEUED}" in reporters.heard
        assert f"well {EACH}" in reporters.heard

    asyncio.run(scenario())


@pytest.mark.parametrize("there", [True, False])
def test_that_nobody_answers_is_said_in_time(there: bool) -> None:
    async def scenario() -> None:
        reporters = Reporters()
        if there:
            await reporters.add("stopped", answers=False)
        with pytest.raises(HttpProblem, match="the reporter does not answer"):
            await reporters.ask(300)
        assert len(reporters.heard) == (2 if there else 0)

    asyncio.run(scenario())
