"""A service as a value: the order in which fold, observe and decide are called, and the read-back rule.

The async service loop and the simulation both drive this class, so what the simulation proves is what runs.
It does no I/O and reads no clock.

The rule: a decision is acted on only after its events were read back from the log and folded. So `decide` is not
called while an append is unsettled, and whatever is sent is a function of folded state. An append's fate is
settled by reading: either its first event id comes by, or the log is read past the point at which it was refused.

A decision of a few events is stored one by one, each fenced by the one before it, for an atomic batch costs the bus
as much as six appends. One follows the other as soon as the bus says where that one stands; nothing new is decided until
the last of them is read back. Where it breaks off, what is stored stands, and the rest is void and decided anew. So a
decision must mean something at every event it may be cut after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.pure.effects import Append, Changed, Effect, Performed, Tick, WakeAt
from fleetlog_runtime.pure.split import separable
from fleetlog_schemas import limits
from fleetlog_schemas.codec import Event, encode
from fleetlog_schemas.events import NAMES, PASSED_OVER, REGISTRY, Data

S = TypeVar("S")
L = TypeVar("L")


class Unit(Protocol[S, L]):
    """The pure functions of one service."""

    name: str
    subject: str
    """The fenced subject that it writes."""
    fences: tuple[str, ...]
    """Subjects whose news void a decision that was made before it. Of others: where it is stored in one batch. Of its own:
    a decision that begins with an event of such a subject is fenced by that one in place of `subject`."""
    passes_over: frozenset[type[Data]]
    """Events that it has no use for: it is told only where they stand, and most of the log need not be decoded for it."""

    def initial(self) -> S:
        """Return the state of an empty log."""
        ...

    def fold(self, state: S, event: Event) -> object:
        """Fold one event into *state* and return what changed, for `observe`."""
        ...

    def awaken(self, state: S, now_ms: int) -> L:
        """Return the live state of a service that has just folded *state* and knows nothing else."""
        ...

    def observe(self, state: S, live: L, observation: object, now_ms: int) -> None:
        """Take in what is not in the log. Changes only *live*."""
        ...

    def decide(self, state: S, live: L, now_ms: int) -> list[Effect]:
        """Return what is due; changes nothing, so that deciding twice adds nothing."""
        ...


class Engine(Generic[S, L]):
    """One running instance of a unit."""

    def __init__(
        self, unit: Unit[S, L], source: str, make_id: Callable[[], str], state: S | None = None, position: int = 0,
        fence_seqs: dict[str, int] | None = None,
    ) -> None:
        """Start from nothing, or from a snapshot: *state* folded up to *position*."""
        self.unit = unit
        self.source = source
        self.state: S = unit.initial() if state is None else state
        self.position = position
        """The last sequence folded."""
        self.at_batch_end = True
        self.fence_seqs = dict.fromkeys((unit.subject, *unit.fences), 0) | (fence_seqs or {})
        """The last sequence folded of each fenced subject, the unit's own first."""
        self.live: L | None = None
        """None while this instance is a standby: it folds and does nothing else."""
        self.pending: Batch | None = None
        self.refused_at: int | None = None
        """With a refused append: read at least this far before deciding anew."""
        self._rest: list[Batch] = []
        """What of the decision follows once the pending batch is stored; the first is fenced by it."""
        self.wake_at_ms: int | None = None
        self._make_id = make_id

    def lead(self, now_ms: int) -> None:
        """Become active: from here on, observe and decide."""
        self.live = self.unit.awaken(self.state, now_ms)

    def follow(self) -> None:
        """Become a standby. What was decided and not yet stored is void."""
        self.live = None
        self._settle()
        self._rest.clear()
        self.wake_at_ms = None

    def _settle(self) -> None:
        """Nothing is on its way to the log any more."""
        self.pending = None
        self.refused_at = None

    def deliver(self, events: list[Event], now_ms: int) -> None:
        """Fold events in the order of the log; those already folded are passed over."""
        for event in events:
            if event.seq <= self.position:
                continue
            if type(event.data) in self.unit.passes_over:
                event = msgspec.structs.replace(event, data=PASSED_OVER)
            changes = self.unit.fold(self.state, event)
            self.position = event.seq
            self.at_batch_end = event.batch_end
            if event.subject in self.fence_seqs:
                self.fence_seqs[event.subject] = event.seq
            if self.pending is not None and event.id == self.pending.message_id:
                self._settle()
                if self._rest:
                    self._rest[0] = msgspec.structs.replace(self._rest[0], expected_seq=event.seq)
            if self.live is not None and changes:
                self.unit.observe(self.state, self.live, Changed(event, changes), now_ms)
        self._void_if_read_past()

    def skip(self, seq: int, subject: str, *, batch_end: bool) -> None:
        """Pass over a stored message that is not an event of ours: parked, with an alarm by the caller."""
        self.position = seq
        self.at_batch_end = batch_end
        if subject in self.fence_seqs:
            self.fence_seqs[subject] = seq
        self._void_if_read_past()

    def observe(self, observation: object, now_ms: int) -> None:
        """Take in what is not in the log."""
        if self.live is not None:
            self.unit.observe(self.state, self.live, observation, now_ms)

    def append_taken(self, seq: int) -> Batch | None:
        """The bus stored the pending batch at *seq*; return what of the decision is to be stored next, fenced by it."""
        if not self._rest:
            return None
        self.pending = msgspec.structs.replace(self._rest.pop(0), expected_seq=seq)
        return self.pending

    def append_refused(self, actual_seq: int | None) -> None:
        """The bus refused the pending batch: void once the log is read as far as the bus had it."""
        self.refused_at = actual_seq if actual_seq is not None else self.position
        self._void_if_read_past()

    def _void_if_read_past(self) -> None:
        if self.pending is not None and self.refused_at is not None and self.position >= self.refused_at:
            self._settle()
            self._rest.clear()

    def step(self, now_ms: int) -> list[Effect | Batch]:
        """Decide, unless an append is unsettled, and return what to perform: batches to store, effects to send."""
        self.wake_at_ms = None  # while an append is unsettled, reading on is what wakes us
        if self.live is None or self.pending is not None or not self.at_batch_end:
            return []
        if self._rest:
            self.pending = self._rest.pop(0)
            return [self.pending]
        self.unit.observe(self.state, self.live, Tick(), now_ms)
        performed: list[Effect | Batch] = []
        for effect in self.unit.decide(self.state, self.live, now_ms):
            if isinstance(effect, WakeAt):
                self.wake_at_ms = effect.at_ms if self.wake_at_ms is None else min(self.wake_at_ms, effect.at_ms)
                continue
            if isinstance(effect, Append):
                if self.pending is not None:
                    continue  # one at a time; what is still due is decided again
                self.pending, *self._rest = self._batches(effect.data, now_ms)
                performed.append(self.pending)
            else:
                performed.append(effect)
            self.unit.observe(self.state, self.live, Performed(effect), now_ms)
        return performed

    def _batches(self, data: tuple[Data, ...], now_ms: int) -> list[Batch]:
        """Return how *data* is stored: one by one, or together."""
        ids, drafts = [], []
        for one in data[: limits.BATCH_MESSAGES_MAX]:
            ids.append(self._make_id())
            body = encode(Event(id=ids[-1], source=self.source, data=one, time_ms=now_ms))
            drafts.append(Draft(subject=self._subject_of(one), body=body))
        fence = drafts[0].subject if drafts[0].subject in self.fence_seqs else self.unit.subject
        apart = separable(data) and all(draft.subject == fence for draft in drafts)
        size = 1 if apart else len(drafts)
        others = [(subject, seq) for subject, seq in self.fence_seqs.items() if subject != fence]
        return [
            Batch(
                drafts=tuple(drafts[start : start + size]), message_id=ids[start], expected_subject=fence,
                expected_seq=self.fence_seqs[fence], also_expected=tuple(others[: size - 1]),
            )
            for start in range(0, len(drafts), size)
        ]

    def _subject_of(self, data: Data) -> str:
        subjects = REGISTRY[NAMES[type(data)]].subject.split()
        return self.unit.subject if self.unit.subject in subjects else subjects[0]


class Snapshot(msgspec.Struct, frozen=True):
    """A folded state and where in the log it stands. Taken only at batch ends."""

    unit: str
    version: int
    position: int
    fence_seqs: dict[str, int]
    state: bytes
