"""What the gateway asks the reporter: JSON requests on `ask.<service>.<question>`. The dispatcher: `admission.py`.

Every answer is an `Answer`: the data and the log sequence that it reflects, or a `Problem`. The HTTP API hands both
through unchanged, so these shapes are the API's.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.spec import Payload, TaskSpec

PAGE_MAX = 500
"""Items in one page."""
SQL_ROWS_MAX = 10_000
ANSWER_BYTES_MAX = limits.BUS_MESSAGE_BYTES_MAX - 16 * 1024
"""Bytes of one answer on the bus; what is larger is packed, and what is larger even then is refused."""
ANSWER_UNPACKED_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of an answer unpacked: a task on HOSTS_PER_TASK_MAX hosts with room to spare."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a question has no answer; becomes an RFC 9457 problem over HTTP."""

    status: int
    code: str
    message: str
    pointer: str = ""


class Answer(msgspec.Struct, frozen=True):
    """The envelope of every answer."""

    seq: int
    """The last log sequence that the data reflects."""
    data: Any = None
    problem: Problem | None = None


class AnswerTooLarge(ValueError):
    """An answer that does not fit into one message of the bus, even packed: ask for a smaller piece."""


def pack_answer(body: bytes) -> bytes:
    """Return the JSON of an `Answer` as it goes over the bus: as it is, or compressed (RFC 1950) when it is large.

    Raises:
        AnswerTooLarge: it does not fit even so.
    """
    if len(body) <= ANSWER_BYTES_MAX:
        return body
    packed = zlib.compress(body, 1)
    if len(packed) > ANSWER_BYTES_MAX:
        packed = zlib.compress(body, 6)
    if len(packed) > ANSWER_BYTES_MAX or len(body) > ANSWER_UNPACKED_BYTES_MAX:
        raise AnswerTooLarge(f"the answer has {len(body)} bytes: ask for a smaller piece, page by page")
    return packed


def unpack_answer(body: bytes) -> bytes:
    """Return the JSON of an `Answer` from what came over the bus.

    Raises:
        ValueError: it is neither JSON nor something that `pack_answer` made.
    """
    if body[:1] == b"{":
        return body
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(body, ANSWER_UNPACKED_BYTES_MAX)
    except zlib.error as error:
        raise ValueError(f"not an answer: {error}") from None
    if not unpacker.eof:
        raise ValueError("not an answer: cut short, or too large")
    return unpacked


class AsOf(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which state a question is about: now, but no older than `at_least_seq`; or a past one."""

    at_least_seq: int = 0
    as_of_seq: int = 0
    as_of_ms: int = 0


class TasksQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`tasks`: which tasks there are, newest first. Answer: Page of TaskSummary."""

    kind: str = ""
    state: str = ""
    """submitted, planned, refused, ended, or `open` (submitted or planned)."""
    outcome: str = ""
    host: str = ""
    """Host id or name."""
    submitted_by: str = ""
    name: str = ""
    tag: str = ""
    definition: str = ""
    """Name (as it was when the task was submitted) or id of its definition."""
    schedule: str = ""
    part_of: str = ""
    """The full id of a workflow: the tasks of its parts."""
    parts: str = ""
    """`hide`: without the tasks that are parts of workflows."""
    since_ms: int = 0
    until_ms: int = 0
    limit: int = 50
    cursor: str = ""


class TaskQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`task`: everything about one task. Answer: TaskView. Also `progress` (Progress)."""

    task_id: str
    """A task id, its last characters (at least 6), or `last`."""


class CommandsQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`commands`: the commands of one task by host name. Answer: Page of CommandView."""

    task_id: str
    state: str = ""
    outcome: str = ""
    host: str = ""
    limit: int = 100
    cursor: str = ""


class EventsQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`events`: stored events in the order of the log. Answer: Page of StoredEvent."""

    task_id: str = ""
    host: str = ""
    type: str = ""
    after_seq: int = 0
    limit: int = 100


class OutputQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`output`: what a command wrote. Answer: OutputPage."""

    task_id: str
    host: str
    attempt: int = 0
    """0: the last one."""
    stream: str = ""
    """stdout, stderr, or empty for both in the order written."""
    after_frame: int = 0
    """Continue after this OUTPUT sequence."""
    tail_lines: int = 0
    """Only the last lines."""
    limit_bytes: int = 262_144


class HostsQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`hosts`: Page of HostView by name. `host`: one HostView, by `name` (id or name)."""

    name: str = ""
    presence: str = ""
    label: str = ""
    """`key` or `key=value`."""
    limit: int = 100
    cursor: str = ""


class FunctionsQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`functions`: the Python functions that hosts offer, by name. Answer: Page of FunctionView."""

    name: str = ""
    """May have wildcards."""
    limit: int = 100
    cursor: str = ""


class StatsQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`stats`: counts, success rate and durations of ended commands. Answer: Page of StatsRow."""

    by: str = "kind"
    """kind, host, day or definition; by definition, only commands of tasks that came from one."""
    since_ms: int = 0
    until_ms: int = 0
    kind: str = ""
    host: str = ""
    definition: str = ""
    """Name or id."""


class SqlQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`sql`: one read-only statement on the projection. Answer: SqlTable."""

    query: str
    limit: int = 1000


class VerifyQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`verify`: rebuild the projection from the log beside the kept one and compare. Answer: Verified."""


class TypicalQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`typical`, to the reporter: how long earlier commands took that ran the same. Answer: Typical."""

    task_id: str


class PreviousQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`previous`, to the reporter: the last task that ran a payload, or was one of a definition. Answer: Previous, or null."""

    payload: Payload | None = None
    definition_id: str = ""
    outcome: str = ""
    before_id: str = ""
    """Only tasks that were submitted before this one; ids carry their time."""


class Page(msgspec.Struct, frozen=True):
    """Some items, and how to get the next ones (null: there are none)."""

    items: list[Any]
    next_cursor: str | None = None


class TaskSummary(msgspec.Struct, frozen=True):
    """One line of a list of tasks."""

    task_id: str
    kind: str
    name: str
    summary: str
    """What it runs, in one line."""
    state: str
    outcome: str | None
    target: str
    submitted_by: str
    submitted_at: str
    ended_at: str | None
    duration_seconds: float | None
    hosts: int
    counts: dict[str, int]
    tags: tuple[str, ...]
    hold: str | None = None
    """`paused` or `halted` while it starts nothing more for the time being."""
    definition: str | None = None
    """Name of the definition that it came from, as it was."""
    version: int | None = None
    schedule: str | None = None
    """The schedule that it is a run of."""
    nominal_at: str | None = None
    """The time that the schedule's rule names, if it was fired for one."""
    part_of: str | None = None
    """The workflow that it belongs to."""
    part: str | None = None


class Progress(msgspec.Struct, frozen=True):
    """How far a task is; answered from memory while it runs."""

    task_id: str
    state: str
    outcome: str | None
    hosts: int
    ended: int
    """Commands, or parts of a workflow, that have ended."""
    counts: dict[str, int]
    percent: float
    eta_seconds: float | None
    """By the durations of its ended commands, or of earlier ended commands that ran the same; null: not known."""


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as it stands in the log."""

    seq: int
    subject: str
    stored_at: str
    event: Any
    """The CloudEvent."""


class OutputChunk(msgspec.Struct, frozen=True):
    """Consecutive bytes of one stream, decoded as UTF-8 with replacement."""

    stream: str
    offset: int
    line: int
    at: str
    text: str
    gap_bytes: int
    frame: int


class OutputPage(msgspec.Struct, frozen=True):
    """A piece of a command's output."""

    task_id: str
    host: str
    attempt: int
    chunks: list[OutputChunk]
    next_frame: int
    """Ask again with `after_frame` of this value."""
    complete: bool
    """The end of the output is in this page."""
    expired: bool
    """Some or all of it is older than what OUTPUT keeps."""
    incomplete: bool
    dropped_bytes: int


class HostView(msgspec.Struct, frozen=True):
    """One host as the log knows it."""

    host_id: str
    name: str
    presence: str
    since: str | None
    labels: dict[str, str]
    maintenance: bool
    maintenance_reason: str
    epoch: int
    version: str
    enrolled_at: str
    running: int
    """Commands dispatched or running there now."""
    facts: dict[str, Any]
    refusals: list[dict[str, str]]
    """time, code, message."""
    refused_reason: str
    refused_code: str = ""
    """`ticket` or `counter` (a copy, or a machine set back), or `restored` (the log is older than the host)."""


class FunctionView(msgspec.Struct, frozen=True):
    """A Python function that some hosts offer."""

    name: str
    signature: str
    """As one of them says it; empty: none does."""
    summary: str
    queues: list[str]
    """That hosts which offer it serve."""
    hosts: int
    host_names: list[str]
    """The first hundred of them."""
    differs: bool
    """Hosts say different signatures: not all have the same version of it."""


class StatsRow(msgspec.Struct, frozen=True):
    """Statistics of the ended commands of one key."""

    key: str
    commands: int
    outcomes: dict[str, int]
    success_ratio: float
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None


class SqlTable(msgspec.Struct, frozen=True):
    """A result of SQL; values are as JSON has them."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool


class Verified(msgspec.Struct, frozen=True):
    """Whether the kept projection is what the log gives."""

    equal: bool
    through_seq: int
    events: int
    tables: dict[str, str]
    """Table to `equal`, or what differs."""


class Typical(msgspec.Struct, frozen=True):
    """How long earlier ended commands took that ran the same."""

    commands: int
    p50_seconds: float | None
    p95_seconds: float | None


class Previous(msgspec.Struct, frozen=True):
    """The last task that ran the same payload."""

    task_id: str
    submitted_at: str
    outcome: str | None
    spec: TaskSpec
    hosts: list[str]
    """Names."""
