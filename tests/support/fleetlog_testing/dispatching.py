"""Given a log, when something is observed, then what is decided: a dispatcher without a bus.

`Stage` appends the dispatcher's own events to its log at once, as an undisturbed bus would, and keeps what was sent.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.sessions import Keys
from fleetlog_dispatcher.state import State
from fleetlog_dispatcher.unit import Dispatcher
from fleetlog_runtime.pure.bus import Batch
from fleetlog_runtime.pure.effects import Answer, Request, Send
from fleetlog_runtime.pure.engine import Engine
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_runtime.pure.signing import Signer
from fleetlog_schemas import codec, events, host_events, ids, pushes, reports, subjects, tokens, wire
from fleetlog_schemas.codec import Event
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Shell, TaskSpec

KEYS = Keys(ticket=b"t" * 32, token=b"k" * 32, blob=b"b" * 32, signer=Signer(b"s" * 32))
NOW_MS = 1_800_000_000_000
LOAD = reports.Load(cpu_ratio=0.1, memory_ratio=0.1, disk_ratio=0.1, load_1m=0.1)
_T = TypeVar("_T")


def shell(*argv: str, target: str = "all", **fields: Any) -> TaskSpec:
    """Return a task that runs *argv*."""
    return TaskSpec(payload=Shell(argv=argv or ("true",)), target=target, **fields)


class Stage:
    """One active dispatcher and its log."""

    def __init__(self, settings: DispatcherSettings | None = None, *, leading: bool = True) -> None:
        """Start with an empty log."""
        self.settings = settings or DispatcherSettings()
        self.now_ms = NOW_MS
        self.seq = 0
        self.log: list[Event] = []
        self.sent: list[pushes.Push] = []
        self.answers: list[tuple[str, Any]] = []
        self._ids = 0
        self.engine: Engine[State, Live] = Engine(
            Dispatcher(self.settings, KEYS), "/fleetlog/dispatcher/test", self.new_id
        )
        if leading:
            self.engine.lead(self.now_ms)

    def new_id(self, at_ms: int | None = None) -> str:
        """Return the next UUIDv7; its random bits are a counter."""
        self._ids += 1
        return ids.new_id(self.now_ms if at_ms is None else at_ms, self._ids.to_bytes(10, "big"))

    @property
    def state(self) -> State:
        """What the dispatcher folded."""
        return self.engine.state

    # --- given ---

    def happened(self, data: events.Data, subject: str = "", by: str = "ann") -> Event:
        """Let an event stand in the log, and the dispatcher read it and act."""
        subject = subject or events.REGISTRY[events.NAMES[type(data)]].subject.split()[0]
        event = self._stored(self.new_id(), data, subject, by)
        self.settle()
        return event

    def _stored(self, event_id: str, data: events.Data, subject: str, by: str | None) -> Event:
        self.seq += 1
        event = Event(
            id=event_id, source="/test", data=data, time_ms=self.now_ms, seq=self.seq, subject=subject, authid=by
        )
        # Through the codec, so that every test also proves the stored form.
        event = codec.decode(codec.encode(event), seq=self.seq, subject=subject, time_ms=self.now_ms)
        self.log.append(event)
        self.engine.deliver([event], self.now_ms)
        return event

    def enrolled(self, *names: str, **labels: str) -> None:
        """Let hosts be known; a host's id is `h-` and its name."""
        for name in names:
            self.happened(
                host_events.HostEnrolled(host_id=f"h-{name}", name=name, labels=labels, public_key=f"key of {name}")
            )

    def connected(self, *names: str, **labels: str) -> None:
        """Let hosts be enrolled, with a session, online, and known to have one processor."""
        self.enrolled(*names, **labels)
        for name in names:
            self.opens(name)
            self.happened(host_events.FactsChanged(host_id=f"h-{name}", facts={"cpu.count": 1}), events.RESULT)
            self.beats(name)

    def submitted(self, spec: TaskSpec, by: str = "ann") -> str:
        """Let a task be asked for; return its id."""
        task_id = self.new_id()
        self.happened(events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),)), by=by)
        return task_id

    def ended(
        self, task_id: str, name: str, attempt: int = 1, outcome: Outcome = Outcome.SUCCESS, ran: Ran = Ran.YES,
        **fields: Any,
    ) -> Event:
        """Let a recorder have appended the end that a host reported."""
        end = events.End(task_id=task_id, host_id=f"h-{name}", attempt=attempt, outcome=outcome, ran=ran, **fields)
        return self.happened(events.AttemptsEnded(attempts=(end,), counters=self._counted(name)), events.RESULT)

    def started(self, task_id: str, name: str, attempt: int = 1) -> Event:
        """Let a recorder have appended the start that a host reported."""
        start = events.Start(task_id=task_id, host_id=f"h-{name}", attempt=attempt, started_ms=self.now_ms)
        return self.happened(events.AttemptsStarted(attempts=(start,), counters=self._counted(name)), events.RESULT)

    def _counted(self, name: str) -> dict[str, int]:
        """A report's journal counter: the host wrote its journal since the last one."""
        host = self.state.hosts.by_id[f"h-{name}"]
        return {host.host_id: host.counter + 1}

    # --- when ---

    def later(self, ms: int) -> None:
        """Let time pass, a second at a time, as the shell would wake the dispatcher."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            self.now_ms = min(end_ms, self.now_ms + 1_000)
            self.settle()

    def passes(self, ms: int) -> None:
        """Let time pass in which every host that is online says every 10 s what it holds."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            self.later(min(10_000, end_ms - self.now_ms))
            assert self.engine.live is not None
            for host in [host for host in self.state.hosts.by_id.values() if host.online]:
                flights = self.engine.live.flights.get(host.host_id, {})
                self.beats(host.name, *(reports.Held(*key, reports.HeldState.RUNNING) for key in flights))

    def hears(self, subject: str, message: msgspec.Struct, reply: str = "") -> None:
        """Let a core message arrive."""
        self.engine.observe(Request(subject, wire.encode(message), reply), self.now_ms)
        self.settle()

    def ticket(self, name: str) -> str:
        """Return the ticket of a host's current session."""
        host = self.state.hosts.by_id[f"h-{name}"]
        return tokens.ticket(KEYS.ticket, host.host_id, host.epoch, host.session_seq) if host.epoch else ""

    def opens(
        self, name: str, *held: reports.Held, ticket: str | None = None, counter: int | None = None, nonce: str = "",
        asked_ms: int = 0, version: str = "1",
    ) -> str:
        """Let a host ask for a session; return the reply subject."""
        nonce = nonce or self.new_id()
        known = self.state.hosts.by_id.get(f"h-{name}")
        request = reports.OpenSession(
            nonce=nonce, ticket=self.ticket(name) if ticket is None else ticket, boot_id="boot", version=version,
            counter=counter if counter is not None else known.counter if known else 0, held=held, asked_ms=asked_ms,
        )
        reply = f"_INBOX_{name}.{nonce}"
        self.hears(subjects.session(f"h-{name}"), request, reply)
        return reply

    def beats(self, name: str, *held: reports.Held, **fields: Any) -> None:
        """Let a host send a heartbeat."""
        host = self.state.hosts.by_id[f"h-{name}"]
        usual: dict[str, Any] = {
            "epoch": host.epoch, "boot_id": "boot", "counter": host.counter, "newest_seq": 0, "load": LOAD, "held": held,
        }
        self.hears(subjects.heartbeat(f"h-{name}"), reports.Heartbeat(**{**usual, **fields}))

    def settle(self) -> None:
        """Let the dispatcher act until nothing more is due now."""
        for _ in range(50):
            performed = self.engine.step(self.now_ms)
            for effect in performed:
                self._perform(effect)
            if not any(isinstance(effect, Batch) for effect in performed):
                return
        raise AssertionError("the dispatcher decides for ever")

    def _perform(self, effect: object) -> None:
        if isinstance(effect, Batch):
            for draft in effect.drafts:
                event = codec.decode(draft.body)
                self._stored(event.id, event.data, draft.subject, event.authid)
        elif isinstance(effect, Send):
            self.sent.append(effect.push)
        elif isinstance(effect, Answer):
            kind: Any = pushes.SessionAnswer if effect.sign else None
            body = wire.decode(effect.body, kind) if kind else msgspec.json.decode(effect.body)
            self.answers.append((effect.reply, body))

    # --- then ---

    def decided(self, kind: type[_T]) -> list[_T]:
        """Return the data of the log's events of one kind."""
        return [event.data for event in self.log if isinstance(event.data, kind)]

    def pushed(self, kind: type[_T], name: str = "") -> list[tuple[str, int]]:
        """Return what was sent, by kind of push and host: task ids and attempt numbers."""
        return [
            (one.task_id, one.attempt)
            for push in self.sent
            if isinstance(push, kind) and (not name or push.host_id == f"h-{name}")
            for one in push.attempts
        ]

    def dispatched(self, name: str = "") -> list[str]:
        """Return the tasks of the attempts that took effect in the log, in its order; of one host, or of all."""
        return [
            one.task_id
            for data in self.decided(events.AttemptsDispatched)
            for one in data.attempts
            if not name or one.host_id == f"h-{name}"
        ]

    def dispatched_hosts(self, task_id: str) -> list[str]:
        """Return the names of the hosts to which attempts of a task were dispatched, in the log's order."""
        return [
            one.host_id.removeprefix("h-")
            for data in self.decided(events.AttemptsDispatched)
            for one in data.attempts
            if one.task_id == task_id
        ]

    def outcomes(self, task_id: str) -> dict[str, str]:
        """Return the last end of each host of a task, as the log's events have it."""
        found: dict[str, str] = {}
        for data in self.decided(events.AttemptsEnded):
            for end in data.attempts:
                if end.task_id == task_id:
                    found[end.host_id.removeprefix("h-")] = end.outcome.value
        return found
