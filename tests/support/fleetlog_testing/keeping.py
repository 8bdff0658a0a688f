"""Given a log, when time passes or something is asked, then what a keeper decides: a keeper without bus and disk.

`Stage` stores the keeper's own events at once, as an undisturbed bus would. Works are kept until the test says what
came of them, or are done at once on a disk and a stream in memory.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from fleetlog_keeper import works
from fleetlog_keeper.live import STATUS, TOLD, Live
from fleetlog_keeper.state import State
from fleetlog_keeper.unit import Keeper
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import Batch, Stored
from fleetlog_runtime.pure.effects import Answer, Done, Request, Work
from fleetlog_runtime.pure.engine import Engine
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_schemas import archive_events, codec, events, ids
from fleetlog_schemas.archive import ArchiveStatus
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Shell, TaskSpec

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
SETTINGS = KeeperSettings(segment_events=10, keep_days=30, look_ms=10_000)


class Stage:
    """One active keeper, its log, its disk."""

    def __init__(self, settings: KeeperSettings = SETTINGS, *, by_hand: bool = False) -> None:
        """Start with an empty log; *by_hand*: works wait for the test."""
        self.settings = settings
        self.by_hand = by_hand
        self.now_ms = NOW_MS
        self.log: list[Stored] = []
        self.gone: set[int] = set()
        """Sequences that were purged."""
        self.disk: dict[int, bytes] = {}
        self.did: list[Any] = []
        """Every work that was asked for."""
        self.answers: list[ArchiveStatus] = []
        self.bytes_max = 10**9
        self.snapshots: dict[str, int | None] = dict.fromkeys(("dispatcher", "scheduler", "reporter", "keeper"), 10**9)
        """From where services say that they would read; without an entry a service does not answer."""
        self._numbers = itertools.count(1)
        self.engine: Engine[State, Live] = self.take_over()

    def take_over(self) -> Engine[State, Live]:
        """Let a new keeper lead, which knows only the log and its disk."""
        self.engine = Engine(Keeper(self.settings), "/fleetlog/keeper/test", self.new_id)
        self.engine.deliver([self._decoded(stored) for stored in self.log], self.now_ms)
        self.engine.lead(self.now_ms)
        return self.engine

    @property
    def live(self) -> Live:
        """What it knows beside the log."""
        assert self.engine.live is not None
        return self.engine.live

    def new_id(self) -> str:
        """Return the next id."""
        return ids.new_id(self.now_ms, next(self._numbers).to_bytes(10, "big"))

    # --- given ---

    def happened(self, data: events.Data, subject: str = "") -> int:
        """Let an event stand in the log and the keeper read it; return its sequence. It decides in `settle`."""
        subject = subject or events.REGISTRY[events.NAMES[type(data)]].subject.split()[0]
        body = codec.encode(codec.Event(id=self.new_id(), source="/test", data=data, time_ms=self.now_ms, authid="ann"))
        return self._store(subject, body)

    def _store(self, subject: str, body: bytes) -> int:
        stored = Stored(len(self.log) + 1, subject, self.now_ms, body)
        self.log.append(stored)
        self.engine.deliver([self._decoded(stored)], self.now_ms)
        return stored.seq

    def _decoded(self, stored: Stored) -> codec.Event:
        return codec.decode(stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms)

    def submitted(self) -> str:
        """Let a task be asked for; return its id."""
        task_id = self.new_id()
        spec = TaskSpec(payload=Shell(argv=("true",)), target="all")
        self.happened(events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),)))
        return task_id

    def refused(self, task_id: str) -> None:
        """Let a task be over at once."""
        self.happened(events.TasksRefused(refusals=(events.Refusal(task_id, "code", "why"),)))

    def ended(self) -> None:
        """Let a whole task pass: four events on three subjects."""
        task_id = self.submitted()
        self.happened(events.TasksPlanned(plans=(events.Plan(task_id, (events.PlannedHost("h1", "web01"),), "hash"),)))
        self.happened(events.AttemptsDispatched(attempts=(events.Dispatch(task_id, "h1", 1, epoch=1),)))
        end = events.End(task_id, "h1", 1, outcome=Outcome.SUCCESS, ran="yes")  # type: ignore[arg-type]
        self.happened(events.AttemptsEnded(attempts=(end,)), events.RESULT)
        self.happened(events.TasksEnded(tasks=(events.TaskEnd(task_id, Outcome.SUCCESS, {Outcome.SUCCESS: 1}),)))

    # --- when ---

    def settle(self, wait_ms: int = 0) -> None:
        """Let time pass, and the keeper decide until nothing more comes of it."""
        self.now_ms += wait_ms
        for _ in range(1_000):
            effects = self.engine.step(self.now_ms)
            if not effects:
                return
            for effect in effects:
                self._perform(effect)
        raise AssertionError("the keeper never comes to rest")

    def _perform(self, effect: Any) -> None:
        match effect:
            case Batch(drafts=drafts):
                for draft in drafts:
                    self._store(draft.subject, draft.body)
            case Work(what=what):
                self.did.append(what)
                if not self.by_hand:
                    self.done(self._do(what))
            case Answer(body=body):
                self.answers.append(msgspec.json.decode(body, type=ArchiveStatus))

    def done(self, found: Any = None, error: str = "") -> None:
        """Say what came of the last work."""
        self.engine.observe(Done(self.did[-1], found, error), self.now_ms)

    def told(self, service: str, snapshot: int | None, instance: str = "a1") -> None:
        """Let a service say from where it would read."""
        body = msgspec.json.encode({"service": service, "instance": instance, "snapshot": snapshot})
        self.engine.observe(Request(TOLD, body, ""), self.now_ms)

    def _do(self, what: Any) -> Any:
        match what:
            case works.Look():
                for service, snapshot in self.snapshots.items():
                    self.told(service, snapshot)
                return works.Room(sum(len(one.body) for one in self.log if one.seq not in self.gone), self.bytes_max)
            case works.Make(first_seq=first_seq, through_seq=through_seq, chain_before=chain_before):
                wanted = self.log[first_seq - 1 : through_seq]
                count = segments.full_at(wanted, self.settings.segment_events, self.settings.segment_bytes)
                if count is None:
                    return None
                sealed, self.disk[first_seq] = segments.pack(wanted[:count], chain_before)
                return sealed
            case works.Purge(below=below):
                for subject, below_seq in below.items():
                    self.gone |= {one.seq for one in self.log if one.subject == subject and one.seq < below_seq}
            case _:
                pass
        return None

    def status(self) -> ArchiveStatus:
        """Ask what the keeper says of the archive."""
        self.engine.observe(Request(STATUS, b"", "_INBOX.test"), self.now_ms)
        self.settle()
        return self.answers[-1]

    # --- then ---

    @property
    def sealed(self) -> list[archive_events.SegmentSealed]:
        """The segments that stand in the log."""
        return self.engine.state.archive.sealed

    @property
    def pruned(self) -> list[archive_events.LogPruned]:
        """Every pruning that stands in the log."""
        return [e.data for e in map(self._decoded, self.log) if isinstance(e.data, archive_events.LogPruned)]
