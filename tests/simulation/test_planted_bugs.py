"""Each way to build this wrongly is planted once, and an invariant must notice it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from fleetlog_agent import core as agent_core
from fleetlog_agent.attempts import Attempts
from fleetlog_agent.journal_records import Forgotten, Key
from fleetlog_agent.outbox import Outbox
from fleetlog_agent.session import Session
from fleetlog_dispatcher import ends, gates, plan
from fleetlog_dispatcher import live as living
from fleetlog_dispatcher import observe as dispatcher_observe
from fleetlog_dispatcher import sessions as dispatcher_sessions
from fleetlog_dispatcher.admit import Round
from fleetlog_dispatcher.queues import Shares
from fleetlog_keeper import prune, works
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import Batch
from fleetlog_schemas import archive_events, commands, events, lifecycle, rollout, tokens
from fleetlog_schemas.records import Task, Tasks, Wave
from fleetlog_simulation import directed, histories
from fleetlog_simulation import world as world_module
from fleetlog_simulation.directed import History
from fleetlog_simulation.hosts import SimHost
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.keeper import SimKeeper
from fleetlog_simulation.scenario import simulate
from fleetlog_simulation.services import SimDispatcher, decode
from fleetlog_simulation.world import World

SEEDS_MAX = 400
"""Seeds tried before a planted bug counts as unnoticed."""
Bug = Callable[[pytest.MonkeyPatch], None]


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


def start_the_next_attempt_before_the_last_is_settled(patch: pytest.MonkeyPatch) -> None:
    """Let an agent run attempt 2 while attempt 1 runs."""
    original = Attempts._start

    def start(self: Attempts, key: Key, *rest: Any, **named: Any) -> None:
        numbers = self._state.attempts[key.task_id]
        self._state.attempts[key.task_id] = [number for number in numbers if number >= key.attempt]
        original(self, key, *rest, **named)
        self._state.attempts[key.task_id] = numbers

    patch.setattr(Attempts, "_start", start)


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


def ignore_the_expected_sequence(patch: pytest.MonkeyPatch) -> None:
    """Append without the fence, so that two dispatchers can both decide."""
    original = World.append

    def append(self: World, batch: Batch, settled: Any) -> None:
        original(self, msgspec.structs.replace(batch, expected_subject="", expected_seq=None), settled)

    patch.setattr(World, "append", append)


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
        self.snapshot = (msgspec.msgpack.encode(self.engine.state), self.engine.position, self.engine.fence_seqs)

    patch.setattr(SimDispatcher, "_maybe_snapshot", maybe_snapshot)


def ignore_what_a_dispatch_rests_on(patch: pytest.MonkeyPatch) -> None:
    """Let a dispatch take effect that was decided before admission was narrowed."""
    original = lifecycle.apply

    def apply(tasks: Tasks, event: Any) -> Any:
        tasks.narrowed_seq = 0
        return original(tasks, event)

    patch.setattr(lifecycle, "apply", apply)


def ignore_the_hold(patch: pytest.MonkeyPatch) -> None:
    """Let a dispatch take effect that comes after its task was paused or halted."""
    original = lifecycle._dispatched

    def dispatched(tasks: Tasks, event: Any, one: Any) -> Any:
        task = tasks.by_id[one.task_id]
        hold, task.hold = task.hold, None
        change = original(tasks, event, one)
        task.hold = hold
        return change

    patch.setattr(lifecycle, "_dispatched", dispatched)


def let_the_next_wave_begin_early(patch: pytest.MonkeyPatch) -> None:
    """Let the next wave's turn come as soon as a command of this one has ended."""
    original = commands._leave_wave

    def leave_wave(task: Task, wave: Wave, now_ms: int) -> None:
        original(task, wave, now_ms)
        if task.wave < len(task.waves) and task.waves[task.wave] is wave:
            task.wave, task.wave_ms = task.wave + 1, now_ms

    patch.setattr(commands, "_leave_wave", leave_wave)


def ignore_approval(patch: pytest.MonkeyPatch) -> None:
    """Let waves begin that no person has approved."""
    for module in (lifecycle, rollout):
        patch.setattr(module, "needs_approval", lambda task, wave: False)


def forget_the_soak_time(patch: pytest.MonkeyPatch) -> None:
    """Let the next wave begin at once when the last one has ended."""
    patch.setattr(rollout, "soaks_until_ms", lambda task: 0)


def forget_when_a_wave_ended(patch: pytest.MonkeyPatch) -> None:
    """Let the soak time count from the plan for a dispatcher that takes over."""
    original = living.awaken

    def awaken(settings: Any, state: Any, now_ms: int) -> Any:
        for task in state.tasks.by_id.values():
            task.wave_ms = task.planned_ms
        return original(settings, state, now_ms)

    patch.setattr(living, "awaken", awaken)


def ignore_the_limit_of_queues(patch: pytest.MonkeyPatch) -> None:
    """Dispatch as if no queue had a limit."""
    original = Round.__init__

    def begin(self: Round, *arguments: Any) -> None:
        original(self, *arguments)
        self._queue_room.clear()

    patch.setattr(Round, "__init__", begin)


def forget_what_is_in_flight_at_a_take_over(patch: pytest.MonkeyPatch) -> None:
    """Count against shared limits only what this dispatcher has dispatched itself."""
    original = living.awaken

    def awaken(*arguments: Any) -> Any:
        live = original(*arguments)
        live.shares = Shares()
        return live

    patch.setattr(living, "awaken", awaken)


def free_a_share_by_the_clock_alone(patch: pytest.MonkeyPatch) -> None:
    """Give up what runs at its deadline, without the grace in which its host ends it and says so."""
    patch.setattr(ends, "run_deadline_ms", lambda settings, flight: flight.confirmed_ms + flight.task.spec.timeout_ms)


def forget_the_lock(patch: pytest.MonkeyPatch) -> None:
    """Dispatch a single run while an earlier one is under way."""
    for module in (gates, ends):
        patch.setattr(module, "lock_holder", lambda live, task: None)


def plan_every_second_run(patch: pytest.MonkeyPatch) -> None:
    """Refuse no single run."""
    patch.setattr(plan, "refuse_second_run", lambda spec, earlier: None)


def look_at_no_window_that_opens(patch: pytest.MonkeyPatch) -> None:
    """Look at windows when one is set, and not when time opens it."""
    original = dispatcher_observe._ripen

    def ripen(settings: Any, state: Any, live: Any, now_ms: int) -> None:
        sweep, live.sweep = live.sweep, False
        original(settings, state, live, now_ms)
        live.sweep = sweep

    patch.setattr(dispatcher_observe, "_ripen", ripen)


def choose_one_host_too_many(patch: pytest.MonkeyPatch) -> None:
    """Take one host more than was asked for."""
    original = plan.choose

    def choose(settings: Any, state: Any, live: Any, rule: Any, *rest: Any) -> Any:
        return original(settings, state, live, msgspec.structs.replace(rule, count=rule.count + 1), *rest)

    patch.setattr(plan, "choose", choose)


def prune_what_an_open_task_needs(patch: pytest.MonkeyPatch) -> None:
    """Let the keeper overlook that tasks are open."""
    patch.setattr(prune, "oldest_open", lambda state: None)


def prune_the_last_message_of_a_subject(patch: pytest.MonkeyPatch) -> None:
    """Purge every subject through the end of the last pruned segment."""
    original = prune.due

    def due(*arguments: Any) -> Any:
        pruned = original(*arguments)
        below = dict.fromkeys(archive_events.PRUNABLE, pruned.through_seq + 1) if pruned else {}
        return msgspec.structs.replace(pruned, below=below) if pruned else None

    patch.setattr(prune, "due", due)


def seal_with_a_hole(patch: pytest.MonkeyPatch) -> None:
    """Lose a message on the way into a segment, and do not see to it that a segment is whole."""
    original = SimKeeper._read

    def read(self: SimKeeper, *arguments: Any) -> Any:
        messages = original(self, *arguments)
        return [*messages[:4], *messages[5:]]

    patch.setattr(SimKeeper, "_read", read)
    patch.setattr(segments, "check_whole", lambda messages: None)


def prune_what_is_not_sealed(patch: pytest.MonkeyPatch) -> None:
    """Purge through the position of the keeper instead of through what is in segments."""

    def purge(self: SimKeeper, what: Any) -> Any:
        steps = original(self, what)
        if isinstance(what, works.Purge):
            return [lambda: self.world.purge(events.DISPATCH, self.engine.state.last_by_subject[events.DISPATCH])]
        return steps

    original = SimKeeper._steps
    patch.setattr(SimKeeper, "_steps", purge)


def read_only_the_bus(patch: pytest.MonkeyPatch) -> None:
    """Let readers pass over what was pruned."""
    patch.setattr(world_module, "without_hole", lambda found, from_seq: found)


class Plant(NamedTuple):
    """A bug, and the history in which an invariant must notice it."""

    bug: Bug
    history: History = simulate
    """By chance, in one of many seeds; a directed history provokes it, so every seed of it must notice."""
    says: str = ""
    """What the invariant that is meant to notice says; where another notices first, the next seed is tried."""
    likely: int = 0
    """The seed tried first: one that noticed when this was written. It saves time, and nothing rests on it."""


PLANTS: list[Plant] = [
    Plant(send_on_acknowledgement),
    Plant(skip_the_journal),
    Plant(
        start_the_next_attempt_before_the_last_is_settled,
        histories.an_agent_returns_to_an_attempt_that_was_given_up, "two attempts of .* ran at once",
    ),
    Plant(drop_the_spool_when_the_report_is_stored),
    Plant(
        ignore_the_expected_sequence,
        histories.a_deposed_leader_goes_on_with_what_it_believed, "2 commands in flight on h0, which has 1 slots",
    ),
    Plant(ignore_the_ticket, likely=15),
    Plant(ignore_the_journal_counter),
    Plant(ignore_the_position_a_push_was_decided_at),
    Plant(forget_a_running_attempt),
    Plant(forget_the_token),
    Plant(snapshot_inside_a_batch),
    Plant(
        ignore_what_a_dispatch_rests_on, histories.a_freeze_overtakes_a_dispatch_under_way,
        "ran on h0 although it was decided before admission was narrowed",
    ),
    Plant(ignore_what_a_dispatch_rests_on, likely=5),
    Plant(ignore_the_hold, histories.a_pause_overtakes_a_dispatch_under_way, "ran on h0 although it was paused"),
    Plant(ignore_the_hold, likely=98),
    Plant(let_the_next_wave_begin_early, says="an earlier wave has not ended"),
    Plant(ignore_approval, says="not approved", likely=21),
    Plant(forget_the_soak_time, says="before its soak time was over"),
    Plant(forget_when_a_wave_ended, histories.a_leader_is_killed_during_a_soak, "before its soak time was over"),
    Plant(ignore_the_limit_of_queues, says="in flight in the queue", likely=5),
    Plant(
        forget_what_is_in_flight_at_a_take_over, histories.a_queue_is_full_while_another_dispatcher_takes_over,
        "2 commands in flight in the queue builds, and at most 1 may be",
    ),
    Plant(free_a_share_by_the_clock_alone, says="was given up .* too early"),
    Plant(forget_the_lock, says="was dispatched although the earlier run", likely=6),
    Plant(plan_every_second_run, says="was not refused", likely=6),
    Plant(look_at_no_window_that_opens, says="in the blackout", likely=11),
    Plant(choose_one_host_too_many, says="asked for"),
    Plant(prune_what_an_open_task_needs, says="although a task that began at"),
    Plant(prune_the_last_message_of_a_subject, says="the last message of .* was pruned"),
    Plant(seal_with_a_hole, says="no sealed segment holds it|not the log"),
    Plant(prune_what_is_not_sealed, says="no sealed segment holds it"),
    Plant(read_only_the_bus, says="holds another state|are not the log|rebuilt"),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.bug.__name__}-{plant.history.__name__}")
def test_a_planted_bug_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.bug(monkeypatch)
    if plant.history is not simulate:
        for seed in range(directed.SEEDS):
            with pytest.raises(Violation, match=plant.says):
                plant.history(seed)
        return
    for seed in (plant.likely, *range(SEEDS_MAX)):
        try:
            simulate(seed)
        except Violation as violation:
            if re.search(plant.says, str(violation)):
                return
    pytest.fail(f"{SEEDS_MAX} seeds did not notice: {plant.bug.__doc__}")
