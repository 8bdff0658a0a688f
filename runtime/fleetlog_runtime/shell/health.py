"""How a service is: answered to whoever asks on `ask.<service>.health`, as JSON; a body says which instance is meant."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from fleetlog_runtime.pure.bus import Bus
from fleetlog_schemas import subjects
from fleetlog_schemas.version import VERSION


class HealthAnswer(msgspec.Struct, frozen=True):
    """What a service says of itself."""

    service: str
    instance: str
    version: str
    ready: bool
    leading: bool
    position: int
    """The last log sequence it has taken in; 0 for a service that does not read the log."""
    lag: int
    """How many messages of the log it is behind, as far as it knows."""
    parked: int
    """Messages it could not read and passed over."""
    snapshot: int | None = None
    """The log sequence after which it would read on if it were started again; None when it needs nothing of the past."""
    notes: dict[str, Any] = {}
    tasks: int = 0
    """asyncio tasks that it runs: a number that only grows is a leak."""


class Health:
    """What a running service keeps up to date."""

    def __init__(self, service: str, instance: str) -> None:
        """Begin as not ready."""
        self.service = service
        self.instance = instance
        self.ready = asyncio.Event()
        self.leading = False
        self.position = 0
        self.last_seq = 0
        """The last sequence of the log that it knows of."""
        self.parked = 0
        self.snapshot: int | None = None
        self.notes: dict[str, Any] = {}

    def answer(self) -> HealthAnswer:
        """Return it as it is now."""
        return HealthAnswer(
            service=self.service, instance=self.instance, version=VERSION,
            ready=self.ready.is_set(), leading=self.leading, position=self.position,
            lag=max(0, self.last_seq - self.position), parked=self.parked, snapshot=self.snapshot, notes=self.notes,
            tasks=len(asyncio.all_tasks()),
        )

    async def serve(self, bus: Bus) -> Callable[[], Awaitable[None]]:
        """Answer on the bus; returns how to stop."""

        async def asked(_subject: str, body: bytes, reply: str) -> None:
            if reply and self.instance.encode().startswith(body):
                await bus.publish(reply, msgspec.json.encode(self.answer()))

        return await bus.subscribe(subjects.ask(self.service, "health"), asked)


async def ask_health(bus: Bus, service: str, timeout_ms: int, instance_prefix: str = "") -> HealthAnswer:
    """Return how a service is: the instance whose name begins like that, or whoever answers first. Raises NoAnswer."""
    body = await bus.request(subjects.ask(service, "health"), instance_prefix.encode(), timeout_ms)
    return msgspec.json.decode(body, type=HealthAnswer)
