"""The faults, each a small class, and the plan of a run: which fault hits which part when, and for how long, by the seed.

The plan names a part by its kind and a number, or as the one that leads; what that is turns out when its time comes.
Instead of a part that is down already the next one is hit, so that every fault is healed by whoever injected it.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Collection
from typing import ClassVar

import msgspec

from fleetlog_checker.system import Part, System
from fleetlog_testing.waiting import until

FIRST_S = 1.5
PAUSE_S = (0.5, 3.0)
"""Between the begins of two faults: several may be in force at once."""
QUIET_S = 2.0
"""At the end of a run nothing new breaks, so that what broke last is seen too."""
LEAD_KIND = "dispatcher"
"""Of its parts one leads, and is worth hitting more often."""
HIT = 1
"""What a fault of a path returns: no process is hit."""
ENDED_S_MAX = 60
"""A service that is asked to end writes its snapshot first, and the server ends its services one by one."""
SHARES = {
    "bus": 2, "dispatcher": 3, "scheduler": 1, "result-recorder": 2, "reporter": 1, "keeper": 1, "gateway": 2, "agent": 5, "holder": 2, "node": 3,
    "routes": 2,
}
"""How often a kind is hit, against the others."""
STOPPED_S_MAX = {"bus": 6.0, "holder": 5.0, "node": 5.0}
"""The longest time for which such a part is away, where that is not the fault's own: without it nothing goes on at all."""


class Fault:
    """One way in which a part fails."""

    name: ClassVar[str]
    lasts_s: ClassVar[tuple[float, float]]

    async def inject(self, part: Part) -> int:
        """Do it, and return which process was hit; 0: there was nothing to hit."""
        raise AssertionError("a fault is one of the classes below")

    async def heal(self, part: Part, hit: int) -> None:
        """Undo it."""
        await until(lambda: part.pid() != hit, ENDED_S_MAX, f"{part.name} ends", 0.05)
        await part.come_back()


class Kill(Fault):
    """SIGKILL; started again after a while, or by its supervisor at once."""

    name = "kill"
    lasts_s = (0.0, 5.0)

    async def inject(self, part: Part) -> int:
        """Kill it."""
        return part.signal(signal.SIGKILL)


class Stop(Fault):
    """SIGSTOP and, later, SIGCONT: it does not know that time passed."""

    name = "stop"
    lasts_s = (0.3, 14.0)

    async def inject(self, part: Part) -> int:
        """Stop it."""
        return part.signal(signal.SIGSTOP)

    async def heal(self, part: Part, hit: int) -> None:
        """Let it go on."""
        part.signal(signal.SIGCONT)


class Restart(Fault):
    """SIGTERM, as an upgrade does."""

    name = "restart"
    lasts_s = (0.0, 3.0)

    async def inject(self, part: Part) -> int:
        """End it cleanly."""
        return part.signal(signal.SIGTERM)


class OfTheWay(Fault):
    """What happens to the way between a part and the others, not to its process."""

    async def inject(self, part: Part) -> int:
        """Disturb its way."""
        return HIT if part.way is not None and part.way.suffer(self.name) else 0

    async def heal(self, part: Part, hit: int) -> None:
        """Let everything pass again."""
        if part.way is not None:
            part.way.join()


class Partition(OfTheWay):
    """Nothing passes between the part and the others, and nobody is told."""

    name = "partition"
    lasts_s = (1.0, 16.0)


class Slow(OfTheWay):
    """A bad line: everything some hundred milliseconds later, and 10 kB/s."""

    name = "slow"
    lasts_s = (2.0, 12.0)


class HalfClose(OfTheWay):
    """Its connections are closed in one direction only."""

    name = "half-close"
    lasts_s = (0.0, 0.5)


class Reset(OfTheWay):
    """Its connections break, and it may connect again at once."""

    name = "reset"
    lasts_s = (0.0, 0.5)


FAULTS: dict[str, Fault] = {one.name: one for one in (Kill(), Stop(), Restart(), Partition(), Slow(), HalfClose(), Reset())}


class Planned(msgspec.Struct, frozen=True):
    """One fault to come."""

    at_s: float
    """From the begin of the run."""
    fault: str
    kind: str
    which: int
    """Number among the parts of this kind, modulo; -1: the one that leads, if this is known."""
    lasts_s: float

    def part(self, system: System, down: Collection[str]) -> Part | None:
        """Return the part that is meant now: not one of those that are *down*, and None when there is no other."""
        those = [part for part in system.parts if part.kind == self.kind and part.may_suffer(self.fault)]
        first = self.which % len(those)
        leads = [part for part in those if part.name == system.led_by(self.kind)] if self.which < 0 else []
        order = [*leads, *those[first:], *those[:first]]
        return next((part for part in order if not {part.name, *part.covers} & set(down)), None)


def plan(seed: int, seconds: float, names: list[str], system: System) -> list[Planned]:
    """Return the faults of a run of *seconds*, which follow from the seed and the kinds of parts that there are."""
    chance = random.Random(f"faults {seed}")
    planned: list[Planned] = []
    at_s = FIRST_S
    while names and at_s < seconds - QUIET_S:
        name = chance.choice(names)
        kinds = [kind for kind in SHARES if any(part.kind == kind and part.may_suffer(name) for part in system.parts)]
        if kinds:
            kind = chance.choices(kinds, [SHARES[one] for one in kinds])[0]
            which = -1 if kind == LEAD_KIND and chance.random() < 0.7 else chance.randrange(1_000)
            low, high = FAULTS[name].lasts_s
            lasts_s = chance.uniform(low, min(high, STOPPED_S_MAX.get(kind, high)))
            planned.append(Planned(round(at_s, 2), name, kind, which, round(lasts_s, 2)))
        at_s += chance.uniform(*PAUSE_S)
    return planned
