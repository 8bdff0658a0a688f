"""Alerts: what a person should look at. The keeper, which raises them, answers; a person's word is an event."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode
from fleetlog_gateway.asking import handed_on
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.decode import Reason
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem
from fleetlog_gateway.registry import Answered, Call, Nothing, reply, route
from fleetlog_schemas.alert_events import AlertAcknowledged
from fleetlog_schemas.alerts import AlertsQuestion, AlertView

_ASKS = ("service-unavailable",)


class AlertsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts."""

    state: Annotated[str, Meta(pattern="^(open|resolved|all)$")] = "open"
    """`open` (also those that are acknowledged), `resolved` (the newest 200), or `all`."""


class Acknowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done about it."""

    reason: Reason = ""


class Acknowledged(msgspec.Struct, frozen=True):
    """The log has it."""

    alert_id: str
    seq: int
    state: Literal["acknowledged"] = "acknowledged"


@route("GET", "/api/v1/alerts", auth=Permission.READ, query=AlertsQuery, answer=Answered[list[AlertView]], problems=("bad-query", *_ASKS))
async def alerts(call: Call[Nothing, AlertsQuery]) -> web.Response:
    """List alerts, newest first. Asks the keeper."""
    return handed_on(await call.gateway.asker.ask("keeper", "alerts", AlertsQuestion(state=call.query.state)))


@route("GET", "/api/v1/alerts/{id}", auth=Permission.READ, answer=Answered[AlertView], problems=("alert-not-found", *_ASKS))
async def alert(call: Call[Nothing, Nothing]) -> web.Response:
    """Show one alert, open or not, by its id or at least the last 6 characters of it. Asks the keeper."""
    seq, found = await _found(call.gateway, call.path["id"])
    return reply({"seq": seq, "data": found})


@route("POST", "/api/v1/alerts/{id}/acknowledge", auth=Permission.RUN, body=Acknowledge, body_optional=True, answer=Acknowledged,
       status=202, problems=("invalid", "alert-not-found", "alert-state", "bus-unavailable", "unsettled", *_ASKS))
async def acknowledge(call: Call[Acknowledge, Nothing]) -> web.Response:
    """Say that somebody sees to an alert. It stays open until what it is about is over."""
    gateway, reason = call.gateway, decode.check_reason(call.body.reason)
    _, found = await _found(gateway, call.path["id"])
    if found.state == "resolved":
        raise HttpProblem("alert-state", f"{found.alert_id} is resolved: nothing is left to see to")
    seq = await gateway.store([AlertAcknowledged(alert_id=found.alert_id, reason=reason)], call.principal)
    return reply(Acknowledged(alert_id=found.alert_id, seq=seq), status=202)


async def _found(gateway: Gateway, given: str) -> tuple[int, AlertView]:
    """Return the alert of this id. Raises HttpProblem."""
    answer = await gateway.asker.ask("keeper", "alerts", AlertsQuestion(alert_id=given[:100]))
    found = decode.json_answer(answer.data, list[AlertView], "keeper")
    if len(found) != 1:
        which = "more than one alert" if found else "no alert that is open, or was not long ago,"
        raise HttpProblem("alert-not-found", f"{which} is named {given[:60]!r}: `fleetlog alert ls --all` shows them")
    return answer.seq, found[0]
