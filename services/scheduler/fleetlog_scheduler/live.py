"""When each schedule has to be looked at next: an index over the folded state, made anew by whoever takes over."""

from __future__ import annotations

import bisect

import msgspec

from fleetlog_schemas.fates import NEVER_MS, look_ms
from fleetlog_schemas.schedules import Schedules


class Live(msgspec.Struct):
    """What the active scheduler keeps beside the fold."""

    due: list[tuple[int, str]] = []
    """When to look at which schedule, soonest first."""
    due_ms: dict[str, int] = {}

    def put(self, name: str, due_ms: int) -> None:
        """Look at a schedule at this time instead of the one so far."""
        former_ms = self.due_ms.pop(name, None)
        if former_ms is not None:
            del self.due[bisect.bisect_left(self.due, (former_ms, name))]
        if due_ms < NEVER_MS:
            bisect.insort(self.due, (due_ms, name))
            self.due_ms[name] = due_ms


def awaken(schedules: Schedules) -> Live:
    """Return the index of a scheduler that takes over."""
    live = Live()
    found = [(look_ms(schedules, name), name) for name in schedules.tracks]
    live.due = sorted(one for one in found if one[0] < NEVER_MS)
    live.due_ms = {name: due_ms for due_ms, name in live.due}
    return live
