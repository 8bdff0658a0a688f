"""The services in the simulated world: the real engine, dispatcher and recorder functions on the world's bus.

This is the simulation's interpreter of effects; a service can be killed between any two of them.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.sessions import Keys
from fleetlog_dispatcher.state import State
from fleetlog_dispatcher.unit import Dispatcher
from fleetlog_result_recorder.gather import gather
from fleetlog_result_recorder.verify import Refusals, verify
from fleetlog_runtime.pure.bus import AppendRefused, AppendUnsettled, Batch, BusFull, Draft, Stored
from fleetlog_runtime.pure.effects import Answer, Effect, Request, Send
from fleetlog_runtime.pure.engine import Engine
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import codec, events, subjects, wire
from fleetlog_schemas.codec import Event
from fleetlog_simulation.world import Subscription, World

RESEND_MS = 500
WAKE_LATE_MS = 1_000
"""A wake-up that is set for no later than this after it is due is left as it is: a look at the time comes every second."""
S = TypeVar("S")


class Lease:
    """Who may think that it leads: granted by the bus for a time."""

    def __init__(self, lease_ms: int) -> None:
        """Free; whoever takes it has it for *lease_ms*."""
        self._lease_ms = lease_ms
        self.holder = ""
        self.until_ms = 0

    def take(self, name: str, now_ms: int) -> bool:
        """Take it or renew it."""
        if self.holder != name and now_ms < self.until_ms:
            return False
        self.holder, self.until_ms = name, now_ms + self._lease_ms
        return True


class SimUnit(Generic[S]):
    """One process of a unit that decides, which may be dead, paused, a standby or active."""

    def __init__(self, world: World, name: str, lease: Lease, unit: Any, hears: tuple[str, ...] = ()) -> None:
        """Make it; `start` brings it to life. It *hears* core messages of these subjects."""
        self.world, self.name, self.lease = world, name, lease
        self.unit = unit
        self._hears = hears
        self.alive = False
        self.paused = False
        self.life = 0
        self.engine: Engine[S, Any] = self._new_engine(None)
        self.snapshot: tuple[bytes, int, dict[str, int]] | None = None
        """What is on its disk: state, position, fence."""
        self.fenced: list[Batch] = []
        """What it wanted to append and the bus refused, because the log had moved on."""
        self._subscriptions: list[Subscription] = []
        self._unsent: tuple[Batch, int] | None = None
        """An append that is due while the process is stopped: it goes out when it is continued."""
        self._reading = False
        self._woken_for = 0
        world.stored_listeners.append(self._poll_soon)

    def _new_engine(self, snapshot: tuple[bytes, int, dict[str, int]] | None) -> Engine[S, Any]:
        source = f"/fleetlog/{self.unit.name}/{self.name}"
        if snapshot is None:
            return Engine(self.unit, source, self.world.new_id)
        state = msgspec.msgpack.decode(snapshot[0], type=self.unit.state_type)
        return Engine(self.unit, source, self.world.new_id, state, snapshot[1], snapshot[2])

    def start(self) -> None:
        """Start, or restart after a kill, from the snapshot and the log's tail."""
        if self.alive:
            return
        self.alive, self.paused = True, False
        self.life += 1
        self._woken_for = 0
        self.engine = self._new_engine(self.snapshot)
        life = self.life
        for pattern in self._hears:
            self._subscriptions.append(self.world.subscribe(pattern, self._heard))
        self._poll_soon()
        self._lead_or_follow(life)

    def pause(self) -> None:
        """Stop it, as SIGSTOP does: it hears, reads and renews nothing."""
        self.paused = True

    def go_on(self) -> None:
        """Continue after a pause: with what it read and believed before."""
        self.paused = False
        self._reading = False
        self._woken_for = 0
        if self._unsent is not None:
            unsent, self._unsent = self._unsent, None
            self._append(*unsent)
        self._poll_soon()
        self._step()

    def kill(self) -> None:
        """Kill it: whatever was only in memory is gone."""
        self.alive = False
        for subscription in self._subscriptions:
            subscription.active = False
        self._subscriptions = []

    def _lead_or_follow(self, life: int) -> None:
        if not self.alive or life != self.life:
            return
        if not self.paused and not self.world.bus_down:
            leads = self.lease.take(self.name, self.world.now_ms)
            if leads and self.engine.live is None and self._caught_up():
                self.engine.lead(self.world.now_ms)
                self._step()
            elif not leads and self.engine.live is not None:
                self.engine.follow()
        self.world.after(self.world.pace.renew_ms, lambda: self._lead_or_follow(life))

    @property
    def settled(self) -> bool:
        """Whether it has read the whole log and waits for no answer."""
        return self._caught_up() and self.engine.pending is None

    def _caught_up(self) -> bool:
        return self.engine.position >= self.world.store.state("EVENTS").last_seq

    def _heard(self, subject: str, body: bytes, reply: str) -> None:
        if self.alive and not self.paused:
            self.engine.observe(Request(subject, body, reply), self.world.now_ms)
            self._step()

    def _poll_soon(self) -> None:
        if self.alive and not self._reading:
            self._reading = True
            self.world.after(self.world.random.randint(0, 20), self._poll)

    def _poll(self) -> None:
        self._reading = False
        if not self.alive or self.paused:
            return
        count = self.world.random.choice((1, 2, 7, 1000))
        stored = self.world.read(self.engine.position + 1, count)
        if stored:
            self.engine.deliver([decode(one) for one in stored], self.world.now_ms)
            self._maybe_snapshot()
            self._poll_soon()
        self._step()

    def _maybe_snapshot(self) -> None:
        if self.engine.at_batch_end and self.world.chance(0.1):
            state = msgspec.msgpack.encode(self.engine.state)
            self.snapshot = (state, self.engine.position, self.engine.fence_seqs)

    def _step(self) -> None:
        if not self.alive or self.paused:
            return
        for effect in self.engine.step(self.world.now_ms):
            if self.world.chance(self.world.faults.kill_at_effect):
                self.kill()
                self.world.after(self.world.random.randint(100, 20_000), self.start)
                return
            self._perform(effect)
        wake_at_ms = self._wake_at_ms()
        now_ms = self.world.now_ms
        if wake_at_ms is not None and not now_ms <= self._woken_for <= max(wake_at_ms, now_ms) + WAKE_LATE_MS:
            self._woken_for = wake_at_ms
            life = self.life
            self.world.after(wake_at_ms - now_ms, lambda: self._wake(life, wake_at_ms))

    def _wake_at_ms(self) -> int | None:
        """Return when time alone makes something due; with nothing under way that may be a while later."""
        wake_at_ms, live, idle_ms = self.engine.wake_at_ms, self.engine.live, self.world.pace.idle_ms
        if wake_at_ms is None or not idle_ms or not isinstance(live, Live):
            return wake_at_ms
        if live.flights or live.to_plan or live.opens or self.engine.pending:
            return wake_at_ms
        return max(wake_at_ms, self.world.now_ms + (idle_ms // 10 if live.open else idle_ms))

    def _wake(self, life: int, at_ms: int) -> None:
        if life == self.life and at_ms == self._woken_for:
            self._woken_for = 0
            self._step()

    def _perform(self, effect: Effect | Batch) -> None:
        match effect:
            case Batch():
                self._append(effect, self.life)
            case _:
                raise AssertionError(f"nobody performs {effect!r}")

    def _append(self, batch: Batch, life: int) -> None:
        if self.paused:
            self._unsent = (batch, life)
        elif self.alive and life == self.life and self.engine.pending is batch:
            self.world.append(batch, lambda answer: self._settled(batch, life, answer))

    def _settled(self, batch: Batch, life: int, answer: int | Exception) -> None:
        if isinstance(answer, AppendRefused) and answer.actual_seq is not None:
            self.fenced.append(batch)
        if not self.alive or life != self.life or self.engine.pending is not batch:
            return
        if isinstance(answer, AppendRefused):
            self.engine.append_refused(answer.actual_seq)
            self._poll_soon()
            self._step()
        elif isinstance(answer, AppendUnsettled | BusFull):
            self.world.after(RESEND_MS, lambda: self._append(batch, life))
        elif isinstance(answer, int) and (following := self.engine.append_taken(answer)) is not None:
            self._append(following, life)


class SimDispatcher(SimUnit[State]):
    """One dispatcher process."""

    def __init__(self, world: World, name: str, lease: Lease, keys: Keys, settings: DispatcherSettings) -> None:
        """Make it; `start` brings it to life."""
        super().__init__(
            world, name, lease, Dispatcher(settings, keys), (subjects.HEARTBEATS, subjects.SESSIONS, "ask.dispatcher.*")
        )
        self.keys = keys

    def _perform(self, effect: Effect | Batch) -> None:
        match effect:
            case Send(push=push):
                signed = self.keys.signer.sign(wire.encode(push))
                self.world.publish(subjects.push(push.host_id), wire.encode(signed))
            case Answer(reply=reply, body=body, sign=sign):
                self.world.publish(reply, wire.encode(self.keys.signer.sign(body)) if sign else body)
            case _:
                super()._perform(effect)


def decode(stored: Stored) -> Event:
    """Return a stored event as readers see it."""
    return codec.decode(
        stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms, batch_end=stored.batch_end
    )


class SimRecorder:
    """One recorder: takes reports, appends what verifies, then acknowledges."""

    def __init__(self, world: World, name: str, keys: Keys) -> None:
        """Make it alive."""
        self.world, self.name = world, name
        self._token_keys = {keys.token_key_id: keys.token}
        self._refusals = Refusals()
        self.alive = True
        self._busy = False
        self._due = False
        world.stored_listeners.append(self._take_soon)
        world.after(1_000, self._minute)

    def kill(self) -> None:
        """Kill it; it comes back by itself."""
        self.alive = False
        self._refusals = Refusals()
        self.world.after(self.world.random.randint(100, 10_000), self._revive)

    def _revive(self) -> None:
        self.alive, self._busy = True, False
        self._take_soon()

    def _minute(self) -> None:
        self._take_soon()
        self.world.after(self.world.pace.recorder_ms, self._minute)

    def _take_soon(self) -> None:
        if not self._due:
            self._due = True
            self.world.after(self.world.random.randint(1, 40), self._take)

    def _take(self) -> None:
        self._due = False
        if not self.alive or self._busy or self.world.bus_down:
            return
        taken = self.world.store.read("REPORTS", 1, self.world.random.choice((1, 3, 50)))
        verdicts = [verify(subjects.host_of(one.subject), one.body, self._token_keys) for one in taken]
        for verdict in verdicts:
            self._refusals.add(verdict, self.world.now_ms)
        data = [*gather(verdicts), *self._refusals.due(self.world.now_ms)]
        if data:
            self._append(self._batch(data), taken)
        elif taken:
            self._ack(taken)

    def _batch(self, data: list[events.Data]) -> Batch:
        drafts, first = [], ""
        for one in data:
            event_id = self.world.new_id()
            first = first or event_id
            event = Event(id=event_id, source=f"/fleetlog/result-recorder/{self.name}", data=one, time_ms=self.world.now_ms)
            drafts.append(Draft(subject=events.RESULT, body=codec.encode(event)))
        return Batch(drafts=tuple(drafts), message_id=first)

    def _append(self, batch: Batch, taken: list[Stored]) -> None:
        self._busy = True

        def settled(answer: int | Exception) -> None:
            if not self.alive:
                self._busy = False
                return
            if isinstance(answer, AppendUnsettled | BusFull):
                self.world.after(RESEND_MS, lambda: self._append(batch, taken) if self.alive else None)
                return
            # Refused without an expected sequence can only mean: it is stored already.
            if self.world.chance(self.world.faults.kill_at_effect * 10):
                self.kill()
                return
            self._ack(taken)
            self._busy = False
            if self.world.store.streams["REPORTS"].messages:
                self._take_soon()

        self.world.append(batch, settled)

    def _ack(self, taken: list[Stored]) -> None:
        for one in taken:
            self.world.store.streams["REPORTS"].remove(one.seq)
