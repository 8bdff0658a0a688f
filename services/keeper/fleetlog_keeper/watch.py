"""The part of the keeper's fold that watches: what is wrong, which alerts there are, what is owed to webhooks."""

from __future__ import annotations

import msgspec

from fleetlog_keeper import outbox, troubles
from fleetlog_keeper.outbox import Notice, Outbox
from fleetlog_keeper.troubles import Alert, Trouble, Troubles
from fleetlog_schemas import alert_events, definition_events, events, limits, schedules, webhooks
from fleetlog_schemas.codec import Event, rfc3339
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import Change, Task
from fleetlog_schemas.schedule_events import TicksDecided
from fleetlog_schemas.spec import summary

GOOD = (Outcome.SUCCESS,)
NEITHER = (Outcome.CANCELLED, Outcome.SKIPPED)
"""Ended by a person's decision: it says nothing of whether the definition works."""
TROUBLE_HOSTS_MAX = 1_000
"""Hosts of a task that filters of webhooks compare with an alert about it."""


class Watch(msgspec.Struct):
    """What the keeper watches, folded from the log."""

    troubles: Troubles = msgspec.field(default_factory=Troubles)
    schedules: schedules.Schedules = msgspec.field(default_factory=schedules.Schedules)
    webhooks: webhooks.Webhooks = msgspec.field(default_factory=webhooks.Webhooks)
    outboxes: dict[str, Outbox] = {}
    """By id of the webhook."""


def fold(watch: Watch, event: Event, changes: list[Change]) -> tuple[str, ...]:
    """Fold one event and what it changed of tasks; return the names of the schedules that it touched."""
    troubles.fold_hosts(watch.troubles, event)
    for change in changes:
        # What becomes of a part is told by its workflow.
        if change.what in ("refused", "task-ended") and change.task.part_of is None:
            _task_over(watch, event, change.task)
    touched = schedules.apply(watch.schedules, event)
    match event.data:
        case TicksDecided():
            _ticks(watch, event, event.data)
        case definition_events.DefinitionRemoved(definition_id=definition_id):
            watch.troubles.clear("task-failed", definition_id)
        case alert_events.AlertsRaised(alerts=alerts):
            for one in alerts:
                if (alert := troubles.raised(watch.troubles, event, one)) is not None:
                    _tell(watch, event, _notice("alert.raised", alert))
        case alert_events.AlertsResolved(alert_ids=alert_ids):
            for alert_id in alert_ids:
                if (alert := troubles.resolved(watch.troubles, event, alert_id)) is not None:
                    _tell(watch, event, _notice("alert.resolved", alert))
        case alert_events.AlertAcknowledged():
            troubles.acknowledged(watch.troubles, event, event.data)
        case _:
            _webhooks(watch, event)
    for name in touched:
        schedule = watch.schedules.by_name.get(name)
        if schedule is None or not schedule.active:
            watch.troubles.clear("schedule-missed", name)
    return touched


def _webhooks(watch: Watch, event: Event) -> None:
    changed = webhooks.apply(watch.webhooks, event)
    match event.data:
        case alert_events.WebhookSet() if changed:
            outbox.enabled(watch.outboxes.setdefault(changed, Outbox()))
            watch.troubles.clear("webhook-disabled", changed)
        case alert_events.WebhookRemoved() if changed:
            watch.outboxes.pop(changed, None)
            watch.troubles.clear("webhook-disabled", changed)
        case alert_events.WebhookTestRequested(webhook_id=webhook_id):
            said = {"message": "a test, asked for by a person", "by": event.authid or ""}
            _tell(watch, event, Notice("webhook.test", webhook_id, said))
        case alert_events.WebhooksAttempted(attempts=attempts):
            for one in attempts:
                outbox.attempted(watch.outboxes, event, one)
        case alert_events.WebhookDisabled() as data if data.webhook_id in watch.webhooks.by_id:
            outbox.disabled(watch.outboxes.setdefault(data.webhook_id, Outbox()), data)
            name = watch.webhooks.by_id[data.webhook_id].name
            watch.troubles.put("webhook-disabled", data.webhook_id, Trouble(event.time_ms, event.seq, name, data.message))
        case _:
            pass


def _tell(watch: Watch, event: Event, notice: Notice) -> None:
    if watch.webhooks.by_id:
        outbox.owe(watch.outboxes, watch.webhooks, watch.troubles.hosts, event, notice)


def _notice(kind: str, alert: Alert) -> Notice:
    one = alert.raised
    data = {
        "alert_id": one.alert_id, "kind": one.kind, "message": one.message, "subjects": list(one.names), "count": one.count,
        "since": rfc3339(one.since_ms), "raised_at": rfc3339(alert.raised_ms),
        "resolved_at": rfc3339(alert.resolved_ms) if alert.resolved_ms else None,
        "task_id": alert.told.task_id if alert.told else "",
    }
    return Notice(kind, one.alert_id, data, alert.definitions, alert.tags, alert.host_ids)


# --- tasks ---


def _task_over(watch: Watch, event: Event, task: Task) -> None:
    outcome, counts, detail = _end_of(event, task)
    origin, host_ids = task.spec.definition, tuple(task.commands)
    if origin is not None and outcome not in NEITHER:
        if outcome in GOOD:
            watch.troubles.clear("task-failed", origin.definition_id)
        else:
            watch.troubles.put(
                "task-failed", origin.definition_id,
                Trouble(
                    event.time_ms, event.seq, origin.name, detail, task_id=task.task_id, definition=origin.name,
                    tags=task.spec.tags, host_ids=host_ids[:TROUBLE_HOSTS_MAX],
                ),
            )
    if not watch.webhooks.by_id:
        return
    data = {
        "task_id": task.task_id, "name": task.spec.name, "summary": summary(task.spec.payload), "outcome": str(outcome),
        "counts": counts, "hosts": len(host_ids), "detail": detail,
        "definition": origin.name if origin else None, "version": origin.version if origin else None,
        "schedule": task.schedule or None, "nominal_at": rfc3339(task.nominal_ms) if task.nominal_ms else None,
        "tags": list(task.spec.tags)[: limits.WEBHOOK_FILTERS_MAX], "submitted_by": task.submitted_by,
        "submitted_at": rfc3339(task.submitted_ms), "ended_at": rfc3339(event.time_ms),
    }
    definitions = (origin.name,) if origin else ()
    _tell(watch, event, Notice("task.ended", task.task_id, data, definitions, task.spec.tags, host_ids))


def _end_of(event: Event, task: Task) -> tuple[Outcome | str, dict[str, int], str]:
    """Return how a task ended, how many of its commands ended how, and the same for people."""
    match event.data:
        case events.TasksEnded(tasks=ends):
            end = next(one for one in ends if one.task_id == task.task_id)
            bad = sum(count for outcome, count in end.counts.items() if outcome not in (*GOOD, *NEITHER))
            total = sum(end.counts.values())
            where = f" on {bad} of {total} hosts" if bad else f" on {total} hosts"
            return end.outcome, {str(outcome): count for outcome, count in end.counts.items()}, f"{end.outcome}{where}"
        case events.TasksRefused(refusals=refusals):
            message = next((one.message for one in refusals if one.task_id == task.task_id), "")
            return "refused", {}, f"refused: {message}"[: limits.REASON_BYTES_MAX]
        case _:
            return "refused", {}, "refused"


# --- schedules ---


def _ticks(watch: Watch, event: Event, data: TicksDecided) -> None:
    for tick in data.ticks:
        if tick.backfill_seq:
            continue
        if tick.outcome == "fired":
            watch.troubles.clear("schedule-missed", tick.name)
        elif tick.outcome == "missed" and tick.reason == "late":
            # What a person stopped, paused or changed before it was fired is no miss that anybody has to look at.
            schedule = watch.schedules.by_name.get(tick.name)
            detail = f"missed {tick.count} tick{'s' if tick.count != 1 else ''}, the first at {rfc3339(tick.nominal_ms)}"
            definition = schedule.rule.definition if schedule is not None else ""
            trouble = Trouble(event.time_ms, event.seq, tick.name, detail, definition=definition)
            watch.troubles.put("schedule-missed", tick.name, trouble)
