"""What is asked of the keeper about alerts and webhooks, and what it answers. These shapes are the API's."""

from __future__ import annotations

import msgspec


class AlertsQuestion(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`alerts`, to the keeper: alerts, newest first. Answer: list of AlertView."""

    state: str = "open"
    """`open`, `resolved`, or `all`."""
    alert_id: str = ""
    """Only this one, by its id or at least the last 6 characters of it; open or not."""


class AlertView(msgspec.Struct, frozen=True):
    """One alert."""

    alert_id: str
    kind: str
    state: str
    """`open`, `acknowledged` (open, and a person sees to it) or `resolved`."""
    message: str
    subjects: list[str]
    """Names of what it is about: definitions, schedules, hosts, webhooks; of many, the first."""
    count: int
    """How many it was raised for."""
    left: int
    """For how many of them it still is so."""
    times: int
    """How often it has happened again since, beside the first time."""
    since: str
    raised_at: str
    acknowledged_at: str | None
    acknowledged_by: str
    reason: str
    """What was said when it was acknowledged."""
    resolved_at: str | None
    task_id: str
    """The newest task that it is about."""


class WebhooksQuestion(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`webhooks`, to the keeper: how deliveries go. Answer: list of WebhookStanding."""

    webhook_id: str = ""
    """Only this one, and with its deliveries."""


class DeliveryView(msgspec.Struct, frozen=True):
    """One message to one webhook."""

    message_id: str
    type: str
    at: str
    """When what it tells of happened."""
    state: str
    """`waiting`, `delivered` or `failed`."""
    attempts: int
    status: int
    """Of the last HTTP answer; 0: there was none."""
    error: str
    due_at: str | None
    """When it is tried next."""
    seq: int
    """The place in the log of what it tells of."""


class WebhookStanding(msgspec.Struct, frozen=True):
    """How the deliveries of one webhook go."""

    webhook_id: str
    waiting: int
    delivered: int
    failed: int
    failing_since: str | None
    disabled: str
    """Why nothing is sent; empty: it is."""
    deliveries: list[DeliveryView]
