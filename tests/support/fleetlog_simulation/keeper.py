"""The keeper in the simulated world: its real decisions, and hands that may be cut off between any two steps.

The archive's folder is one for all, and survives every kill; a file is in it whole or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from fleetlog_keeper import works
from fleetlog_keeper.live import TOLD
from fleetlog_keeper.state import State
from fleetlog_keeper.unit import Keeper
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import Batch, Stored
from fleetlog_runtime.pure.effects import Done, Effect, Request, Work
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_schemas.archive import Archive
from fleetlog_simulation.endpoint import Endpoint
from fleetlog_simulation.services import Lease, SimUnit
from fleetlog_simulation.world import World

STEP_MS_MAX = 200
"""How long one step of a work takes at most."""
KILL_PART = 10
"""A keeper does little and much rests on it: it is killed so much more often than others, at each step."""
ANSWERS = 0.8
"""How often a service's health answer arrives."""

Places = Callable[[], dict[str, int | None]]
"""Service to the sequence after which it would read on; None while it does not answer."""


def settings_of(chance: random.Random) -> KeeperSettings:
    """Return settings under which the log of some minutes is archived and pruned."""
    return KeeperSettings(
        host_gone_ms=20_000, tick_overdue_ms=20_000, webhook_retry_ms=20,
        segment_events=chance.choice((10, 25)), keep_days=chance.choice((0.0, 30.0, 120.0)) / 86_400, look_ms=3_000,
        silent_ms=20_000,
    )


class SimKeeper(SimUnit[State]):
    """One keeper process."""

    def __init__(self, world: World, name: str, lease: Lease, settings: KeeperSettings, places: Places, endpoint: Endpoint) -> None:
        """Make it; `start` brings it to life."""
        super().__init__(world, name, lease, Keeper(settings))
        self.settings = settings
        self._places, self._endpoint = places, endpoint

    def _perform(self, effect: Effect | Batch) -> None:
        if isinstance(effect, Work):
            steps = self._steps(effect.what)
            self._soon(lambda: self._do(effect.what, steps, None, self.life))
        else:
            super()._perform(effect)

    def _soon(self, action: Callable[[], None]) -> None:
        self.world.after(self.world.random.randint(1, STEP_MS_MAX), action)

    def _do(self, what: Any, steps: list[Callable[[], Any]], found: Any, life: int) -> None:
        """Do one step after another; a process that is stopped goes on where it was, one that was killed does not."""
        if not self.alive or life != self.life:
            return
        if self.paused:
            self._soon(lambda: self._do(what, steps, found, life))
        elif self.world.chance(self.world.faults.kill_at_effect * KILL_PART):
            self.kill()
            self.world.after(self.world.random.randint(100, 20_000), self.start)
        elif self.world.bus_down:
            self._observe(Done(what, error="the bus is away"))
        elif steps:
            try:
                found = steps[0]()
            except segments.Damaged as error:
                self._observe(Done(what, error=str(error)))
                return
            self._soon(lambda: self._do(what, steps[1:], found, life))
        else:
            self._observe(Done(what, found))

    def _observe(self, observation: object) -> None:
        self.engine.observe(observation, self.world.now_ms)
        self._step()

    def _steps(self, what: object) -> list[Callable[[], Any]]:
        match what:
            case works.Look():
                return [self._look]
            case works.Post():
                return [lambda: None, lambda: self._endpoint.post(what)]
            case works.Make():
                return [lambda: self._make(what)]
            case works.Check(first_seq=first_seq, through_seq=through_seq):
                return [lambda: self._check(first_seq, through_seq)]
            case works.Purge(first_seq=first_seq, through_seq=through_seq, below=below):
                purges = [
                    lambda subject=subject, below_seq=below_seq: self.world.purge(subject, below_seq)
                    for subject, below_seq in below.items()
                ]
                return [lambda: self._check(first_seq, through_seq), *purges]
            case _:
                raise AssertionError(f"nobody does {what!r}")

    def _look(self) -> works.Room:
        for service, snapshot in self._places().items():
            if snapshot is not None and self.world.chance(ANSWERS):
                body = msgspec.json.encode({"service": service, "instance": "i1", "snapshot": snapshot})
                self.engine.observe(Request(TOLD, body, ""), self.world.now_ms)
        state = self.world.store.state("EVENTS")
        return works.Room(state.bytes, state.bytes_max)

    def _make(self, what: works.Make) -> Any:
        messages = self._read(what.first_seq, what.through_seq)
        count = segments.full_at(messages, self.settings.segment_events, self.settings.segment_bytes)
        if count is None:
            return None
        sealed, file = segments.pack(messages[:count], what.chain_before)
        self.world.segments[sealed.first_seq] = file
        segments.unpack(file, sealed)
        return sealed

    def _read(self, first_seq: int, through_seq: int) -> list[Stored]:
        found: list[Stored] = []
        while len(found) < through_seq - first_seq + 1:
            page = self.world.read(first_seq + len(found), 100)
            if not page:
                break
            found += page
        return [stored for stored in found if stored.seq <= through_seq]

    def _check(self, first_seq: int, through_seq: int) -> None:
        archive: Archive = self.engine.state.archive
        next_seq = first_seq
        while next_seq <= through_seq:
            sealed = archive.at(next_seq)
            if sealed is None or sealed.first_seq not in self.world.segments:
                raise segments.Damaged(f"nothing holds sequence {next_seq}")
            segments.unpack(self.world.segments[sealed.first_seq], sealed)
            next_seq = sealed.last_seq + 1
