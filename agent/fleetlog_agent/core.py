"""The agent as a value: journal state, live state, and what to do next.

Theory of operation. `observe` takes in what happened, `step` looks at everything that is due and returns effects,
`journal_written` says that the one commit in flight is on disk. Only then is it folded, and only what is folded is
acted on or spoken of: no process starts before its accepted record, no report or heartbeat counts what a crash
could take back. The shell and the simulation drive this class alike; it reads no clock and does no I/O.

How a process ends is in `attempts.py`, what is said of it in `outbox.py`, who may say what to us in `session.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fleetlog_agent import core_settings as limits
from fleetlog_agent import messages as m
from fleetlog_agent.alarms import Alarms
from fleetlog_agent.attempts import Attempts, never_ran
from fleetlog_agent.journal_records import (
    Accepted,
    Commit,
    Ended,
    Forgotten,
    JournalState,
    Key,
    Record,
    SessionOpened,
    Tombstone,
    fold,
)
from fleetlog_agent.outbox import Outbox
from fleetlog_agent.reading import Push, StartPush, UnknownStart
from fleetlog_agent.session import Session, Untrusted
from fleetlog_runtime.pure.settings import AgentSettings
from fleetlog_schemas import pushes
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.reports import Heartbeat, HeldState, Load, OpenSession, ReportFacts, ReportItem


class Core:
    """One run of one agent."""

    def __init__(
        self,
        host_id: str,
        boot_id: str,
        version: str,
        entropy: Callable[[int], bytes],
        pinned_keys: dict[str, str],
        settings: AgentSettings = AgentSettings(),  # noqa: B008 - frozen
        refuses: Callable[[pushes.StartAttempt], str] = lambda _start: "",
        state: JournalState | None = None,
    ) -> None:
        """Start from the journal's *state*.

        *boot_id* names this boot of the machine, in which the boot clock counts. *pinned_keys* (key id to base64)
        were received when the host joined. *refuses* returns why the host's own policy forbids a start, or nothing.
        """
        self.host_id = host_id
        self.boot_id = boot_id
        self.version = version
        self.settings = settings
        self.state = JournalState() if state is None else state
        self.session = Session(host_id, boot_id, entropy)
        self.outbox = Outbox(entropy, settings.report_repeat_ms)
        self.attempts = Attempts(self.state, settings, boot_id, self._put)
        self.writing: Commit | None = None
        """On its way to disk."""
        self._had_session = False
        """Until the first session of this run, nothing is reported, and the counter shown is the one of the last session:
        what we write while we recover, in this run or in one before it, must not hide that an older journal was restored."""
        self._entropy = entropy
        self._pinned_keys = pinned_keys
        self._refuses = refuses
        self._pending: list[Record] = []
        self._forget_due_ms = 0
        """When what the journal may forget is written for its own sake; 0: there is nothing, or something else to write."""
        self._new_keys: set[Key] = set()
        """Attempts whose first record is not on disk yet."""
        self._inbox: deque[Push] = deque()
        self._alarms = Alarms()
        self._load = Load(cpu_ratio=0.0, memory_ratio=0.0, disk_ratio=0.0, load_1m=0.0)
        self._facts: dict[str, str | int | float | bool] = {}
        self._facts_said: dict[str, str | int | float | bool] = {}
        self._facts_due_ms = 0
        self._spool_full = False
        self._stopping_ms: int | None = None
        self.stopped = False
        self._seen_ms: int | None = None
        self._deaf_until_ms = 0
        self._beat_due_ms = 0
        self._unsaid: dict[Key, int] = {}
        """Accepted attempts that no heartbeat or report has mentioned, and since when."""
        for key, entry in self.state.entries.items():
            if entry.state is HeldState.ENDED:
                self.outbox.add(key)

    # --- what happened -----------------------------------------------------------------------------------

    def observe(self, observation: m.Observation, now_ms: int) -> None:
        """Take in what happened; *now_ms* is the boot clock. Call `step` afterwards (one for many is fine)."""
        self._note_gap(now_ms)
        match observation:
            case m.Push(body=body):
                self._receive(body, now_ms)
            case m.SessionAnswered(body=body):
                self._session_answered(body, now_ms)
            case (
                m.Exited() | m.Spawned() | m.SpawnFailed() | m.NeverSpawned() | m.LostProcess() | m.ProcessGone()
                | m.OutputPlaced() | m.Progressed()
            ):
                self.attempts.observe(observation, now_ms, self.bus_ms(now_ms))
            case m.ReportStored(report_id=report_id):
                self.outbox.stored(report_id, now_ms)
            case m.Connected(connected=connected):
                self._inbox.clear()
                self.session.connect(now_ms, connected=connected)
                if connected:
                    self.outbox.reconnected()
            case m.LoadMeasured(load=load):
                self._load = load
            case m.FactsMeasured(facts=facts):
                self._facts = facts
            case m.SpoolFull(full=full):
                self._spool_full = full
            case m.Stop():
                self._stopping_ms = now_ms if self._stopping_ms is None else self._stopping_ms

    def journal_written(self) -> None:
        """The commit in flight is on disk."""
        assert self.writing is not None
        commit, self.writing = self.writing, None
        fold(self.state, commit)
        for record in commit.records:
            match record:
                case Accepted():
                    self._new_keys.discard(record.key)
                    self._unsaid[record.key] = self._seen_ms or 0
                    self.attempts.opened(record.key)
                case Tombstone() | Ended():
                    self._new_keys.discard(record.key)
                    self.attempts.closed(record.key)
                    self.outbox.add(record.key)
                case Forgotten(key=key):
                    self.outbox.forget(key)
                    self._unsaid.pop(key, None)
                case SessionOpened():
                    self.session.journaled(record)
                    self._had_session = self._had_session or self.session.is_open
                    self._beat_due_ms = 0

    def _put(self, record: Record) -> None:
        self._pending.append(record)

    def _note_gap(self, now_ms: int) -> None:
        """After a pause in which we did not run, what is buffered is old: drop it and say first what we hold."""
        if self._seen_ms is not None and now_ms - self._seen_ms > self.settings.gap_ms:
            self._inbox.clear()
            self._deaf_until_ms = now_ms + limits.GAP_DEAF_MS
            self._beat_due_ms = 0
        self._seen_ms = now_ms

    @property
    def _trusted(self) -> dict[str, str]:
        session = self.state.session
        return session.signing_keys if session is not None else self._pinned_keys

    def bus_ms(self, now_ms: int) -> int | None:
        """Return the bus's Unix time, once a session of this boot told it."""
        session = self.state.session
        return now_ms + session.offset_ms if session is not None and session.boot_id == self.boot_id else None

    # --- who speaks to us ----------------------------------------------------------------------------------

    def _receive(self, body: bytes, now_ms: int) -> None:
        if now_ms < self._deaf_until_ms:
            return
        try:
            push = self.session.trusted_push(body, self._trusted)
        except Untrusted as error:
            self._alarms.add(str(error))
            return
        if self.session.is_open and push.epoch > self.session.epoch:
            self.session.close(now_ms)  # somebody opened a later session in our name: ask, and the ticket tells who
        elif len(self._inbox) < limits.INBOX_PUSHES_MAX:
            self._inbox.append(push)

    def _session_answered(self, body: bytes, now_ms: int) -> None:
        try:
            granted = self.session.answered(body, self._trusted, now_ms)
        except Untrusted as error:
            self._alarms.add(str(error))
            return
        if granted is not None:
            self._put(granted)
        elif self.session.denied:
            self._alarms.add(self.session.denied)

    def _obey(self, now_ms: int) -> None:
        """Turn pushes into records. A push about an attempt whose record is on its way waits for it."""
        while self._inbox:
            push = self._inbox[0]
            if any(Key(one.task_id, one.attempt) in self._new_keys for one in push.attempts):
                return
            self._inbox.popleft()
            bus_ms = self.bus_ms(now_ms)
            if bus_ms is None or not self.session.obeys(push, bus_ms):
                continue
            match push:
                case pushes.StartPush() | StartPush():
                    for start in push.attempts:
                        self._accept(start, now_ms, push.expires_ms - bus_ms)
                case pushes.CancelPush():
                    for named in push.attempts:
                        self._cancel(named)
                case pushes.ForgetPush():
                    for named in push.attempts:
                        self._forget(Key(named.task_id, named.attempt))

    def _accept(self, start: pushes.StartAttempt | UnknownStart, now_ms: int, valid_ms: int) -> None:
        key = Key(start.task_id, start.attempt)
        if key in self.state.entries or key in self._new_keys:
            self.outbox.hurry(key)
            return
        busy = self._busy(key)
        why = busy or (start.reason if isinstance(start, UnknownStart) else self._refuses(start))
        if why or isinstance(start, UnknownStart):
            self._bury(start, Outcome.UNREACHED if busy else Outcome.ERROR, why)
            return
        self._new_keys.add(key)
        self._put(
            Accepted(
                start=start, slot=self.attempts.take_slot(key), boot_id=self.boot_id, accepted_ms=now_ms,
                start_by_ms=now_ms + valid_ms,
            )
        )

    def _busy(self, key: Key) -> str:
        if self._stopping_ms is not None:
            return "the agent is stopping"
        if self._spool_full:
            return "the agent's disk is full, or its space for journal and output is used up"
        if len(self.state.entries) + len(self._new_keys) >= self.settings.held_max:
            return f"the agent holds {self.settings.held_max} attempts already"
        if any(number > key.attempt for number in self.state.attempts.get(key.task_id, ())):
            return "a later attempt of this command is here already"
        return ""

    def _bury(self, named: pushes.NamedAttempt | pushes.StartAttempt, outcome: Outcome, why: str) -> None:
        """Leave a tombstone: this attempt never starts here, whatever arrives later."""
        if len(self.state.entries) + len(self._new_keys) >= self.settings.held_max + limits.REFUSALS_HELD_MAX:
            self._alarms.add("ignored pushes: more refused attempts than can be kept wait to be forgotten")
            return
        key = Key(named.task_id, named.attempt)
        self._new_keys.add(key)
        self._put(Tombstone(end=never_ran(key, named.token, named.token_key_id, outcome, why)))

    def _cancel(self, named: pushes.NamedAttempt) -> None:
        key = Key(named.task_id, named.attempt)
        entry = self.state.entries.get(key)
        if entry is not None and entry.end is not None:
            self.outbox.hurry(key)
        elif entry is not None:
            self.attempts.stop(key, named.reason or "cancelled")
        elif key not in self._new_keys:
            outcome = Outcome.CANCELLED if named.reason == "cancelled" else Outcome.UNREACHED
            self._bury(named, outcome, "it was withdrawn before it came")

    def _forget(self, key: Key) -> None:
        entry = self.state.entries.get(key)
        if entry is None:
            return
        if entry.end is None:
            self._alarms.add(f"ignored a push to forget attempt {key}, which has not ended")
            return
        self._put(Forgotten(key=key))

    # --- what to do ----------------------------------------------------------------------------------------

    def step(self, now_ms: int) -> list[m.Effect]:
        """Return everything that is due at *now_ms* of the boot clock; the last effect says when to call again."""
        self._note_gap(now_ms)
        if self.stopped:
            return []
        effects: list[m.Effect] = []
        self._beat(now_ms, effects)
        self._obey(now_ms)
        effects += self.attempts.step(now_ms, may_start=self.session.is_open and self._stopping_ms is None)
        self._report(now_ms, effects)
        self._ask_session(now_ms, effects)
        self._write(now_ms, effects)
        self._stop(now_ms, effects)
        effects += self._alarms.due(now_ms)
        if not self.stopped:
            effects.append(m.WakeAt(self._wake_ms(now_ms)))
        return effects

    def _write(self, now_ms: int, effects: list[m.Effect]) -> None:
        if self.writing is not None or not self._pending:
            return
        if self._stopping_ms is None and all(isinstance(record, Forgotten) for record in self._pending):
            self._forget_due_ms = self._forget_due_ms or now_ms + limits.FORGET_MS
            if now_ms < self._forget_due_ms:
                return
        self._forget_due_ms = 0
        # With the record of a session the counter is sure: whoever gets one is not an older copy of himself, and reports
        # from then on.
        in_session = self._had_session or any(isinstance(record, SessionOpened) for record in self._pending)
        shown_counter = -1 if in_session else self.state.shown_counter
        self.writing = Commit(self.state.counter + 1, tuple(self._pending), shown_counter)
        self._pending.clear()
        effects.append(m.WriteJournal(self.writing))

    def _beat(self, now_ms: int, effects: list[m.Effect]) -> None:
        if not self.session.is_open or now_ms < self._next_beat_ms():
            return
        spread = int(self.settings.heartbeat_ms * limits.HEARTBEAT_JITTER)
        jitter = int.from_bytes(self._entropy(4), "big") * (2 * spread) >> 32
        self._beat_due_ms = now_ms + self.settings.heartbeat_ms - spread + jitter
        self._unsaid.clear()
        effects.append(m.SendHeartbeat(self._heartbeat()))

    def _next_beat_ms(self) -> int:
        if self._unsaid:
            oldest_ms = next(iter(self._unsaid.values()))
            return min(self._beat_due_ms, oldest_ms + limits.HEARTBEAT_CHANGE_MS)
        return self._beat_due_ms

    def _heartbeat(self, *, goodbye: bool = False) -> Heartbeat:
        return Heartbeat(
            epoch=self.session.epoch, boot_id=self.boot_id, counter=self.state.counter,
            newest_seq=self.session.newest_seq, load=self._load, held=self.state.held(), goodbye=goodbye,
            spool_full=self._spool_full,
        )

    def _report(self, now_ms: int, effects: list[m.Effect]) -> None:
        if not self.session.connected or not self._had_session:
            return
        effects += self.outbox.resend(now_ms)
        if self.outbox.full:
            return
        bus_ms = self.bus_ms(now_ms)
        items: list[ReportItem] = list(self.attempts.starts_due(now_ms, None if bus_ms is None else bus_ms - now_ms))
        for key in self.outbox.ends_due(now_ms):
            end = self.state.entries[key].end
            assert end is not None
            items.append(end)
        for item in items:
            if not isinstance(item, ReportFacts):
                self._unsaid.pop(Key(item.task_id, item.attempt), None)
        if self._facts != self._facts_said and now_ms >= self._facts_due_ms and self.session.is_open:
            self._facts_said, self._facts_due_ms = self._facts, now_ms + limits.FACTS_MS_MIN
            items.append(ReportFacts(facts=self._facts))
        epoch = self.state.session.epoch if self.state.session else 0
        effects += self.outbox.send(items, epoch, self.state.counter, now_ms)

    def _ask_session(self, now_ms: int, effects: list[m.Effect]) -> None:
        if self._new_keys or self._stopping_ms is not None:
            return  # what is on its way to disk is held, and must be in the request
        nonce = self.session.ask(now_ms)
        if nonce is None:
            return
        ticket = self.state.session.ticket if self.state.session else ""
        effects.append(
            m.AskSession(
                OpenSession(
                    nonce=nonce, ticket=ticket, boot_id=self.boot_id, version=self.version,
                    counter=self.state.counter if self._had_session else self.state.shown_counter,
                    held=self.state.held(), asked_ms=now_ms,
                )
            )
        )

    def _stop(self, now_ms: int, effects: list[m.Effect]) -> None:
        if self._stopping_ms is None:
            return
        said = self.outbox.quiet or not self.session.connected or not self._had_session
        settled = self.writing is None and not self._pending and not self.attempts.starting and said
        if not settled and now_ms < self._stopping_ms + limits.STOP_MS_MAX:
            return
        if self.session.is_open:
            effects.append(m.SendHeartbeat(self._heartbeat(goodbye=True)))
        self.stopped = True
        effects.append(m.Stopped())

    def _wake_ms(self, now_ms: int) -> int:
        dues = [now_ms + limits.TICK_MS_MAX, self.attempts.next_ms()]
        if self.session.connected and self._had_session:
            dues.append(self.outbox.next_ms())
        if self.session.is_open:
            dues.append(self._next_beat_ms())
        elif self.session.ask_due_ms is not None:
            dues.append(self.session.ask_due_ms)
        if self._forget_due_ms:
            dues.append(self._forget_due_ms)
        if self._stopping_ms is not None:
            dues.append(self._stopping_ms + limits.STOP_MS_MAX)
        # What is due and could not be done waits for something to happen; a step at once would not help.
        return min((due for due in dues if due > now_ms), default=now_ms + limits.TICK_MS_MAX)
