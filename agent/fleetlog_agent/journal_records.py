"""What an agent's journal says: records, and the one fold that turns them into a state.

Pure. A commit is what one fsync puts on disk: some records and the counter after them. The state changes by
`fold` alone, and only with commits that are on disk, so what an agent does and says never rests on anything that
a crash could take back. These types are stored on hosts: a field may be added with a default, never changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from fleetlog_schemas.pushes import StartAttempt
from fleetlog_schemas.reports import Held, HeldState, ReportEnded


class Key(NamedTuple):
    """One attempt on this host."""

    task_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.task_id}.{self.attempt}"

    @classmethod
    def of(cls, text: str) -> Key:
        """Return the attempt that *text* names."""
        task_id, _, attempt = text.rpartition(".")
        return cls(task_id, int(attempt))


class Accepted(msgspec.Struct, frozen=True, tag="accepted", tag_field="record"):
    """An attempt was taken on. Written before anything of it runs."""

    start: StartAttempt
    slot: int
    boot_id: str
    accepted_ms: int
    """By the boot clock."""
    start_by_ms: int
    """By the boot clock: when the push expires. What has not been started by then never is."""

    @property
    def key(self) -> Key:
        """Return which attempt this is."""
        return Key(self.start.task_id, self.start.attempt)


class Tombstone(msgspec.Struct, frozen=True, tag="tombstone", tag_field="record"):
    """An attempt will never start here: cancelled before it came, or refused."""

    end: ReportEnded

    @property
    def key(self) -> Key:
        """Return which attempt this is."""
        return Key(self.end.task_id, self.end.attempt)


class Started(msgspec.Struct, frozen=True, tag="started", tag_field="record"):
    """The process of an attempt exists."""

    key: Key
    pid: int
    process_start: int
    """The kernel's start time of the process: with the pid it names one process for ever."""
    started_ms: int
    """By the boot clock: the deadline counts from here."""


class Stopping(msgspec.Struct, frozen=True, tag="stopping", tag_field="record"):
    """We began to end an attempt; a later death is our doing, also for an agent that starts in between."""

    key: Key
    reason: str


class Ended(msgspec.Struct, frozen=True, tag="ended", tag_field="record"):
    """An attempt ended. The report is kept until the dispatcher says that it may be forgotten."""

    end: ReportEnded

    @property
    def key(self) -> Key:
        """Return which attempt this is."""
        return Key(self.end.task_id, self.end.attempt)


class Forgotten(msgspec.Struct, frozen=True, tag="forgotten", tag_field="record"):
    """The end of an attempt is settled in the log."""

    key: Key


class SessionOpened(msgspec.Struct, frozen=True, tag="session", tag_field="record"):
    """A dispatcher let us in. The ticket is on disk before it is used."""

    ticket: str
    epoch: int
    seq: int
    nonce: str
    signing_keys: dict[str, str]
    boot_id: str
    offset_ms: int
    """The bus's Unix time minus the boot clock; true only in this boot."""


Record = Accepted | Tombstone | Started | Stopping | Ended | Forgotten | SessionOpened


class Commit(msgspec.Struct, frozen=True, omit_defaults=True):
    """The records of one fsync, and the counter that it raised."""

    counter: int
    records: tuple[Record, ...]
    shown_counter: int = -1
    """Of a commit written before a run's first session: the counter that is shown nevertheless. -1: its own."""


class Entry(msgspec.Struct):
    """One attempt as the journal has it, from its first record until it is forgotten."""

    state: HeldState
    accepted: Accepted | None = None
    """Kept until the attempt has ended; a tombstone never had one."""
    started: Started | None = None
    stop_reason: str = ""
    end: ReportEnded | None = None
    slot: int = 0


class JournalState(msgspec.Struct):
    """What is on disk."""

    counter: int = 0
    shown_counter: int = 0
    """What a run shows until its first session: the counter as it stood when an agent last wrote in a session."""
    entries: dict[Key, Entry] = {}
    attempts: dict[str, list[int]] = {}
    """The attempt numbers held of each task: there is one command of a task on a host."""
    session: SessionOpened | None = None

    def held(self) -> tuple[Held, ...]:
        """Return every attempt held, as sessions and heartbeats say it."""
        return tuple(
            Held(task_id=key.task_id, attempt=key.attempt, state=entry.state, slot=entry.slot)
            for key, entry in self.entries.items()
        )


def fold(state: JournalState, commit: Commit) -> None:
    """Take a commit that is on disk into *state*."""
    for record in commit.records:
        _fold_record(state, record)
    state.counter = commit.counter
    state.shown_counter = commit.counter if commit.shown_counter < 0 else commit.shown_counter


def replay(commits: Iterable[Commit]) -> JournalState:
    """Return the state of a whole journal."""
    state = JournalState()
    for commit in commits:
        fold(state, commit)
    return state


def compacted(state: JournalState) -> Commit:
    """Return one commit that folds to *state*; its counter is the state's own."""
    records: list[Record] = [] if state.session is None else [state.session]
    for key, entry in state.entries.items():
        if entry.end is not None:
            records.append(Ended(end=entry.end))
            continue
        assert entry.accepted is not None
        records.append(entry.accepted)
        if entry.started is not None:
            records.append(entry.started)
        if entry.stop_reason:
            records.append(Stopping(key=key, reason=entry.stop_reason))
    shown_counter = -1 if state.shown_counter == state.counter else state.shown_counter
    return Commit(counter=state.counter, records=tuple(records), shown_counter=shown_counter)


def _fold_record(state: JournalState, record: Record) -> None:
    match record:
        case Accepted():
            _add(state, record.key, Entry(state=HeldState.ACCEPTED, accepted=record, slot=record.slot))
        case Tombstone(end=end) | Ended(end=end):
            entry = state.entries.get(record.key)
            if entry is None:
                entry = _add(state, record.key, Entry(state=HeldState.ENDED))
            entry.state, entry.end, entry.accepted = HeldState.ENDED, end, None
        case Started(key=key):
            entry = state.entries.get(key)
            if entry is not None and entry.end is None:
                entry.state, entry.started = HeldState.RUNNING, record
        case Stopping(key=key, reason=reason):
            entry = state.entries.get(key)
            if entry is not None:
                entry.stop_reason = reason
        case Forgotten(key=key):
            _remove(state, key)
        case SessionOpened():
            state.session = record


def _add(state: JournalState, key: Key, entry: Entry) -> Entry:
    state.entries[key] = entry
    state.attempts.setdefault(key.task_id, []).append(key.attempt)
    return entry


def _remove(state: JournalState, key: Key) -> None:
    if state.entries.pop(key, None) is None:
        return
    numbers = state.attempts[key.task_id]
    numbers.remove(key.attempt)
    if not numbers:
        del state.attempts[key.task_id]
