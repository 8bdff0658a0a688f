"""Whether this gateway can serve: the bus answers, the tail has caught up, the reporter answers."""

from __future__ import annotations

import asyncio

import msgspec

from fleetlog_gateway import limits
from fleetlog_gateway.tail import Tail
from fleetlog_runtime.pure.bus import Bus, NoAnswer
from fleetlog_runtime.shell.health import ask_health
from fleetlog_schemas import subjects


class Readiness:
    """Checks, whose outcome is reused for a moment."""

    def __init__(self, bus: Bus, tail: Tail) -> None:
        """Check these."""
        self._bus = bus
        self._tail = tail
        self._lock = asyncio.Lock()
        self._checked_s = float("-inf")
        self._found: dict[str, str] = {}

    async def checks(self) -> dict[str, str]:
        """Return what was found, each `ok` or what is wrong."""
        async with self._lock:
            now_s = asyncio.get_running_loop().time()
            if now_s - self._checked_s > limits.READY_SECONDS:
                self._found = await self._check()
                self._checked_s = asyncio.get_running_loop().time()
            return self._found

    async def _check(self) -> dict[str, str]:
        found = {"bus": "ok", "tail": "ok", "reporter": "ok"}
        try:
            async with asyncio.timeout(limits.ASK_READY_MS_MAX / 1000):
                last_seq = (await self._bus.state(subjects.EVENTS)).last_seq
        except (NoAnswer, TimeoutError):
            return {"bus": "does not answer", "tail": "not known", "reporter": "not known"}
        if not await self._tail.grown_past(last_seq, limits.ASK_READY_MS_MAX / 1000):
            found["tail"] = f"read to {self._tail.next_seq - 1} of {last_seq}"
        found["reporter"] = await self._reporter()
        return found

    async def _reporter(self) -> str:
        try:
            health = await ask_health(self._bus, "reporter", limits.ASK_READY_MS_MAX)
        except NoAnswer:
            return "does not answer"
        except msgspec.MsgspecError:
            return "answers in another form: is it of another version?"
        return "ok" if health.ready else f"is not ready: it has read the log to {health.position}"
