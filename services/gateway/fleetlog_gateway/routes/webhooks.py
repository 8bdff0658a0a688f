"""Webhooks: who is told of what, by HTTP. They are folded here like other policies; how deliveries go, the keeper says.

The secret is shown once, when a webhook is made and when its secret is rotated; no route gives it again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode, limits
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.decode import Reason
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.registry import Answered, Call, Nothing, reply, route
from fleetlog_runtime.pure import egress, webhook_signing
from fleetlog_schemas import events
from fleetlog_schemas.alert_events import (
    Webhook,
    WebhookRemoved,
    WebhookSecretRotated,
    WebhookSet,
    WebhookTestRequested,
)
from fleetlog_schemas.alerts import WebhooksQuestion, WebhookStanding
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.limits import WEBHOOK_FILTERS_MAX, WEBHOOK_URL_BYTES_MAX, WEBHOOKS_MAX
from fleetlog_schemas.targets import TargetError, resolve
from fleetlog_schemas.webhooks import EVENTS, NAME, Known

_CHANGES = ("invalid", "conflict", "bus-unavailable", "unsettled")
RESOLVE_SECONDS_MAX = 3.0
"""How long a name may take to resolve when a webhook is set; afterwards only a delivery tells."""
_Words = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=WEBHOOK_FILTERS_MAX)]


class SetWebhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to send what."""

    url: Annotated[str, Meta(max_length=WEBHOOK_URL_BYTES_MAX)]
    events: Annotated[tuple[str, ...], Meta(min_length=1, max_length=len(EVENTS))]
    """`task.ended`, `alert.raised`, `alert.resolved`."""
    definitions: _Words = ()
    """Only what is about one of these definitions."""
    tags: _Words = ()
    """Only what is about a task with one of these tags."""
    target: Annotated[str, Meta(max_length=limits.RULE_TARGET_CHARS_MAX)] = ""
    """Only what is about a host that this means."""
    reason: Reason = ""


class Because(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is removed."""

    reason: Reason = ""


class AcceptedWebhook(msgspec.Struct, frozen=True):
    """The webhook is as it was asked for, from this sequence of the log on."""

    webhook_id: str
    seq: int
    secret: str | None = None
    """Of a new webhook, and after a rotation: shown this once. Null when it is as before."""


class RequestedTest(msgspec.Struct, frozen=True):
    """The message is sent; the delivery whose `seq` this is says what becomes of it."""

    webhook_id: str
    seq: int


class WebhookView(msgspec.Struct, frozen=True):
    """One webhook."""

    name: str
    webhook_id: str
    url: str
    events: tuple[str, ...]
    definitions: tuple[str, ...]
    tags: tuple[str, ...]
    target: str
    set_by: str
    set_at: str
    secret_number: int
    rotated_at: str | None
    standing: WebhookStanding | None
    """How its deliveries go; null when the keeper does not answer. In a list without the deliveries."""


@route("GET", "/api/v1/webhooks", auth=Permission.READ, answer=Answered[list[WebhookView]])
async def webhooks(call: Call[Nothing, Nothing]) -> web.Response:
    """List webhooks by name. Without the keeper it is not said how deliveries go."""
    gateway = call.gateway
    found = sorted(gateway.access.webhooks.by_id.values(), key=lambda one: one.name)
    standings = await _standings(gateway, "") if found else {}
    return reply({"seq": gateway.tail.next_seq - 1, "data": [_view(one, standings.get(one.webhook_id)) for one in found]})


@route("GET", "/api/v1/webhooks/{name}", auth=Permission.READ, answer=Answered[WebhookView], problems=("webhook-not-found",))
async def webhook(call: Call[Nothing, Nothing]) -> web.Response:
    """Show one webhook with the messages that wait and the newest that were sent."""
    gateway = call.gateway
    known = _named(gateway, call.path["name"])
    standings = await _standings(gateway, known.webhook_id)
    return reply({"seq": gateway.tail.next_seq - 1, "data": _view(known, standings.get(known.webhook_id))})


@route("PUT", "/api/v1/webhooks/{name}", auth=Permission.HOSTS, body=SetWebhook, answer=AcceptedWebhook, status=202,
       problems=(*_CHANGES, "too-many-webhooks"))
async def set_webhook(call: Call[SetWebhook, Nothing]) -> web.Response:
    """Make a webhook, or change it; one that was disabled is tried again.

    The URL must lead to a public address by https, unless the setting `keeper.webhook_internal` allows another. The answer to the
    first one has the secret that messages are signed with, by Standard Webhooks; it is not shown again.
    """
    gateway, body, name = call.gateway, call.body, call.path["name"]
    if not NAME.fullmatch(name):
        raise invalid("/name", "a webhook's name is 1-63 of A-Z a-z 0-9 _ . - and starts with a letter or digit")
    wrong = next((one for one in body.events if one not in EVENTS), "")
    if wrong:
        raise invalid("/events", f"there is no event {wrong[:60]!r}; there are {', '.join(EVENTS)}")
    reason = decode.check_reason(body.reason)
    try:
        resolve(body.target or "all", (), lenient=True)
    except TargetError as error:
        raise invalid("/target", str(error)) from None
    await _check_url(gateway, body.url)
    asked = Webhook(
        url=body.url, events=tuple(dict.fromkeys(body.events)), definitions=body.definitions, tags=body.tags,
        target=body.target.strip(),
    )
    made_id = gateway.make_id()
    decided: dict[str, str] = {}

    def decide() -> events.Data:
        known = gateway.access.webhooks.named(name)
        if known is None and len(gateway.access.webhooks.by_id) >= WEBHOOKS_MAX:
            raise HttpProblem("too-many-webhooks", f"there are {WEBHOOKS_MAX} webhooks: remove some first")
        decided["webhook_id"] = known.webhook_id if known else made_id
        return WebhookSet(webhook_id=decided["webhook_id"], name=name, webhook=asked, reason=reason)

    seq = await _change(call, decide)
    webhook_id = decided["webhook_id"]
    secret = _secret(gateway, webhook_id, 1) if webhook_id == made_id else None
    return reply(AcceptedWebhook(webhook_id, seq, secret), status=202)


@route("DELETE", "/api/v1/webhooks/{name}", auth=Permission.HOSTS, query=Because, answer=AcceptedWebhook, status=202,
       problems=(*_CHANGES, "bad-query", "webhook-not-found"))
async def remove_webhook(call: Call[Nothing, Because]) -> web.Response:
    """Remove a webhook; what still waited for it is not sent."""
    gateway, reason = call.gateway, decode.check_reason(call.query.reason)
    decided: dict[str, str] = {}

    def decide() -> events.Data:
        decided["webhook_id"] = _named(gateway, call.path["name"]).webhook_id
        return WebhookRemoved(webhook_id=decided["webhook_id"], reason=reason)

    seq = await _change(call, decide)
    return reply(AcceptedWebhook(decided["webhook_id"], seq), status=202)


@route("POST", "/api/v1/webhooks/{name}/rotate", auth=Permission.HOSTS, answer=AcceptedWebhook, status=202,
       problems=(*_CHANGES, "webhook-not-found"))
async def rotate_webhook(call: Call[Nothing, Nothing]) -> web.Response:
    """Give a webhook a new secret, which the answer shows once; for a day messages are signed with both."""
    gateway = call.gateway
    decided: dict[str, Known] = {}

    def decide() -> events.Data:
        known = decided["known"] = _named(gateway, call.path["name"])
        return WebhookSecretRotated(webhook_id=known.webhook_id, secret_number=known.secret_number + 1)

    seq = await _change(call, decide)
    known = decided["known"]
    return reply(AcceptedWebhook(known.webhook_id, seq, _secret(gateway, known.webhook_id, known.secret_number + 1)), status=202)


@route("POST", "/api/v1/webhooks/{name}/test", auth=Permission.HOSTS, answer=RequestedTest, status=202,
       problems=("webhook-not-found", "bus-unavailable", "unsettled"))
async def test_webhook(call: Call[Nothing, Nothing]) -> web.Response:
    """Send a message of type `webhook.test`; the deliveries of the webhook say what becomes of it."""
    known = _named(call.gateway, call.path["name"])
    seq = await call.gateway.store([WebhookTestRequested(webhook_id=known.webhook_id)], call.principal)
    return reply(RequestedTest(known.webhook_id, seq), status=202)


def _named(gateway: Gateway, name: str) -> Known:
    """Return the webhook of this name. Raises HttpProblem."""
    known = gateway.access.webhooks.named(name)
    if known is None:
        raise HttpProblem("webhook-not-found", f"no webhook is named {name[:60]!r}: `fleetlog webhook ls` shows them")
    return known


async def _change(call: Call[Any, Any], decide: Callable[[], events.Data]) -> int:
    return await call.gateway.change(events.CATALOG, decide, call.principal, "look at the webhooks, then try again")


def _secret(gateway: Gateway, webhook_id: str, number: int) -> str:
    key = gateway.home.secret(webhook_signing.WEBHOOK_KEY)
    return webhook_signing.text_of(webhook_signing.secret(key, webhook_id, number))


async def _check_url(gateway: Gateway, url: str) -> None:
    """Refuse a URL that no message may go to. The delivery looks again: a name may lead elsewhere by then. Raises HttpProblem."""
    try:
        place = egress.check_url(url, gateway.egress)
    except egress.Refused as error:
        raise invalid("/url", str(error)) from None
    if egress.literal_of(place.host) is not None or gateway.egress.has_host(place.host):
        return
    try:
        async with asyncio.timeout(RESOLVE_SECONDS_MAX):
            found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (TimeoutError, OSError, UnicodeError):
        return  # the name server may be away, and the name may come to be
    for *_, sockaddr in found:
        address = egress.literal_of(str(sockaddr[0]))
        why = "no address" if address is None else egress.refusal(address, gateway.egress)
        if why:
            raise invalid(
                "/url", f"{place.host} resolves to {sockaddr[0]}, which is {why}: webhooks go to public addresses only,"
                " unless keeper.webhook_internal names it",
            )


async def _standings(gateway: Gateway, webhook_id: str) -> dict[str, WebhookStanding]:
    try:
        answer = await gateway.asker.ask("keeper", "webhooks", WebhooksQuestion(webhook_id=webhook_id), limits.ASK_EXTRA_MS_MAX)
        found = decode.json_answer(answer.data, list[WebhookStanding], "keeper")
    except HttpProblem:
        return {}
    return {one.webhook_id: one for one in found}


def _view(known: Known, standing: WebhookStanding | None) -> WebhookView:
    asked = known.webhook
    return WebhookView(
        name=known.name, webhook_id=known.webhook_id, url=asked.url, events=asked.events, definitions=asked.definitions,
        tags=asked.tags, target=asked.target, set_by=known.set_by, set_at=rfc3339(known.set_ms),
        secret_number=known.secret_number, rotated_at=rfc3339(known.rotated_ms) if known.rotated_ms else None,
        standing=standing,
    )
