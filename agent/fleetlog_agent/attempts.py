"""Attempts that have not ended: when each may start, when it must end, and how its end reads. Pure.

An attempt starts once, after every earlier attempt of its command has ended, in an open session, before its push
expires. Its deadline counts by the boot clock from the start of its process; whoever wants it to end (deadline or
dispatcher) gets SIGTERM, a grace, then SIGKILL for the whole tree.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import msgspec

from fleetlog_agent import core_settings as limits
from fleetlog_agent import messages as m
from fleetlog_agent.journal_records import Ended, Entry, JournalState, Key, Record, Started, Stopping
from fleetlog_runtime.pure.settings import AgentSettings
from fleetlog_schemas.events import Artifact, OutputSummary
from fleetlog_schemas.limits import (
    ERROR_TEXT_BYTES_MAX,
    OUTPUT_TAIL_BYTES_MAX,
    PROGRESS_MS_MIN,
    TRACEBACK_BYTES_MAX,
)
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.pushes import StartAttempt
from fleetlog_schemas.reports import FarReported, HeldState, ReportEnded, ReportStarted

_NEVER = 1 << 62

ProcessNews = (
    m.Exited | m.Spawned | m.SpawnFailed | m.NeverSpawned | m.LostProcess | m.Progressed | m.ProcessGone | m.OutputPlaced
)


class Live(msgspec.Struct):
    """What is known of an attempt beside the journal."""

    spawned: bool = False
    """We asked for its process, or asked what became of it; until news comes it may run."""
    adopt: bool = False
    """It was in the journal when this agent started: find out what became of it, before anything else."""
    running: bool = False
    gone: bool = False
    """Its process ended; its output is still being read."""
    ending: bool = False
    """Its end is on its way to disk."""
    started_ms: int = 0
    unwritten: Started | None = None
    """Its started record, while a short command may still end before it is worth a sync of its own: until then the
    holder's notes say as much."""
    stop_reason: str = ""
    stop_due_ms: int = 0
    unwanted: bool = False
    """The dispatcher wants it to end, and so nothing that it left."""
    terminated_ms: int | None = None
    """When this agent first told its process to end."""
    start_said: bool = False
    progress: FarReported | None = None
    """What its function said last, or how far its artifacts are sent."""
    progress_due_ms: int = 0
    """When that is to be reported; 0: it was."""
    progress_said_ms: int = 0
    output_first_seq: int = 0


class Attempts:
    """Every attempt of the journal that has not ended."""

    def __init__(
        self, state: JournalState, settings: AgentSettings, boot_id: str, put: Callable[[Record], None]
    ) -> None:
        """Take over what the journal says was under way. *put* queues a record for the next commit."""
        self._state = state
        self._settings = settings
        self._boot_id = boot_id
        self._put = put
        self._slots: dict[Key, int] = {}
        self.open: dict[Key, Live] = {}
        for key, entry in state.entries.items():
            if entry.state is not HeldState.ENDED:
                self.open[key] = Live(adopt=True, stop_reason=entry.stop_reason, unwanted=entry.stop_reason == "cancelled")
                self._slots[key] = entry.slot
        used = set(self._slots.values())
        self._free_slots = [slot for slot in range(max(used, default=-1)) if slot not in used]
        """A heap: with those in use it is every number from 0 up to the highest."""

    # --- what happened -----------------------------------------------------------------------------------

    def take_slot(self, key: Key) -> int:
        """Give *key* the lowest output slot that no attempt under way uses."""
        slot = heapq.heappop(self._free_slots) if self._free_slots else len(self._slots)
        self._slots[key] = slot
        return slot

    def opened(self, key: Key) -> None:
        """Its accepted record is on disk."""
        self.open[key] = Live()

    def closed(self, key: Key) -> None:
        """Its end is on disk."""
        self.open.pop(key, None)
        if (slot := self._slots.pop(key, None)) is not None:
            heapq.heappush(self._free_slots, slot)

    def stop(self, key: Key, reason: str) -> None:
        """Somebody wants it to end; the first reason stays."""
        live = self.open[key]
        live.stop_reason = live.stop_reason or reason
        live.unwanted = True

    def no_more_of(self, key: Key, started_ms: int, now_ms: int) -> str:
        """Return why nothing more is kept of what it left: `cancelled` or `timeout`; empty: it may be sent."""
        live, accepted = self.open[key], self._state.entries[key].accepted
        assert accepted is not None
        if live.unwanted:
            return "timeout" if live.stop_reason == "timeout" else "cancelled"
        over_ms = started_ms + accepted.start.timeout_ms + self._settings.kill_grace_ms + limits.SENDING_GRACE_MS
        return "timeout" if now_ms >= over_ms else ""

    def was_stopped(self, key: Key, ended_ms: int | None) -> bool:
        """Tell whether its process, which ended at *ended_ms* by the boot clock, had been told to."""
        return _was_stopped(ended_ms, self.open[key])

    @property
    def starting(self) -> bool:
        """Whether a process was asked for and has not answered."""
        return any(live.spawned and not live.running and not live.ending for live in self.open.values())

    def observe(self, news: ProcessNews, now_ms: int, bus_ms: int | None) -> None:
        """Take in what a process did; *bus_ms* is the bus's Unix time, if known."""
        live = self.open.get(news.key)
        if live is None or live.ending:
            return  # told before
        match news:
            case m.Spawned():
                self._spawned(news, live, now_ms)
            case m.NeverSpawned():
                live.spawned = live.adopt = False
            case m.ProcessGone():
                live.spawned, live.adopt, live.gone = True, False, True
            case m.Progressed(progress=progress):
                live.progress, live.progress_due_ms = progress, max(now_ms, live.progress_said_ms + PROGRESS_MS_MIN)
            case m.OutputPlaced(first_seq=first_seq):
                live.output_first_seq = first_seq
            case m.SpawnFailed(key=key, error=error):
                if live.stop_reason:
                    self._end_unstarted(key, live, _outcome_unstarted(live.stop_reason), "it was stopped before it ran")
                else:
                    self._end_unstarted(key, live, Outcome.ERROR, error)
            case m.LostProcess(key=key, error=error):
                text = error or "its process is gone and left no exit status: it may have run to its end"
                self._end(key, live, _Fate(Outcome.LOST, Ran.UNKNOWN, error=text))
            case m.Exited():
                self._exited(news, live, now_ms, bus_ms)

    def _spawned(self, news: m.Spawned, live: Live, now_ms: int) -> None:
        entry = self._state.entries[news.key]
        live.spawned, live.adopt, live.running = True, False, True
        live.started_ms = now_ms if news.started_ms is None else news.started_ms
        if entry.started is None:
            live.unwritten = Started(
                key=news.key, pid=news.pid, process_start=news.process_start, started_ms=live.started_ms
            )
        elif entry.accepted is not None and entry.accepted.boot_id == self._boot_id:
            live.started_ms = entry.started.started_ms

    def _exited(self, news: m.Exited, live: Live, now_ms: int, bus_ms: int | None) -> None:
        accepted = self._state.entries[news.key].accepted
        assert accepted is not None
        ended_ms = None if bus_ms is None else bus_ms - now_ms + (now_ms if news.ended_ms is None else news.ended_ms)
        started_ms = None if ended_ms is None or news.duration_ms is None else ended_ms - news.duration_ms
        if news.error:
            outcome = Outcome.ERROR
        elif news.unsent or (live.stop_reason and (_was_stopped(news.ended_ms, live) or news.signal is not None)):
            outcome = Outcome.TIMEOUT if (news.unsent or live.stop_reason) == "timeout" else Outcome.CANCELLED
        elif news.return_value is not None or (news.signal is None and news.exit_code in accepted.start.options.exit_codes):
            outcome = Outcome.SUCCESS
        else:
            outcome = Outcome.FAILURE
        self._end(
            news.key, live,
            _Fate(
                outcome, Ran.YES, exit_code=news.exit_code, signal=news.signal, started_ms=started_ms,
                ended_ms=ended_ms, duration_ms=news.duration_ms, error=news.error or news.raised or news.note, tail=news.tail, output=news.output,
                return_value=news.return_value, traceback=news.traceback, artifacts=news.artifacts,
            ),
        )

    def _end_unstarted(self, key: Key, live: Live, outcome: Outcome, why: str) -> None:
        self._end(key, live, _Fate(outcome, Ran.NO, error=why))

    def _end(self, key: Key, live: Live, fate: _Fate) -> None:
        accepted = self._state.entries[key].accepted
        assert accepted is not None
        live.ending = True
        self._put(
            Ended(
                end=ReportEnded(
                    task_id=key.task_id, attempt=key.attempt, token=accepted.start.token,
                    token_key_id=accepted.start.token_key_id, outcome=fate.outcome, ran=fate.ran,
                    exit_code=fate.exit_code, signal=fate.signal, started_ms=fate.started_ms, ended_ms=fate.ended_ms,
                    duration_ms=fate.duration_ms, error=bounded(fate.error, ERROR_TEXT_BYTES_MAX),
                    tail=bounded(fate.tail, OUTPUT_TAIL_BYTES_MAX), output=fate.output,
                    return_value=fate.return_value, artifacts=fate.artifacts, traceback=bounded(fate.traceback, TRACEBACK_BYTES_MAX),
                )
            )
        )

    # --- what to do ----------------------------------------------------------------------------------------

    def step(self, now_ms: int, *, may_start: bool) -> list[m.Effect]:
        """Return what is due: adoptions, starts, signals."""
        effects: list[m.Effect] = []
        for key, live in self.open.items():
            if live.ending or live.gone:
                continue
            entry = self._state.entries[key]
            assert entry.accepted is not None
            if live.adopt:
                self._adopt(key, live, entry, effects)
            elif live.running:
                if live.unwritten is not None and now_ms >= live.started_ms + self._settings.started_report_after_ms:
                    self._put(live.unwritten)
                    live.unwritten = None
                self._enforce(key, live, entry.accepted.start, now_ms, effects)
            elif not live.spawned:
                self._start(key, live, entry, now_ms, effects, may_start=may_start)
        return effects

    def _adopt(self, key: Key, live: Live, entry: Entry, effects: list[m.Effect]) -> None:
        if live.spawned or entry.accepted is None:
            return
        live.spawned = True
        pid, process_start = (entry.started.pid, entry.started.process_start) if entry.started else (0, 0)
        effects.append(m.Adopt(key, entry.accepted.start, entry.slot, pid, process_start))

    def _start(
        self, key: Key, live: Live, entry: Entry, now_ms: int, effects: list[m.Effect], *, may_start: bool
    ) -> None:
        accepted = entry.accepted
        assert accepted is not None
        numbers = self._state.attempts[key.task_id]
        if live.stop_reason:
            self._end_unstarted(key, live, _outcome_unstarted(live.stop_reason), "it was stopped before it ran")
        elif accepted.boot_id != self._boot_id or now_ms > accepted.start_by_ms:
            self._end_unstarted(key, live, Outcome.UNREACHED, "it could not be started before its push expired")
        elif any(number > key.attempt for number in numbers):
            self._end_unstarted(key, live, Outcome.UNREACHED, "a later attempt of this command came before it ran")
        elif may_start and not any(number < key.attempt and Key(key.task_id, number) in self.open for number in numbers):
            live.spawned = True
            effects.append(m.Spawn(key, accepted.start, entry.slot))

    def _enforce(self, key: Key, live: Live, start: StartAttempt, now_ms: int, effects: list[m.Effect]) -> None:
        if not live.stop_reason and now_ms >= live.started_ms + start.timeout_ms:
            live.stop_reason = "timeout"
        if not live.stop_reason or now_ms < live.stop_due_ms:
            return
        if live.terminated_ms is None:
            live.terminated_ms = now_ms
            live.stop_due_ms = now_ms + self._settings.kill_grace_ms
            if self._state.entries[key].stop_reason != live.stop_reason:
                self._put(Stopping(key=key, reason=live.stop_reason))
            effects.append(m.Terminate(key))
        else:
            live.stop_due_ms = now_ms + limits.KILL_REPEAT_MS
            effects.append(m.Kill(key))

    def starts_due(self, now_ms: int, offset_ms: int | None) -> Iterator[ReportStarted]:
        """Yield the starts to report now, once each: journaled, and lasting."""
        for key, live in self.open.items():
            entry = self._state.entries[key]
            if not live.running or entry.started is None or entry.accepted is None:
                continue
            progressed = 0 < live.progress_due_ms <= now_ms
            if live.start_said and not progressed:
                continue
            # Of a process that is gone only how far its artifacts are can still be news.
            if live.ending or (live.gone and not progressed) or now_ms < live.started_ms + self._settings.started_report_after_ms:
                continue
            live.start_said = True
            if progressed:
                live.progress_due_ms, live.progress_said_ms = 0, now_ms
            yield ReportStarted(
                task_id=key.task_id, attempt=key.attempt, token=entry.accepted.start.token,
                token_key_id=entry.accepted.start.token_key_id,
                started_ms=0 if offset_ms is None else live.started_ms + offset_ms, slot=entry.slot,
                output_first_seq=live.output_first_seq, progress=live.progress if progressed else None,
            )

    def next_ms(self) -> int:
        """Return when something is due, by the boot clock."""
        due_ms = _NEVER
        for key, live in self.open.items():
            accepted = self._state.entries[key].accepted
            if live.ending or live.gone or accepted is None:
                continue
            if live.running:
                deadline_ms = live.started_ms + accepted.start.timeout_ms
                due_ms = min(due_ms, live.stop_due_ms if live.stop_reason else deadline_ms)
                if live.progress_due_ms:
                    due_ms = min(due_ms, live.progress_due_ms)
                if not live.start_said:
                    due_ms = min(due_ms, live.started_ms + self._settings.started_report_after_ms)
            elif not live.spawned:
                due_ms = min(due_ms, accepted.start_by_ms + 1)
        return due_ms


class _Fate(msgspec.Struct, frozen=True):
    """How an attempt ended, without its names."""

    outcome: Outcome
    ran: Ran
    exit_code: int | None = None
    signal: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    duration_ms: int | None = None
    error: str = ""
    tail: str = ""
    output: OutputSummary | None = None
    return_value: str | None = None
    traceback: str = ""
    artifacts: tuple[Artifact, ...] = ()


def _was_stopped(ended_ms: int | None, live: Live) -> bool:
    """Tell whether a process was told to end before it did: one that ended by itself while its agent stood still was not."""
    return live.terminated_ms is not None and (ended_ms is None or ended_ms >= live.terminated_ms)


def _outcome_unstarted(stop_reason: str) -> Outcome:
    """Only a person's wish is `cancelled`; nobody saw a timeout of what never ran."""
    return Outcome.CANCELLED if stop_reason == "cancelled" else Outcome.UNREACHED


def never_ran(key: Key, token: str, token_key_id: str, outcome: Outcome, why: str) -> ReportEnded:
    """Return the end of an attempt that never started here."""
    return ReportEnded(
        task_id=key.task_id, attempt=key.attempt, token=token, token_key_id=token_key_id, outcome=outcome,
        ran=Ran.NO, error=bounded(why, ERROR_TEXT_BYTES_MAX),
    )


def bounded(text: str, bytes_max: int = ERROR_TEXT_BYTES_MAX) -> str:
    """Return the end of *text* that fits into *bytes_max* bytes of UTF-8."""
    return text.encode(errors="replace")[-bytes_max:].decode(errors="ignore")
