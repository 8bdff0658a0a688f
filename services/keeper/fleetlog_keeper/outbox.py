"""What is owed to webhooks: messages that wait, and what became of those that were tried. Part of the keeper's state.

A message is made when the event that it tells of is folded, with the webhooks as they are at that place in the log; so
whoever reads the log owes the same messages with the same ids and the same bytes, before and after any restart.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.alert_events import WebhookAttempt, WebhookDisabled
from fleetlog_schemas.codec import Event, rfc3339
from fleetlog_schemas.hosts import Hosts
from fleetlog_schemas.targets import Directory, TargetError
from fleetlog_schemas.webhooks import Known, Webhooks


class Notice(msgspec.Struct, frozen=True):
    """Something that webhooks may want to be told of."""

    type: str
    subject: str
    """What tells it from another notice of the same event."""
    data: dict[str, Any]
    definitions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    host_ids: tuple[str, ...] = ()


class Message(msgspec.Struct):
    """One message to one webhook."""

    message_id: str
    type: str
    at_ms: int
    seq: int
    body: str
    """Empty once it is over."""
    due_ms: int
    attempts: int = 0
    state: str = "waiting"
    """`waiting`, `delivered` or `failed`."""
    status: int = 0
    error: str = ""


class Outbox(msgspec.Struct):
    """What is owed to one webhook."""

    waiting: dict[str, Message] = {}
    done: list[Message] = []
    """The newest last."""
    delivered: int = 0
    failed: int = 0
    failing_ms: int = 0
    """Since when every try has failed; 0: the last one did not."""
    overflowed: bool = False
    """A message found no room."""
    disabled: str = ""


def owe(outboxes: dict[str, Outbox], webhooks: Webhooks, hosts: Hosts, event: Event, notice: Notice) -> None:
    """Owe a notice to every webhook that asked for it."""
    for webhook in webhooks.by_id.values():
        if wants(webhook, hosts, notice):
            _owe(outboxes.setdefault(webhook.webhook_id, Outbox()), webhook.webhook_id, event, notice)


def wants(webhook: Known, hosts: Hosts, notice: Notice) -> bool:
    """Tell whether a webhook asked for a notice."""
    asked = webhook.webhook
    if notice.type == "webhook.test":
        return notice.subject == webhook.webhook_id
    if notice.type not in asked.events:
        return False
    if asked.definitions and not set(asked.definitions) & set(notice.definitions):
        return False
    if asked.tags and not set(asked.tags) & set(notice.tags):
        return False
    return not asked.target or _means(asked.target, hosts, notice.host_ids)


def _means(target: str, hosts: Hosts, host_ids: tuple[str, ...]) -> bool:
    concerned = [hosts.by_id[host_id] for host_id in host_ids if host_id in hosts.by_id]
    try:
        return bool(Directory(concerned).resolve(target, lenient=True))
    except TargetError:
        return True  # what cannot be read narrows nothing: better told than not


def _owe(outbox: Outbox, webhook_id: str, event: Event, notice: Notice) -> None:
    if outbox.disabled:
        return
    if len(outbox.waiting) >= limits.WEBHOOK_WAITING_MAX:
        outbox.overflowed = True
        return
    digest = hashlib.sha256(f"{webhook_id}\0{event.seq}\0{notice.type}\0{notice.subject}".encode()).hexdigest()
    body = msgspec.json.encode({"type": notice.type, "timestamp": rfc3339(event.time_ms), "data": notice.data}).decode()
    message_id = f"msg_{digest[:32]}"
    outbox.waiting[message_id] = Message(message_id, notice.type, event.time_ms, event.seq, body, due_ms=event.time_ms)


def attempted(outboxes: dict[str, Outbox], event: Event, one: WebhookAttempt) -> None:
    """Fold what became of one try."""
    outbox = outboxes.get(one.webhook_id)
    message = outbox.waiting.get(one.message_id) if outbox is not None else None
    if outbox is None or message is None or one.attempt != message.attempts + 1:
        return
    message.attempts, message.status, message.error = one.attempt, one.status, one.error
    if one.outcome == "delivered":
        outbox.failing_ms = 0
    elif not outbox.failing_ms:
        outbox.failing_ms = event.time_ms
    if one.outcome == "retry":
        message.due_ms = one.due_ms
        return
    message.state = one.outcome
    outbox.delivered += one.outcome == "delivered"
    outbox.failed += one.outcome == "failed"
    _over(outbox, message)


def disabled(outbox: Outbox, data: WebhookDisabled) -> None:
    """Fold that nothing more is sent: what waits is over."""
    outbox.disabled = data.message
    for message in list(outbox.waiting.values()):
        message.state, message.error = "failed", data.message
        outbox.failed += 1
        _over(outbox, message)


def enabled(outbox: Outbox) -> None:
    """Fold that a person set the webhook: it is tried from here on."""
    outbox.disabled, outbox.failing_ms, outbox.overflowed = "", 0, False
    for message in outbox.waiting.values():
        message.due_ms = 0


def _over(outbox: Outbox, message: Message) -> None:
    outbox.waiting.pop(message.message_id, None)
    message.body = ""
    outbox.done.append(message)
    del outbox.done[: -limits.WEBHOOK_DONE_MAX]
