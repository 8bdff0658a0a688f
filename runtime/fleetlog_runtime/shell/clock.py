"""The only place that reads clocks.

Wall time is read once and then carried on by the boot clock, which also runs while the machine sleeps: a change of
the wall clock moves no deadline of a running service.
"""

from __future__ import annotations

import time


def boot_ms() -> int:
    """Return milliseconds since the machine booted, sleep included; never goes back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Clock:
    """One service's time."""

    def __init__(self) -> None:
        """Start at the wall clock's time."""
        self._wall_at_boot_ms = time.time_ns() // 1_000_000 - boot_ms()

    def now_ms(self) -> int:
        """Return Unix milliseconds; never goes back."""
        return self._wall_at_boot_ms + boot_ms()
