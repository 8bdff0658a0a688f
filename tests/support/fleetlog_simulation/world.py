"""Virtual time, one random source, and the bus between the parts.

Everything that happens is an action at a time in one queue; everything that is random comes from one generator. So a
seed gives the same history, every time, and a failure is repeated by its seed.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from fleetlog_runtime.pure.bus import AppendRefused, AppendUnsettled, Batch, BusFull, Stored
from fleetlog_runtime.pure.segments import unpack
from fleetlog_runtime.shell.archived_bus import without_hole
from fleetlog_runtime.shell.memory import MemoryStore, subject_matches
from fleetlog_schemas import ids

START_MS = 1_800_000_000_000
CLOCK_ZONE = "Europe/Berlin"
CLOCKS_FORWARD_MS, CLOCKS_BACK_MS = 1_806_195_600_000, 1_824_944_400_000
"""When its clocks are put forward, from 2 to 3 o'clock, and back, in 2027."""
BEFORE_CHANGE_MS = 100_000
"""A history that meets such a night begins so long before."""


def start_ms(seed: int) -> int:
    """Return when the history of a seed begins: at any time, or a little before clocks are moved."""
    return (START_MS, CLOCKS_FORWARD_MS - BEFORE_CHANGE_MS, CLOCKS_BACK_MS - BEFORE_CHANGE_MS)[seed % 3]
Handler = Callable[[str, bytes, str], None]
Settled = Callable[[int | Exception], None]
unpacked = lru_cache(64)(unpack)
"""A segment, whose file many read and nobody changes."""


@dataclass(frozen=True)
class Faults:
    """How bad the world is: probabilities per message or per step, and bounds of delays."""

    drop: float = 0.05
    duplicate: float = 0.05
    delay_ms_max: int = 40
    long_delay: float = 0.02
    long_delay_ms_max: int = 8_000
    lost_append: float = 0.04
    lost_ack: float = 0.06
    kill_at_effect: float = 0.004

    @staticmethod
    def none() -> Faults:
        """A world without faults."""
        return Faults(
            drop=0, duplicate=0, delay_ms_max=4, long_delay=0, long_delay_ms_max=0, lost_append=0, lost_ack=0,
            kill_at_effect=0,
        )


@dataclass(frozen=True)
class Pace:
    """How often the parts look at the time: what a second is to minutes, minutes are to a year."""

    lease_ms: int = 5_000
    renew_ms: int = 1_000
    recorder_ms: int = 20_000
    idle_ms: int = 0
    """Parts with nothing to do look at the time no sooner than this; 0: whenever they want to."""


@dataclass
class Subscription:
    """One listener; a cancelled one hears nothing more, also of what is on its way."""

    pattern: str
    handler: Handler
    queue: str = ""
    account: str = "core"
    active: bool = True


@dataclass
class Execution:
    """A process that the simulated machines really started: the judge of what ran."""

    host_id: str
    machine: str
    task_id: str
    attempt: int
    started_ms: int
    ended_ms: int | None = None


@dataclass
class World:
    """Time, chance, bus and books."""

    seed: int
    faults: Faults
    now_ms: int = START_MS
    executions: list[Execution] = field(default_factory=list)
    checks: list[Callable[[], None]] = field(default_factory=list)
    bus_down: bool = False
    pace: Pace = Pace()

    def __post_init__(self) -> None:
        """Begin at the seed."""
        self.random = random.Random(self.seed)
        self.store = MemoryStore(lambda: self.now_ms)
        self.stored_listeners: list[Callable[[], None]] = []
        self.segments: dict[int, bytes] = {}
        """The archive's folder, which keepers and readers share: first sequence to file."""
        self.purges = 0
        self._history: list[Stored] = []
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._subscriptions: list[Subscription] = []
        self.steps = 0

    # --- time ---

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Let *action* happen later."""
        self._order += 1
        heapq.heappush(self._queue, (self.now_ms + max(0, delay_ms), self._order, action))

    def run(self, until_ms: int, reached: Callable[[], object] = lambda: False) -> bool:
        """Let time pass, at most until it is *reached*, and tell whether it was; after every action, every check looks."""
        while self._queue and self._queue[0][0] <= until_ms:
            at_ms, _, action = heapq.heappop(self._queue)
            self.now_ms = max(self.now_ms, at_ms)
            action()
            self.steps += 1
            for check in self.checks:
                check()
            if reached():
                return True
        self.now_ms = until_ms
        return False

    # --- chance ---

    def chance(self, probability: float) -> bool:
        """Return true that often."""
        return probability > 0 and self.random.random() < probability

    def entropy(self, size: int) -> bytes:
        """Return random bytes of this world."""
        return self.random.randbytes(size)

    def new_id(self) -> str:
        """Return a fresh UUIDv7 of this world's time."""
        return ids.new_id(self.now_ms, self.entropy(10))

    def _delay_ms(self) -> int:
        if self.chance(self.faults.long_delay):
            return self.random.randint(0, self.faults.long_delay_ms_max)
        return self.random.randint(0, self.faults.delay_ms_max)

    # --- core messages ---

    def subscribe(self, pattern: str, handler: Handler, queue: str = "") -> Subscription:
        """Hear messages; subscribers of one queue share them."""
        subscription = Subscription(pattern, handler, queue)
        self._subscriptions.append(subscription)
        return subscription

    def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a message that may be lost, repeated or late."""
        if self.bus_down or self.chance(self.faults.drop):
            return
        copies = 2 if self.chance(self.faults.duplicate) else 1
        self._subscriptions = [one for one in self._subscriptions if one.active]
        queues: dict[str, list[Subscription]] = {}
        for one in self._subscriptions:
            if subject_matches(one.pattern, subject):
                queues.setdefault(one.queue or f"#{id(one)}", []).append(one)
        for group in queues.values():
            chosen = group[0] if len(group) == 1 else self.random.choice(group)
            for _ in range(copies):
                self.after(self._delay_ms(), _Delivery(chosen, subject, body, reply))

    # --- stored messages ---

    def append(self, batch: Batch, settled: Settled) -> None:
        """Store a batch; *settled* gets its sequence or the bus's refusal, or hears of no answer."""
        if self.bus_down or self.chance(self.faults.lost_append):
            self.after(2_000, lambda: settled(AppendUnsettled("no answer")))
            return
        self.after(self._delay_ms(), lambda: self._store(batch, settled))

    def _store(self, batch: Batch, settled: Settled) -> None:
        answer: int | Exception
        if self.bus_down:
            answer = AppendUnsettled("no answer")
        else:
            try:
                answer = self.store.append(batch)
                self.notify()
            except (AppendRefused, BusFull) as error:
                answer = error
        if self.chance(self.faults.lost_ack):
            answer = AppendUnsettled("the answer was lost")
        delay_ms = 2_000 if isinstance(answer, AppendUnsettled) else self._delay_ms()
        self.after(delay_ms, lambda: settled(answer))

    def notify(self) -> None:
        """Tell the readers that there is something new."""
        for listener in self.stored_listeners:
            listener()

    def read(self, from_seq: int, count: int) -> list[Stored]:
        """Return stored events in chunks as a reader may get them, cut anywhere, also inside a batch."""
        if self.bus_down:
            return []
        found = without_hole(self.store.read("EVENTS", from_seq, count), from_seq)
        if found or from_seq > self.store.state("EVENTS").last_seq:
            return found
        first_seq = max((one for one in self.segments if one <= from_seq), default=0)
        if not first_seq:
            raise AssertionError(f"sequence {from_seq} is missing from the bus, and nobody has archived it")
        messages = unpacked(self.segments[first_seq]).messages
        return [stored for stored in messages if stored.seq >= from_seq][:count]

    def purge(self, subject: str, below_seq: int) -> None:
        """Remove the messages of a subject below a sequence, as the keeper asks the bus to."""
        self.history()
        self.purges += 1
        self.store.purge("EVENTS", subject, below_seq)

    @property
    def stored(self) -> int:
        """How many events were ever stored."""
        return self.store.streams["EVENTS"].last_seq

    def history(self) -> list[Stored]:
        """Return every event that was ever stored, pruned or not: the simulation's own copy, which nobody reads but it."""
        stream = self.store.streams["EVENTS"]
        while len(self._history) < stream.last_seq:
            self._history.append(stream.messages[len(self._history) + 1])
        return self._history

    def digest(self) -> str:
        """Return a hash over everything that was stored and everything that ran."""
        hashed = hashlib.sha256()
        for stored in self.history():
            hashed.update(f"{stored.seq} {stored.subject} {stored.time_ms} ".encode() + stored.body)
        for run in self.executions:
            hashed.update(f"{run.machine} {run.task_id} {run.attempt} {run.started_ms}".encode())
        return hashed.hexdigest()[:16]


class _Delivery:
    """One message on its way to one subscriber."""

    def __init__(self, to: Subscription, subject: str, body: bytes, reply: str) -> None:
        self._to, self._subject, self._body, self._reply = to, subject, body, reply

    def __call__(self) -> None:
        if self._to.active:
            self._to.handler(self._subject, self._body, self._reply)
