"""Answer what is asked about alerts and webhooks, from the keeper's fold."""

from __future__ import annotations

import msgspec

from fleetlog_keeper.outbox import Message, Outbox
from fleetlog_keeper.troubles import Alert
from fleetlog_keeper.watch import Watch
from fleetlog_schemas.alerts import AlertsQuestion, AlertView, DeliveryView, WebhooksQuestion, WebhookStanding
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.questions import Answer, Problem, pack_answer

SHORT_ID_MIN = 6


def alerts(watch: Watch, seq: int, body: bytes) -> bytes:
    """Answer `ask.keeper.alerts`."""
    try:
        question = msgspec.json.decode(body or b"{}", type=AlertsQuestion)
    except msgspec.MsgspecError as error:
        return _problem(seq, str(error))
    found = [*watch.troubles.open.values(), *watch.troubles.resolved]
    if question.alert_id:
        wanted = question.alert_id
        found = [
            one for one in found
            if one.raised.alert_id == wanted or (len(wanted) >= SHORT_ID_MIN and one.raised.alert_id.endswith(wanted))
        ]
    elif question.state != "all":
        found = [one for one in found if bool(one.resolved_ms) == (question.state == "resolved")]
    found.sort(key=lambda one: one.seq, reverse=True)
    return pack_answer(msgspec.json.encode(Answer(seq, [_alert(one) for one in found])))


def _alert(one: Alert) -> AlertView:
    raised = one.raised
    state = "resolved" if one.resolved_ms else "acknowledged" if one.acknowledged_ms else "open"
    return AlertView(
        alert_id=raised.alert_id, kind=raised.kind, state=state, message=raised.message, subjects=list(raised.names),
        count=raised.count, left=len(one.members), times=sum(trouble.times for trouble in one.members.values()),
        since=rfc3339(raised.since_ms), raised_at=rfc3339(one.raised_ms),
        acknowledged_at=rfc3339(one.acknowledged_ms) if one.acknowledged_ms else None,
        acknowledged_by=one.acknowledged_by, reason=one.reason,
        resolved_at=rfc3339(one.resolved_ms) if one.resolved_ms else None,
        task_id=one.told.task_id if one.told is not None else "",
    )


def webhooks(watch: Watch, seq: int, body: bytes) -> bytes:
    """Answer `ask.keeper.webhooks`."""
    try:
        question = msgspec.json.decode(body or b"{}", type=WebhooksQuestion)
    except msgspec.MsgspecError as error:
        return _problem(seq, str(error))
    wanted = [question.webhook_id] if question.webhook_id else list(watch.webhooks.by_id)
    found = [
        _standing(webhook_id, watch.outboxes.get(webhook_id, Outbox()), all_of=bool(question.webhook_id)) for webhook_id in wanted
    ]
    return pack_answer(msgspec.json.encode(Answer(seq, found)))


def _standing(webhook_id: str, outbox: Outbox, *, all_of: bool) -> WebhookStanding:
    messages = sorted([*outbox.waiting.values(), *outbox.done], key=lambda one: one.seq, reverse=True) if all_of else []
    return WebhookStanding(
        webhook_id=webhook_id, waiting=len(outbox.waiting), delivered=outbox.delivered, failed=outbox.failed,
        failing_since=rfc3339(outbox.failing_ms) if outbox.failing_ms else None, disabled=outbox.disabled,
        deliveries=[_delivery(one) for one in messages],
    )


def _delivery(one: Message) -> DeliveryView:
    return DeliveryView(
        message_id=one.message_id, type=one.type, at=rfc3339(one.at_ms), state=one.state, attempts=one.attempts,
        status=one.status, error=one.error, due_at=rfc3339(one.due_ms) if one.state == "waiting" and one.due_ms else None,
        seq=one.seq,
    )


def _problem(seq: int, message: str) -> bytes:
    return msgspec.json.encode(Answer(seq, problem=Problem(400, "bad-query", message)))
