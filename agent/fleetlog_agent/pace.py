"""How much to send, or to ask for, at once: what the line carries within a second.

A large piece on a narrow line holds up everything behind it, heartbeats and cancels too, and may not get through in the
time that its answer is waited for. The first piece is small; each tells how large the next one may be.
"""

from __future__ import annotations

import time

FIRST_BYTES = 16 * 1024
BYTES_MIN = 2 * 1024
QUICK_SECONDS, SLOW_SECONDS = 0.25, 1.0
"""What took less is followed by twice as much, what took longer by half."""


class Pace:
    """Of one sender whose pieces follow one another."""

    def __init__(self, bytes_max: int) -> None:
        """Begin; no piece is larger than *bytes_max*."""
        self.bytes = min(FIRST_BYTES, bytes_max)
        self._bytes_max = bytes_max
        self._began = 0.0

    def begins(self) -> None:
        """A piece is sent."""
        self._began = time.monotonic()

    def unanswered(self) -> None:
        """No answer came in time."""
        self.bytes = max(self.bytes // 2, BYTES_MIN)

    def answered(self) -> None:
        """The answer came."""
        seconds = time.monotonic() - self._began
        if seconds < QUICK_SECONDS:
            self.bytes = min(2 * self.bytes, self._bytes_max)
        elif seconds > SLOW_SECONDS:
            self.unanswered()
