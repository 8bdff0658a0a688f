"""What must hold at every step, and what must hold when all is quiet again. One file each."""

from __future__ import annotations

from typing import Protocol


class Violation(AssertionError):
    """An invariant does not hold."""


class Invariant(Protocol):
    """One promise."""

    def check(self) -> None:
        """Look after a step. Raises Violation."""
        ...

    def finish(self) -> None:
        """Look when everything is healed and quiet. Raises Violation."""
        ...
