"""Decide what is due: ticks fired, missed, skipped or waiting, and the tasks of those fired. Pure and level-triggered.

The fates of ticks and the tasks that follow from them go out as one batch, which is stored only if neither another
scheduler nor a change by a person came before it. Deciding twice on the same state gives the same again.
"""

from __future__ import annotations

import bisect

import msgspec

from fleetlog_runtime.pure.effects import Append, Effect, WakeAt
from fleetlog_runtime.pure.settings import SchedulerSettings
from fleetlog_runtime.pure.split import split
from fleetlog_scheduler.live import Live
from fleetlog_scheduler.state import State
from fleetlog_schemas import control_events, events, ids
from fleetlog_schemas.events import Data, Submission
from fleetlog_schemas.fates import CANCELS_MAX, Due, settle
from fleetlog_schemas.schedule_events import TickDecision, TicksDecided
from fleetlog_schemas.schedules import Schedule, Unfit, task_of

DECISION_BYTES_MAX = 16 * 1024**2
"""Of tasks in one decision: with specifications of any size it stays far below the messages of one batch."""


class Round(msgspec.Struct):
    """What one decision collects."""

    bytes: int = 0

    ticks: list[TickDecision] = []
    submissions: list[Submission] = []
    cancels: list[control_events.CancelRequested] = []


def decide(settings: SchedulerSettings, state: State, live: Live, now_ms: int) -> list[Effect]:
    """Return what is due now."""
    collected = Round()
    for due_ms, name in live.due:
        if due_ms > now_ms or len(collected.ticks) >= settings.ticks_per_decision_max:
            break
        if collected.bytes > DECISION_BYTES_MAX or len(collected.cancels) >= CANCELS_MAX:
            break
        _look(settings, state, collected, name, now_ms)
    data: list[Data] = [
        *split(lambda entries: TicksDecided(ticks=entries), collected.ticks),
        *split(lambda entries: events.TasksSubmitted(tasks=entries), collected.submissions),
        *collected.cancels,
    ]
    if len(data) == 1:
        # Each fence needs a message that carries it, and a decision has two: no ticks, and no change by a person, before it.
        data.append(TicksDecided(ticks=()))
    effects: list[Effect] = [Append(tuple(data))] if data else []
    following = bisect.bisect_left(live.due, (now_ms + 1, ""))
    if following < len(live.due):
        effects.append(WakeAt(live.due[following][0]))
    if following:
        # What is due and was left alone waits for something else than time: it is looked at again, but not at once.
        effects.append(WakeAt(now_ms if data else now_ms + settings.late_ms))
    return effects


def _look(settings: SchedulerSettings, state: State, collected: Round, name: str, now_ms: int) -> None:
    """Settle what can be settled of one schedule."""
    schedule = state.schedules.by_name.get(name)

    def fire(due: Due) -> TickDecision:
        assert schedule is not None
        decision, submission = _fired(state, schedule, due)
        if submission is not None:
            collected.submissions.append(submission)
            collected.bytes += len(msgspec.json.encode(submission.spec))
        return decision

    settled = settle(name, schedule, state.schedules.tracks[name], settings.late_ms, now_ms, fire)
    collected.ticks += settled.ticks
    collected.cancels += _cancels(settled.cancels, name)


def _fired(state: State, schedule: Schedule, due: Due) -> tuple[TickDecision, Submission | None]:
    """Return the fate of a tick that is to be fired, and its task; none when the definition cannot be run."""
    name = schedule.name
    decision = TickDecision(
        name=name, outcome="fired", nominal_ms=due.nominal_ms, reason=due.reason, backfill_seq=due.backfill_seq
    )
    try:
        spec = task_of(state.catalog, schedule.rule)
    except Unfit as error:
        return msgspec.structs.replace(decision, outcome="skipped", reason=error.code, message=str(error)), None
    task_id = ids.made_id(due.nominal_ms, name, schedule.registered_seq, due.backfill_seq)
    submission = Submission(task_id=task_id, spec=spec, schedule=name, nominal_ms=due.nominal_ms)
    version = spec.definition.version if spec.definition else 0
    return msgspec.structs.replace(decision, task_id=task_id, version=version), submission


def _cancels(task_ids: list[str], name: str) -> list[control_events.CancelRequested]:
    reason = f"the schedule {name} runs again"
    return [control_events.CancelRequested(task_id=task_id, reason=reason) for task_id in task_ids]
