"""The stored events of alerts and webhooks: what a person should look at, and who is told of what.

Part of the format that `events.py` begins, by the same rules. What people decide stands on `evt.catalog` and
`evt.request`, written by the gateway; what the keeper makes of it stands on `evt.alert`. No secret is in any of them:
a webhook's secret follows from its id and number, and from a key that is in no event.
"""

from __future__ import annotations

from typing import Literal

from fleetlog_schemas.events import ALERT, CATALOG, REQUEST, Data, event

Kind = Literal[
    "task-failed", "schedule-missed", "scheduler-silent", "host-gone", "host-refused", "reports-refused", "webhook-disabled"
]
"""What is wrong."""


class RaisedAlert(Data, frozen=True):
    """One alert. Its id follows from its cause, so that whoever decides it anew decides the same one."""

    alert_id: str
    kind: Kind
    subjects: tuple[str, ...]
    """What it is about: ids of definitions, hosts or webhooks, names of schedules; of many, the first."""
    names: tuple[str, ...]
    """The same for people."""
    count: int
    """How many it is about."""
    since_ms: int
    """Since when the first of them is so."""
    through_ms: int
    """When there are more than are named: every one that is so since this time or earlier belongs to it."""
    message: str


@event("fleetlog.alert.raised.v1", ALERT, "keeper", "keeper", "reporter")
class AlertsRaised(Data, frozen=True):
    """Something a person should look at. The first raising of an id stands."""

    alerts: tuple[RaisedAlert, ...]


@event("fleetlog.alert.resolved.v1", ALERT, "keeper", "keeper", "reporter")
class AlertsResolved(Data, frozen=True):
    """What these alerts were about is over."""

    alert_ids: tuple[str, ...]


@event("fleetlog.alert.acknowledged.v1", REQUEST, "gateway", "keeper", "reporter")
class AlertAcknowledged(Data, frozen=True):
    """A person has taken note of an alert and sees to it. It stays open until it is resolved."""

    alert_id: str
    reason: str = ""


class Webhook(Data, frozen=True):
    """Where to send what. Filters narrow together; an empty one narrows nothing."""

    url: str
    events: tuple[str, ...]
    """`task.ended`, `alert.raised`, `alert.resolved`."""
    definitions: tuple[str, ...] = ()
    """Names of definitions: only what is about one of them."""
    tags: tuple[str, ...] = ()
    """Only what is about a task with one of these."""
    target: str = ""
    """Only what is about a host that this means."""


@event("fleetlog.webhook.set.v1", CATALOG, "gateway", "keeper", "reporter", "gateway")
class WebhookSet(Data, frozen=True):
    """A webhook was made or changed; one that was disabled is enabled by it."""

    webhook_id: str
    name: str
    webhook: Webhook
    reason: str = ""


@event("fleetlog.webhook.removed.v1", CATALOG, "gateway", "keeper", "reporter", "gateway")
class WebhookRemoved(Data, frozen=True):
    """A webhook is no more; what still waited for it is not sent."""

    webhook_id: str
    reason: str = ""


@event("fleetlog.webhook.secret-rotated.v1", CATALOG, "gateway", "keeper", "reporter", "gateway")
class WebhookSecretRotated(Data, frozen=True):
    """A webhook has another secret from here on; for a while messages are signed with the one before too."""

    webhook_id: str
    secret_number: int
    """One more than before; void otherwise."""


@event("fleetlog.webhook.test-requested.v1", REQUEST, "gateway", "keeper", "reporter")
class WebhookTestRequested(Data, frozen=True):
    """A person wants a message of type `webhook.test` to be sent."""

    webhook_id: str


class WebhookAttempt(Data, frozen=True):
    """One try to deliver one message."""

    webhook_id: str
    message_id: str
    attempt: int
    outcome: Literal["delivered", "retry", "failed"]
    """`retry`: it is tried again at `due_ms`; the other two are final."""
    status: int = 0
    """Of the HTTP answer; 0: there was none."""
    error: str = ""
    due_ms: int = 0


@event("fleetlog.webhook.attempted.v1", ALERT, "keeper", "keeper", "reporter")
class WebhooksAttempted(Data, frozen=True):
    """What became of tries to deliver messages."""

    attempts: tuple[WebhookAttempt, ...]


@event("fleetlog.webhook.disabled.v1", ALERT, "keeper", "keeper", "reporter")
class WebhookDisabled(Data, frozen=True):
    """Nothing more is sent to a webhook until a person sets it again; what waited is not sent."""

    webhook_id: str
    code: Literal["gone", "failing", "overflow"]
    """Its endpoint answered 410; it has failed for days; more waited for it than may."""
    message: str
