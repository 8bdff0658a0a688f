"""How attempts, commands and tasks end."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Outcome(StrEnum):
    """How an attempt, a command or a task ended. The order is severity: a task has the first one present."""

    LOST = "lost"
    """It may have run and nobody can confirm how it ended: look before running it again."""
    ERROR = "error"
    """The agent could not run it."""
    TIMEOUT = "timeout"
    """It ran too long and the agent killed it."""
    FAILURE = "failure"
    """It ran and its exit code is not an accepted one."""
    CANCELLED = "cancelled"
    """It was ended by request, and the end is confirmed."""
    UNREACHED = "unreached"
    """It surely never started: safe to run again."""
    SKIPPED = "skipped"
    """It was not attempted, by decision."""
    SUCCESS = "success"
    """It ran and its exit code is an accepted one."""


class Ran(StrEnum):
    """Whether any instruction of the command was executed."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


RERUN_OUTCOMES = (Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR, Outcome.UNREACHED)
"""What `rerun --failed` takes; `lost` only when a person asks for it."""

_SEVERITY = {outcome: rank for rank, outcome in enumerate(Outcome)}


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome of a task whose commands ended with *outcomes* (at least one)."""
    return min(outcomes, key=_SEVERITY.__getitem__)
