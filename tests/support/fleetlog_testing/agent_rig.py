"""Drive an agent's core in virtual time: a disk, a holder and a dispatcher that can be told to misbehave.

Each part is naive on purpose: it keeps its own books of what really ran, so that a test compares the core with
the world and not with itself.
"""

from __future__ import annotations

import random
from typing import TypeVar

from fleetlog_agent import messages as m
from fleetlog_agent.core import Core
from fleetlog_agent.journal_records import Commit, Key, replay
from fleetlog_runtime.pure.settings import AgentSettings
from fleetlog_runtime.pure.signing import Signer
from fleetlog_schemas import pushes, wire
from fleetlog_schemas.reports import ReportEnded, ReportItem
from fleetlog_schemas.spec import Options, Shell

_T = TypeVar("_T")
HOST = "h1"
SERVER_MS = 1_700_000_000_000
TASK = "01890000-0000-7000-8000-000000000001"


def start_of(task_id: str = TASK, attempt: int = 1, timeout_ms: int = 60_000, **options: object) -> pushes.StartAttempt:
    """Return something to run."""
    return pushes.StartAttempt(
        task_id=task_id, attempt=attempt, payload=Shell(argv=("true",)), options=Options(**options),  # type: ignore[arg-type]
        timeout_ms=timeout_ms, token=f"token-{task_id[-4:]}-{attempt}", token_key_id="k1",
    )


class Rig:
    """One host: its core, its disk, its processes; and whoever signs for the dispatcher."""

    def __init__(self, seed: int = 0, **core_arguments: object) -> None:
        self.now_ms = 1_000_000
        self.random = random.Random(seed)
        self.signer = Signer(bytes(range(32)))
        self.core_arguments = core_arguments
        self.disk: list[Commit] = []
        self.executed: dict[Key, int] = {}
        """How often each attempt really was started."""
        self.processes: dict[Key, str] = {}
        """`running`, `exited` or `lost`, by the holder's books."""
        self.epoch = 0
        self.seq = 10
        self.effects: list[m.Effect] = []
        self.unwritten: Commit | None = None
        self.auto = True
        """Disk, holder and dispatcher answer at once."""
        self.boot = "boot-1"
        self.core = self._new_core()

    def _new_core(self) -> Core:
        arguments: dict[str, object] = {"settings": AgentSettings(), **self.core_arguments}
        return Core(
            HOST, self.boot, "0.1.0", self.random.randbytes, {self.signer.key_id: self.signer.public_key},
            state=replay(self.disk), **arguments,  # type: ignore[arg-type]
        )

    # --- the world ---------------------------------------------------------------------------------------

    def step(self) -> list[m.Effect]:
        """Step until nothing more happens by itself; return the effects of all steps."""
        seen: list[m.Effect] = []
        for _ in range(1000):
            effects = self.core.step(self.now_ms)
            seen += effects
            acted = [self.perform(effect) for effect in effects]
            if not any(acted):
                self.effects += seen
                return seen
        raise AssertionError("the core never comes to rest")

    def perform(self, effect: m.Effect) -> bool:
        """Perform one effect; tell whether the core heard something of it."""
        match effect:
            case m.WriteJournal(commit=commit):
                self.unwritten = commit
                return self.auto and self.write()
            case m.Spawn(key=key):
                return self.spawn(key)
            case m.Adopt(key=key):
                return self.adopt(key)
            case m.AskSession(request=request) if self.auto:
                self.grant(request.nonce)
                return True
            case m.SendReport(report=report) if self.auto:
                self.core.observe(m.ReportStored(report.report_id), self.now_ms)
                return True
            case _:
                return False

    def write(self) -> bool:
        """Bring what is on its way to disk there."""
        if self.unwritten is not None:
            self.disk.append(self.unwritten)
            self.unwritten = None
            self.core.journal_written()
            return True
        return False

    def spawn(self, key: Key) -> bool:
        """The holder starts a process, unless it has done so before."""
        if key not in self.processes:
            self.executed[key] = self.executed.get(key, 0) + 1
            self.processes[key] = "running"
        self.core.observe(m.Spawned(key, pid=100, process_start=1), self.now_ms)
        return True

    def adopt(self, key: Key) -> bool:
        """The holder says what became of an attempt."""
        state = self.processes.get(key)
        match state:
            case None:
                self.core.observe(m.NeverSpawned(key), self.now_ms)
            case "running":
                self.core.observe(m.Spawned(key, pid=100, process_start=1), self.now_ms)
            case "exited":
                self.core.observe(m.Exited(key, exit_code=0, duration_ms=5), self.now_ms)
            case _:
                self.core.observe(m.LostProcess(key), self.now_ms)
        return True

    def exit(self, key: Key, exit_code: int | None = 0, signal: int | None = None) -> None:
        """A process ends."""
        self.processes[key] = "exited"
        self.core.observe(m.Exited(key, exit_code=exit_code, signal=signal, duration_ms=5), self.now_ms)

    def crash(self, *, written: bool = True) -> None:
        """The agent is killed and starts again; its last write reached the disk or did not."""
        if written and self.unwritten is not None:
            self.disk.append(self.unwritten)
        self.unwritten = None
        self.core = self._new_core()

    def advance(self, ms: int) -> list[m.Effect]:
        """Let time pass, stepping whenever the core asks for it; return the effects."""
        until_ms, seen = self.now_ms + ms, []
        while True:
            effects = self.step()
            seen += effects
            wakes = [effect.at_ms for effect in effects if isinstance(effect, m.WakeAt)]
            if not wakes or wakes[-1] > until_ms:
                break
            self.now_ms = wakes[-1]
        self.now_ms = until_ms
        return seen + self.step()

    # --- the dispatcher ------------------------------------------------------------------------------------

    def connect(self) -> list[m.Effect]:
        """Connect and get a session."""
        self.core.observe(m.Connected(connected=True), self.now_ms)
        return self.step()

    def sign(self, message: object, signer: Signer | None = None) -> bytes:
        """Return a message as it arrives."""
        return wire.encode((signer or self.signer).sign(wire.encode(message)))  # type: ignore[arg-type]

    def grant(self, nonce: str) -> None:
        """Let the agent in."""
        self.epoch += 1
        self.seq += 1
        granted = pushes.SessionGranted(
            host_id=HOST, nonce=nonce, epoch=self.epoch, ticket=f"ticket-{self.epoch}", seq=self.seq,
            server_ms=SERVER_MS + self.now_ms, signing_keys={self.signer.key_id: self.signer.public_key},
        )
        self.core.observe(m.SessionAnswered(self.sign(granted)), self.now_ms)

    def push(self, kind: type, attempts: list[object], **changes: object) -> bytes:
        """Return a push as the dispatcher would send it now."""
        self.seq += 1
        fields: dict[str, object] = {
            "host_id": HOST, "epoch": self.epoch, "expires_ms": SERVER_MS + self.now_ms + 30_000, "seq": self.seq,
            "attempts": tuple(attempts), **changes,
        }
        return self.sign(kind(**fields))

    def start(self, *starts: pushes.StartAttempt, **changes: object) -> list[m.Effect]:
        """Push starts, and step."""
        self.core.observe(m.Push(self.push(pushes.StartPush, list(starts), **changes)), self.now_ms)
        return self.step()

    def cancel(self, task_id: str = TASK, attempt: int = 1, reason: str = "cancelled") -> list[m.Effect]:
        """Push a cancel, and step."""
        named = pushes.NamedAttempt(task_id=task_id, attempt=attempt, token="t", token_key_id="k1", reason=reason)
        self.core.observe(m.Push(self.push(pushes.CancelPush, [named])), self.now_ms)
        return self.step()

    def forget(self, task_id: str = TASK, attempt: int = 1) -> list[m.Effect]:
        """Push a forget, and step."""
        named = pushes.NamedAttempt(task_id=task_id, attempt=attempt)
        self.core.observe(m.Push(self.push(pushes.ForgetPush, [named])), self.now_ms)
        return self.step()


def of(effects: list[m.Effect], kind: type[_T]) -> list[_T]:
    """Return the effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def reported(effects: list[m.Effect]) -> list[ReportItem]:
    """Return the items of every report sent."""
    return [item for effect in effects if isinstance(effect, m.SendReport) for item in effect.report.items]


def ends(effects: list[m.Effect]) -> list[ReportEnded]:
    """Return the ends reported."""
    return [item for item in reported(effects) if isinstance(item, ReportEnded)]
