"""Every subject and stream: the only place where either is spelled.

No subject carries a task id: subjects cost memory for as long as a stream lives. Host ids are the only
variable token.
"""

from __future__ import annotations

import msgspec

from fleetlog_schemas import limits

EVENTS = "EVENTS"
REPORTS = "REPORTS"
OUTPUT = "OUTPUT"
LEADERS = "LEADERS"
BLOBS = "BLOBS"

_GIB = 1024**3


class Stream(msgspec.Struct, frozen=True):
    """The definition of one stream. Every stream reserves its own bytes, so that none can starve EVENTS."""

    name: str
    subjects: tuple[str, ...]
    bytes_max: int
    why: str
    work_queue: bool = False
    """A message goes when it is acknowledged."""
    deny_delete: bool = False
    atomic: bool = False
    discard_new: bool = False
    """Refuse what does not fit; otherwise the oldest goes."""
    per_subject_max: int = 0
    """Messages kept per subject; 0 is no limit."""
    age_seconds_max: int = 0
    synced_late: bool = False
    """The bus may confirm a message before it is on disk: whoever sent it keeps it until the log has what it says."""
    ttl: bool = False
    """Messages may carry their own time to live."""
    message_bytes_max: int = limits.BUS_MESSAGE_BYTES_MAX


STREAMS = (
    Stream(
        name=EVENTS, subjects=("evt.>",), bytes_max=40 * _GIB, deny_delete=True, atomic=True, discard_new=True,
        message_bytes_max=limits.EVENT_BYTES_MAX + 4096,
        why="the log: every state change, in one order, kept until archived",
    ),
    Stream(
        name=REPORTS, subjects=("rpt.*",), bytes_max=4 * _GIB, work_queue=True, discard_new=True, synced_late=True,
        per_subject_max=10_000, message_bytes_max=limits.REPORT_BYTES_MAX + 4096,
        why="what agents said, until a recorder has appended it to the log; a flood fills only its host's share",
    ),
    Stream(
        name=OUTPUT, subjects=("out.*.*",), bytes_max=20 * _GIB, age_seconds_max=30 * 86_400,
        why="framed output of commands, oldest out first",
    ),
    Stream(
        name=LEADERS, subjects=("lead.*",), bytes_max=16 * 1024**2, per_subject_max=1, ttl=True,
        why="who is active: a message that expires, whose sequence is the fencing number",
    ),
)
"""BLOBS is an object store (a bucket of the bus), made beside these."""
BLOBS_BYTES_MAX = 10 * _GIB

RECORDER_CONSUMER = "result-recorder"
"""The one durable consumer of REPORTS, shared by every recorder."""

# Agents see only the subjects below, with their own host id; they reach them by imports from the core account.


def report(host_id: str) -> str:
    """Return where a host's reports are stored."""
    return f"rpt.{host_id}"


def output(host_id: str, slot: int) -> str:
    """Return where the frames of one output slot are stored."""
    return f"out.{host_id}.{slot}"


def artifacts(host_id: str) -> str:
    """Return where the chunks of a host's artifacts are stored: they are kept like output, and as long."""
    return f"out.{host_id}.artifacts"


def push(host_id: str) -> str:
    """Return where a host hears what it is asked to do. Not stored."""
    return f"cmd.{host_id}"


def heartbeat(host_id: str) -> str:
    """Return where a host says that it lives and what it holds. Not stored."""
    return f"hb.{host_id}"


def session(host_id: str) -> str:
    """Return where a host asks for a session. A request."""
    return f"open.{host_id}"


def blob(host_id: str) -> str:
    """Return where a host asks for content by digest. A request, answered in chunks."""
    return f"blob.{host_id}"


def leader(service: str) -> str:
    """Return the subject whose last live message names the active instance of a service."""
    return f"lead.{service}"


def ask(service: str, question: str) -> str:
    """Return where a service answers a question of another service. A request, JSON both ways."""
    return f"ask.{service}.{question}"


def ask_each(service: str, question: str) -> str:
    """Return where every instance of a service hears a question that the one it went to has left unanswered."""
    return f"ask.{service}.{question}-each"


def host_of(subject: str) -> str:
    """Return the host id of an agent's subject: identity comes from the subject, never from the payload."""
    return subject.split(".")[1]


HEARTBEATS = "hb.*"
SESSIONS = "open.*"
BLOB_REQUESTS = "blob.*"

AGENT_PUBLISH = ("rpt.{id}", "out.{id}.*", "hb.{id}", "open.{id}", "blob.{id}")
"""What an agent's key may publish; `{id}` is its host id."""
AGENT_SUBSCRIBE = ("cmd.{id}", "_INBOX_{id}.>")
AGENT_SERVICE_IMPORTS = ("rpt.*", "out.*.*", "open.*", "blob.*")
"""Requests with an answer that cross from the agents' account into the core account."""
AGENT_STREAM_EXPORTS = ("cmd.*",)
"""What crosses from the core account to the agents' account."""
