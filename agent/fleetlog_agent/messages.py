"""What goes into the agent's core and what comes out: observations and effects, all of them data.

The core never acts; the shell performs each effect and tells what came of it by an observation. An effect may be
performed late, twice or not at all when the agent is killed; the core is made for that.
"""

from __future__ import annotations

import msgspec

from fleetlog_agent.journal_records import Commit, Key
from fleetlog_schemas.events import Artifact, OutputSummary
from fleetlog_schemas.pushes import StartAttempt
from fleetlog_schemas.reports import FarReported, Heartbeat, Load, OpenSession, Report

# --- observations --------------------------------------------------------------------------------------


class Push(msgspec.Struct, frozen=True):
    """Bytes arrived on the host's own push subject: a `Signed`, if it is honest."""

    body: bytes


class SessionAnswered(msgspec.Struct, frozen=True):
    """The answer to a session request: a `Signed`, if it is honest."""

    body: bytes


class Spawned(msgspec.Struct, frozen=True):
    """The process of an attempt runs (it was just started, or found again after a restart)."""

    key: Key
    pid: int
    process_start: int
    started_ms: int | None = None
    """By the boot clock, when it is known better than now."""


class SpawnFailed(msgspec.Struct, frozen=True):
    """The process of an attempt could not be started, and nothing of it ran."""

    key: Key
    error: str


class NeverSpawned(msgspec.Struct, frozen=True):
    """Asked to adopt: this attempt surely was never started."""

    key: Key


class LostProcess(msgspec.Struct, frozen=True):
    """Asked to adopt, or the holder died: it may have run, and nobody can say how it ended."""

    key: Key
    error: str = ""


class Exited(msgspec.Struct, frozen=True):
    """The process of an attempt ended and its output is read to the end."""

    key: Key
    exit_code: int | None = None
    signal: int | None = None
    duration_ms: int | None = None
    output: OutputSummary | None = None
    tail: str = ""
    error: str = ""
    """Why it could not be run after all; it is then an `error`, not a failure."""
    ended_ms: int | None = None
    """By the boot clock, when it is known better than now."""
    return_value: str | None = None
    """As JSON."""
    artifacts: tuple[Artifact, ...] = ()
    """Of a build: the files that are kept."""
    unsent: str = ""
    """Why its artifacts were not sent, or not all, though it ended well: `cancelled` or `timeout`; `note` says more."""
    note: str = ""
    """What is wrong with what it returned; how it ended is not touched by that."""
    raised: str = ""
    """What a function raised, in one line."""
    traceback: str = ""


class Progressed(msgspec.Struct, frozen=True):
    """A function said how far it is, or so much of an artifact was sent."""

    key: Key
    progress: FarReported


class ProcessGone(msgspec.Struct, frozen=True):
    """The process of an attempt ended, and its output is still being read: `Exited` follows. No signal helps now."""

    key: Key


class OutputPlaced(msgspec.Struct, frozen=True):
    """The first frame of an attempt's output has this sequence in OUTPUT."""

    key: Key
    first_seq: int


class ReportStored(msgspec.Struct, frozen=True):
    """The bus has this report on disk. It is not in the log yet."""

    report_id: str


class Connected(msgspec.Struct, frozen=True):
    """The bus can be reached, or no longer."""

    connected: bool


class LoadMeasured(msgspec.Struct, frozen=True):
    """How busy the host is."""

    load: Load


class FactsMeasured(msgspec.Struct, frozen=True):
    """What the host is made of."""

    facts: dict[str, str | int | float | bool]


class SpoolFull(msgspec.Struct, frozen=True):
    """Journal and output files on disk reached their limit, or no longer."""

    full: bool


class Stop(msgspec.Struct, frozen=True):
    """End the agent: finish what is half said, say goodbye. Commands go on under the holder."""


Observation = (
    Push | SessionAnswered | Spawned | SpawnFailed | NeverSpawned | LostProcess | Exited | Progressed | ProcessGone | OutputPlaced
    | ReportStored | Connected | LoadMeasured | FactsMeasured | SpoolFull | Stop
)

# --- effects -------------------------------------------------------------------------------------------


class WriteJournal(msgspec.Struct, frozen=True):
    """Put this on disk, with fsync, then call `Core.journal_written`. One at a time."""

    commit: Commit


class Adopt(msgspec.Struct, frozen=True):
    """After a restart: find out what became of this attempt.

    Answered by `Spawned` (it runs), `Exited`, `NeverSpawned` or `LostProcess`.
    """

    key: Key
    start: StartAttempt
    slot: int
    pid: int = 0
    process_start: int = 0


class Spawn(msgspec.Struct, frozen=True):
    """Start the process of an attempt. Starting a key that was started before starts nothing."""

    key: Key
    start: StartAttempt
    slot: int


class Terminate(msgspec.Struct, frozen=True):
    """Ask the processes of an attempt to end (SIGTERM)."""

    key: Key


class Kill(msgspec.Struct, frozen=True):
    """End the whole process tree of an attempt (SIGKILL)."""

    key: Key


class SendReport(msgspec.Struct, frozen=True):
    """Store this report on the bus; `ReportStored` says when it is. `body` is its wire form."""

    report: Report
    body: bytes


class SendHeartbeat(msgspec.Struct, frozen=True):
    """Publish this heartbeat, at most once."""

    heartbeat: Heartbeat


class AskSession(msgspec.Struct, frozen=True):
    """Request a session. If nobody answers, the core asks again by itself."""

    request: OpenSession


class WakeAt(msgspec.Struct, frozen=True):
    """Call `step` at this time of the boot clock, even if nothing happens before. Each step ends with one."""

    at_ms: int


class Alarm(msgspec.Struct, frozen=True):
    """A person should read this: it goes to the agent's diagnostics."""

    text: str


class Stopped(msgspec.Struct, frozen=True):
    """Everything is said: the agent may exit."""


Effect = (
    WriteJournal | Adopt | Spawn | Terminate | Kill | SendReport | SendHeartbeat | AskSession | WakeAt | Alarm | Stopped
)
