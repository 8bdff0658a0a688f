"""What one run saw, as data: what writers asked and were answered, what commands wrote, what the log and readers say.

The verdict (`judging.py`) is a function of this record alone, so a history can be planted to see that it is condemned,
and the evidence of a run can be judged again. Times are Unix milliseconds.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from fleetlog_schemas.spec import TaskSpec
from fleetlog_schemas.view import TaskView


class Said(StrEnum):
    """What an answer to a submission means to the writer."""

    ACKNOWLEDGED = "acknowledged"
    """202: it is durably in the log."""
    REFUSED = "refused"
    """It was turned down: nothing was stored."""
    NOT_SENT = "not sent"
    """503, and the gateway says that surely nothing was stored; or nobody listened there."""
    UNKNOWN = "unknown"
    """504, or no answer at all: it may be stored."""


class Answer(msgspec.Struct, frozen=True):
    """One answer to a submission, or that there was none."""

    said: Said
    text: str
    gateway: str
    asked_ms: int
    answered_ms: int


class Submission(msgspec.Struct):
    """Tasks that were submitted together (mostly one), and everything that was answered to that."""

    task_ids: tuple[str, ...]
    spec: TaskSpec
    exit_code: int = 0
    """What its commands leave with."""
    output: str = ""
    """What each of its commands prints before its last line."""
    answers: list[Answer] = []
    cancel_asked: bool = False

    @property
    def acknowledged(self) -> bool:
        """Whether any answer promised that it is in the log."""
        return any(answer.said is Said.ACKNOWLEDGED for answer in self.answers)

    @property
    def surely_absent(self) -> bool:
        """Whether every answer said that nothing was stored."""
        return bool(self.answers) and all(answer.said in (Said.REFUSED, Said.NOT_SENT) for answer in self.answers)


class Trouble(msgspec.Struct):
    """One fault as it was injected."""

    fault: str
    part: str
    kind: str
    """Of the part."""
    began_ms: int
    healed_ms: int = 0
    host_id: str = ""
    """When the part belongs to a host."""
    led: str = ""
    """The service that the part led when it was hit."""
    note: str = ""


class Reader(msgspec.Struct):
    """What one gateway (with the reporter that answered it) said after the end."""

    name: str
    shown: dict[str, bytes] = {}
    """Task id to its view as JSON; empty bytes when there is no such task."""
    verified: str = ""
    """How its projection differs from the log; empty: it does not."""


class History(msgspec.Struct):
    """Everything that the verdict rests on."""

    submissions: list[Submission] = []
    lines: list[str] = []
    """What commands wrote: `task host attempt began|ended`, in the order of the file."""
    tasks: dict[str, TaskView] = {}
    """Every task of the log, folded from the log."""
    events: dict[str, list[str]] = {}
    """Task id to the events that name it, one line each: evidence."""
    rewritten: list[str] = []
    """Places of the log that were read twice and differed, or were gone."""
    followed: list[str] = []
    """Events that the live feed passed over, or gave twice, or not at all."""
    readers: list[Reader] = []
    troubles: list[Trouble] = []
    alerts: list[str] = []
    """Hosts and reports that were refused: all of them were honest."""
