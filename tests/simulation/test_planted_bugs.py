"""Each way to build this wrongly is planted once, and an invariant must notice it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fleetlog_agent import core as agent_core
from fleetlog_agent.journal_records import Forgotten, Key
from fleetlog_agent.outbox import Outbox
from fleetlog_agent.session import Session
from fleetlog_dispatcher import observe as dispatcher_observe
from fleetlog_dispatcher import sessions as dispatcher_sessions
from fleetlog_runtime.pure.bus import Batch
from fleetlog_schemas import tokens
from fleetlog_simulation.hosts import SimHost
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.scenario import simulate
from fleetlog_simulation.services import SimDispatcher, decode

SEEDS_MAX = 400
"""Seeds tried before a planted bug counts as unnoticed."""
Plant = Callable[[pytest.MonkeyPatch], None]


def send_on_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    """Act on an append when the bus acknowledges it, not when it is read back."""
    original = SimDispatcher._settled

    def settled(self: SimDispatcher, batch: Batch, life: int, answer: int | Exception) -> None:
        engine = self.engine
        if isinstance(answer, int) and self.alive and life == self.life and engine.pending is batch:
            mine = self.world.store.read("EVENTS", answer - len(batch.drafts) + 1, len(batch.drafts))
            engine.deliver([decode(one) for one in mine], self.world.now_ms)
            self._step()
        original(self, batch, life, answer)

    patch.setattr(SimDispatcher, "_settled", settled)


def skip_the_journal(patch: pytest.MonkeyPatch) -> None:
    """Go on before the record is on disk, and never put it there."""

    def write(self: SimHost, commit: Any, life: int) -> None:
        if self._alive_in(life):
            self.core.journal_written()
            self._step()

    patch.setattr(SimHost, "_write", write)


def drop_the_spool_when_the_report_is_stored(patch: pytest.MonkeyPatch) -> None:
    """Forget an end when the bus has the report, before the log has it."""
    original = agent_core.Core.observe

    def observe(self: agent_core.Core, observation: Any, now_ms: int) -> None:
        if isinstance(observation, agent_core.m.ReportStored):
            sent = self.outbox._in_flight.get(observation.report_id)
            for key in sorted(sent.ends if sent else ()):
                self._put(Forgotten(key=key))
        original(self, observation, now_ms)

    patch.setattr(agent_core.Core, "observe", observe)


def ignore_the_ticket(patch: pytest.MonkeyPatch) -> None:
    """Let in whoever has the key."""
    patch.setattr(dispatcher_sessions.tokens, "matches", lambda expected, given: True)
    patch.setattr(tokens, "matches", lambda expected, given: True)


def ignore_the_journal_counter(patch: pytest.MonkeyPatch) -> None:
    """Let in a machine whose journal is older than what it reported."""
    original = dispatcher_sessions.wrong_ticket

    def wrong_ticket(*arguments: Any) -> str:
        return "" if (code := original(*arguments)) == "counter" else code

    patch.setattr(dispatcher_sessions, "wrong_ticket", wrong_ticket)


def ignore_the_position_a_push_was_decided_at(patch: pytest.MonkeyPatch) -> None:
    """Obey a push however old the decision behind it is."""

    def obeys(self: Session, push: Any, bus_ms: int) -> bool:
        if not self.is_open or push.epoch != self.epoch or bus_ms > push.expires_ms:
            return False
        self.newest_seq = max(self.newest_seq, push.seq)
        return True

    patch.setattr(Session, "obeys", obeys)


def forget_a_running_attempt(patch: pytest.MonkeyPatch) -> None:
    """Tell hosts to forget whatever they hold, and let them obey."""
    original = dispatcher_observe._compare_held

    def compare_held(settings: Any, state: Any, live: Any, host_id: str, presence: Any, now_ms: int) -> None:
        original(settings, state, live, host_id, presence, now_ms)
        for key in presence.held:
            live.forgets.setdefault(host_id, {})[key] = None

    def forget(self: agent_core.Core, key: Key) -> None:
        if key in self.state.entries:
            self.attempts.closed(key)
            self._put(Forgotten(key=key))

    patch.setattr(dispatcher_observe, "_compare_held", compare_held)
    patch.setattr(agent_core.Core, "_forget", forget)


def forget_the_token(patch: pytest.MonkeyPatch) -> None:
    """Report without the attempt's token."""
    original = Outbox.send

    def send(self: Outbox, items: Any, *rest: Any) -> Any:
        bare = [msgspec.structs.replace(one, token="") if hasattr(one, "token") else one for one in items]
        return original(self, bare, *rest)

    patch.setattr(Outbox, "send", send)


def snapshot_inside_a_batch(patch: pytest.MonkeyPatch) -> None:
    """Keep a state between two events that belong together."""

    def maybe_snapshot(self: SimDispatcher) -> None:
        self.snapshot = (msgspec.msgpack.encode(self.engine.state), self.engine.position, self.engine.fence_seq)

    patch.setattr(SimDispatcher, "_maybe_snapshot", maybe_snapshot)


PLANTS: list[Plant] = [
    send_on_acknowledgement, skip_the_journal,
    drop_the_spool_when_the_report_is_stored, ignore_the_ticket,
    ignore_the_journal_counter, ignore_the_position_a_push_was_decided_at, forget_a_running_attempt, forget_the_token,
    snapshot_inside_a_batch,
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(SEEDS_MAX):
        try:
            simulate(seed)
        except Violation:
            return
    pytest.fail(f"{SEEDS_MAX} seeds did not notice: {plant.__doc__}")
