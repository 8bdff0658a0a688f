"""Exit codes, and the one error that verbs raise: what went wrong, what to do, and the code to leave with."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Exit(IntEnum):
    """How the process ends; scripts rely on these numbers."""

    OK = 0
    INTERNAL = 1
    TYPED_WRONG = 2
    FAILED = 3
    REFUSED = 4
    NOT_FOUND = 5
    CONFLICT = 6
    WAITED = 7
    UNREACHABLE = 8
    UNREACHED = 9
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "every host succeeded, or the question was answered",
    Exit.INTERNAL: "a check did not hold (doctor, verify, diff), or a fault of fleetlog itself",
    Exit.TYPED_WRONG: "wrong as typed: an option, a value, or a target that matches nothing",
    Exit.FAILED: "on some hosts it failed, timed out, could not be run, was cancelled or was skipped",
    Exit.REFUSED: "refused: no permission, or a policy forbids it",
    Exit.NOT_FOUND: "there is no such task, host, definition, freeze or window",
    Exit.CONFLICT: "conflict: what was asked does not fit the present state",
    Exit.WAITED: "--wait-timeout is over; the task goes on",
    Exit.UNREACHABLE: "the gateway cannot be reached, or cannot reach the bus",
    Exit.UNREACHED: "nothing failed, but some hosts were not reached, or are lost",
    Exit.INTERRUPTED: "interrupted by Ctrl-C; the task goes on",
}


class CliError(Exception):
    """Something that a person can act on. Printed without a traceback."""

    def __init__(self, code: Exit, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class NotEnded(CliError, TimeoutError):
    """The time to wait for a task's end is over; the task goes on."""


def of_counts(counts: Mapping[str, int]) -> Exit:
    """Return the exit code of an ended task from how many of its commands ended how."""
    present = {outcome for outcome, count in counts.items() if count}
    if present & {"failure", "timeout", "error", "cancelled", "skipped"}:
        return Exit.FAILED
    if present & {"unreached", "lost"}:
        return Exit.UNREACHED
    return Exit.OK


def of_status(status: int) -> Exit:
    """Return the exit code for an HTTP status that is not a success."""
    if status in (401, 403, 429):
        return Exit.REFUSED
    if status == 404:
        return Exit.NOT_FOUND
    if status in (409, 412, 507):
        return Exit.CONFLICT
    if status in (502, 503, 504):
        return Exit.UNREACHABLE
    return Exit.TYPED_WRONG if 400 <= status < 500 else Exit.INTERNAL


_PRESENT_STATE = ("/plan_hash", "/single_run", "/key")
"""Fields that are right in themselves, and are refused for what else there is: another plan, an earlier run."""
_PERMISSION_REFUSALS = ("policy", "forbid", "permission", "denied")


def of_refusal(code: str, pointer: str) -> Exit:
    """Return the exit code for a task that the dispatcher refused."""
    if any(word in code for word in _PERMISSION_REFUSALS):
        return Exit.REFUSED
    return Exit.CONFLICT if pointer in _PRESENT_STATE else Exit.TYPED_WRONG
