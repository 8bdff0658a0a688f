"""Which webhooks there are, folded from the log: one fold for every reader.

A webhook's secret is in no event: who may sign derives it from a key, the webhook's id and the secret's number.
"""

from __future__ import annotations

import re

import msgspec

from fleetlog_schemas.alert_events import Webhook, WebhookRemoved, WebhookSecretRotated, WebhookSet
from fleetlog_schemas.codec import Event

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
EVENTS = ("task.ended", "alert.raised", "alert.resolved")
"""What a webhook may ask for. `webhook.test` comes when a person asks for it."""


class Known(msgspec.Struct, frozen=True):
    """One webhook."""

    webhook_id: str
    name: str
    webhook: Webhook
    secret_number: int
    rotated_ms: int
    """When the secret was last rotated; 0: never."""
    set_by: str
    set_ms: int


class Webhooks(msgspec.Struct):
    """Every webhook."""

    by_id: dict[str, Known] = {}

    def named(self, text: str) -> Known | None:
        """Return the webhook of this name or id."""
        found = self.by_id.get(text)
        return found or next((one for one in self.by_id.values() if one.name == text), None)


def apply(webhooks: Webhooks, event: Event) -> str:
    """Fold one event and return the id of the webhook that it changed; empty when it changed none."""
    match event.data:
        case WebhookSet(webhook_id=webhook_id, name=name, webhook=webhook):
            named = webhooks.named(name)
            if named is not None and named.webhook_id != webhook_id:
                return ""
            known = webhooks.by_id.get(webhook_id)
            webhooks.by_id[webhook_id] = Known(
                webhook_id=webhook_id, name=name, webhook=webhook, secret_number=known.secret_number if known else 1,
                rotated_ms=known.rotated_ms if known else 0, set_by=event.authid or "", set_ms=event.time_ms,
            )
            return webhook_id
        case WebhookRemoved(webhook_id=webhook_id):
            return webhook_id if webhooks.by_id.pop(webhook_id, None) is not None else ""
        case WebhookSecretRotated(webhook_id=webhook_id, secret_number=number):
            known = webhooks.by_id.get(webhook_id)
            if known is None or number != known.secret_number + 1:
                return ""
            webhooks.by_id[webhook_id] = msgspec.structs.replace(known, secret_number=number, rotated_ms=event.time_ms)
            return webhook_id
        case _:
            return ""
