"""Who looks on during a run: who leads, whether questions are answered, and that the log only ever grows.

Each of them goes on through every fault, notes what it sees with its time, and takes no answer for an answer.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Iterator

import msgspec

from fleetlog.client import Client
from fleetlog.exits import CliError
from fleetlog.sse import Feed, Item, Trouble
from fleetlog_checker.faults import LEAD_KIND
from fleetlog_checker.system import System
from fleetlog_checker.writers import now_ms
from fleetlog_runtime.pure.bus import NoAnswer, NotFound
from fleetlog_runtime.shell.leadership import Holder
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus
from fleetlog_schemas import codec, subjects
from fleetlog_testing.homes import connected

LEADERS_LOOK_S = 0.05
LOG_LOOK_S = 0.7
ASK_LOOK_S = 0.2
FOLLOW_LOOK_S = 1.0
FOLLOW_AGAIN_S = 0.2


class Turn(msgspec.Struct, frozen=True):
    """Somebody began to lead."""

    at_ms: int
    instance: str
    part: str


class Leaders:
    """Who leads, as the bus has it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.turns: list[Turn] = []

    def led_by(self, service: str) -> str:
        """Return the part that leads a service, as far as known."""
        return self.turns[-1].part if service == LEAD_KIND and self.turns else ""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                async with connected(self._system.home, "operator") as bus:
                    await self._look(bus)
            except (ConnectFailed, OSError):
                await asyncio.sleep(LEADERS_LOOK_S)

    async def _look(self, bus: NatsBus) -> None:
        while not bus.closed.is_set():
            try:
                found = await bus.get_last(subjects.LEADERS, subjects.leader(LEAD_KIND))
                holder = msgspec.json.decode(found.body, type=Holder)
            except (NotFound, NoAnswer, msgspec.DecodeError):
                holder = Holder("")
            if holder.instance and (not self.turns or holder.instance != self.turns[-1].instance):
                pid = int(holder.instance.split("-")[-2])
                part = next((one.name for one in self._system.parts if one.pid() == pid), f"process {pid}")
                self.turns.append(Turn(now_ms(), holder.instance, part))
            await asyncio.sleep(LEADERS_LOOK_S)


class Asker(threading.Thread):
    """Asks one gateway after another the shortest question, and notes when an answer came."""

    def __init__(self, system: System) -> None:
        super().__init__(name="asker", daemon=True)
        self._system = system
        self._ending = threading.Event()
        self.answered_ms: list[int] = []

    def end(self) -> None:
        """Ask nothing more."""
        self._ending.set()

    def run(self) -> None:
        """Ask until told to end."""
        names = list(self._system.gateways)
        number = 0
        while not self._ending.wait(ASK_LOOK_S):
            number += 1
            gateway = self._system.gateways[names[number % len(names)]]()
            try:
                gateway.get("/tasks", limit=1)
                self.answered_ms.append(now_ms())
            except CliError:
                continue
            finally:
                gateway.close()


class LogReader(threading.Thread):
    """Reads the log as it grows, through any gateway, and keeps it: what it saw once must be there for ever."""

    def __init__(self, system: System, seed: int) -> None:
        super().__init__(name="log reader", daemon=True)
        self._system = system
        self._chance = random.Random(f"log reader {seed}")
        self._ending = threading.Event()
        self.stored: dict[int, codec.Event] = {}
        self.bytes: dict[int, bytes] = {}
        self.rewritten: list[str] = []

    def end(self) -> None:
        """Read nothing more."""
        self._ending.set()

    def run(self) -> None:
        """Read until told to end."""
        while not self._ending.wait(LOG_LOOK_S):
            try:
                self.read_on(self._chance.choice(list(self._system.gateways)))
            except CliError:
                continue

    def read_on(self, gateway: str) -> None:
        """Read what is new. Raises CliError."""
        self._read(gateway, max(self.bytes, default=0) + 1)

    def read_again(self, gateway: str) -> None:
        """Read everything, and note what is not as it was. Raises CliError."""
        seen = self._read(gateway, 1)
        self.rewritten += [f"{gateway}: event {seq} is gone" for seq in self.bytes if seq not in seen]

    def _read(self, name: str, from_seq: int) -> set[int]:
        gateway = self._system.gateways[name]()
        seen: set[int] = set()
        try:
            for record in Client.over(gateway).read_log(from_seq=from_seq):
                seen.add(record.seq)
                body = b" ".join((record.subject.encode(), record.stored_at.encode(), bytes(record.event)))
                if self.bytes.setdefault(record.seq, body) != body:
                    self.rewritten.append(f"{name}: event {record.seq} is not what it was")
                if record.seq not in self.stored:
                    self.stored[record.seq] = codec.decode(
                        bytes(record.event), seq=record.seq, subject=record.subject,
                        time_ms=codec.parse_rfc3339(record.stored_at),
                    )
        finally:
            gateway.close()
        return seen

    def events(self) -> Iterator[codec.Event]:
        """Yield what was read, in order."""
        for seq in sorted(self.stored):
            yield self.stored[seq]


class Follower(threading.Thread):
    """Follows the live feed, on another gateway whenever the one it follows falters, from where it was: nothing is missed."""

    def __init__(self, system: System, seed: int) -> None:
        super().__init__(name="follower", daemon=True)
        self._system = system
        self._chance = random.Random(f"follower {seed}")
        self._ending = threading.Event()
        self.last_seq = 0
        """The last event that it heard."""
        self.wrong: list[str] = []
        """Events that were passed over, or came again."""

    def end(self) -> None:
        """Follow no longer."""
        self._ending.set()

    def run(self) -> None:
        """Follow until told to end."""
        while not self._ending.wait(FOLLOW_AGAIN_S):
            name = self._chance.choice(list(self._system.gateways))
            feed = Feed(self._system.gateways[name](), "/events", str(self.last_seq))
            try:
                while not self._ending.is_set() and self._heard(name, feed.take(FOLLOW_LOOK_S)):
                    pass
            except CliError:
                continue
            finally:
                feed.close()

    def _heard(self, name: str, item: Item | Trouble | None) -> bool:
        """Take in what came; tell whether this feed goes on."""
        if not isinstance(item, Item):
            return item is None
        if item.event == "reset":
            self.wrong.append(f"{name}: the log is said not to go back to event {self.last_seq}: {item.data.decode()}")
            return False
        seq = int(item.id)
        if seq != self.last_seq + 1:
            self.wrong.append(f"{name}: event {seq} ({item.event}) came after event {self.last_seq}")
        self.last_seq = seq
        return True


def longest_gap(times_ms: list[int], began_ms: int, ended_ms: int) -> tuple[float, int]:
    """Return the longest time in seconds in which none of *times_ms* lies, and when it began."""
    places = sorted([began_ms, *(one for one in times_ms if began_ms <= one <= ended_ms), ended_ms])
    gap_ms, at_ms = max((after - before, before) for before, after in itertools.pairwise(places))
    return gap_ms / 1000, at_ms
