"""The only place that reads clocks.

Wall time is read once and then carried on by the boot clock, which also runs while the machine sleeps: a jump of
the wall clock moves no deadline of a running service. A machine whose clock was wrong and is set right is another
matter: then the bus's time moves too, and what decides goes on by the wall clock when the bus agrees with it
(`leadership.py`); what only shows and checks follows at once (`shown_ms`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

FOLLOWED_MS_MIN = 10_000
"""A wall clock that is further away was set; what is nearer is the slow correction that every machine makes."""


def boot_ms() -> int:
    """Return milliseconds since the machine booted, sleep included; never goes back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    """Return what the machine's wall clock shows, in Unix milliseconds; jumps when somebody sets it."""
    return time.time_ns() // 1_000_000


class Clock:
    """One service's time."""

    def __init__(self, wall_ms: Callable[[], int] = wall_ms) -> None:
        """Start at the wall clock's time."""
        self._wall_ms = wall_ms
        self._wall_at_boot_ms = wall_ms() - boot_ms()

    def now_ms(self) -> int:
        """Return Unix milliseconds; never goes back, except by `set_anew`."""
        return self._wall_at_boot_ms + boot_ms()

    def set_anew(self) -> int:
        """Go on from the wall clock's time, and return by how many milliseconds that is later."""
        moved_ms = self._wall_ms() - self.now_ms()
        self._wall_at_boot_ms += moved_ms
        return moved_ms

    def shown_ms(self) -> int:
        """Return Unix milliseconds for what is shown and checked, and decides nothing: it follows a wall clock that is set."""
        if abs(self._wall_ms() - self.now_ms()) > FOLLOWED_MS_MIN:
            self.set_anew()
        return self.now_ms()
