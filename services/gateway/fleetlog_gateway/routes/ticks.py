"""Ticks of schedules: the ledger of what became of each, running past ones now, and the past under another rule."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode
from fleetlog_gateway.asking import handed_on
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.decode import Reason, check_reason
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.registry import Answered, Call, Nothing, Paged, reply, route
from fleetlog_gateway.routes.schedules import check_when, named
from fleetlog_schemas import events, ledger, limits, questions
from fleetlog_schemas import schedule_events as stored
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.occurrences import LATEST_MS, ticks
from fleetlog_schemas.schedule_events import Rule
from fleetlog_schemas.what_if import RuleChange, WhatIf, WhatIfQuestion, changed

_CHANGES = ("invalid", "conflict", "bus-unavailable", "unsettled")
_Text = Annotated[str, Meta(max_length=100)]
BACKFILL_SCAN_MAX = 20_000
"""Ticks of the period of one backfill that are looked at: two weeks of minutes."""
WHAT_IF_MS_MAX = 30_000
"""How long a replay may take."""


class TicksQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Filters of a schedule's ledger."""

    outcome: _Text = ""
    """fired, missed, skipped or queued."""
    since_ms: Annotated[int, Meta(ge=0, le=2**53)] = 0
    """Only ticks of this time or later, by the time that the rule names."""
    until_ms: Annotated[int, Meta(ge=0, le=2**53)] = 0
    limit: Annotated[int, Meta(ge=1, le=questions.PAGE_MAX)] = 50
    cursor: Annotated[str, Meta(max_length=1_000)] = ""


class Backfill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which past ticks to run now."""

    from_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)]
    """Ticks of this time or later ..."""
    until_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)]
    """... and before this."""
    only_missing: bool = True
    """Pass over those that were fired, by the ledger."""
    preview: bool = False
    """Only say which; run nothing."""
    reason: Reason = ""


class Backfilled(msgspec.Struct, frozen=True):
    """The ticks that are run, one after the other unless the policy lets them overlap."""

    ticks: list[str]
    seq: int | None = None
    """Null: it was a preview, or there is nothing to run."""


class WhatIfAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which past, and what would have been otherwise."""

    since_ms: Annotated[int, Meta(ge=1, le=LATEST_MS)]
    """Ticks later than this ..."""
    until_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)] = 0
    """... and not later than this; 0: until now."""
    change: RuleChange = RuleChange()
    schedules: Annotated[tuple[_Text, ...], Meta(max_length=limits.WHAT_IF_SCHEDULES_MAX)] = ()
    """Names, also of schedules that were removed; none: all that ever were."""


class _Fired(msgspec.Struct, frozen=True):
    nominal_at: str


@route("GET", "/api/v1/schedules/{name}/ticks", auth=Permission.READ, query=TicksQuery,
       answer=Answered[Paged[ledger.TickView]], problems=("bad-query", "service-unavailable", "behind"))
async def schedule_ticks(call: Call[Nothing, TicksQuery]) -> web.Response:
    """List what became of a schedule's ticks, newest decision first; also of one that was removed."""
    fields = {**msgspec.structs.asdict(call.query), "schedule": call.path["name"][:100]}
    return handed_on(await call.gateway.asker.report("ticks", ledger.TicksQuestion, fields))


@route("POST", "/api/v1/schedules/{name}/backfill", auth=Permission.RUN, body=Backfill, answer=Backfilled,
       problems=(*_CHANGES, "schedule-not-found", "schedule-state", "service-unavailable", "behind"))
async def backfill_schedule(call: Call[Backfill, Nothing]) -> web.Response:
    """Run ticks of the past now: all of a period, or those that were not fired, by the schedule's present rule."""
    gateway, body = call.gateway, call.body
    schedule, reason = named(gateway, call.path["name"]), check_reason(body.reason)
    until_ms = min(body.until_ms, gateway.now_ms())
    if body.from_ms >= until_ms:
        raise invalid("/from_ms", "this period has no past: name a time before until_ms, and before now")
    wanted = [tick.at_ms for tick in islice(ticks(schedule.rule, body.from_ms - 1, until_ms - 1), BACKFILL_SCAN_MAX + 1)]
    if len(wanted) > BACKFILL_SCAN_MAX:
        raise invalid("/from_ms", f"this period has more than {BACKFILL_SCAN_MAX} ticks: name a shorter one")
    if body.only_missing:
        fired = await _fired(gateway, schedule.name, body.from_ms, until_ms)
        wanted = [at_ms for at_ms in wanted if rfc3339(at_ms) not in fired]
    if len(wanted) > limits.BACKFILL_TICKS_MAX:
        raise invalid("/from_ms", f"{len(wanted)} ticks, and one backfill has at most {limits.BACKFILL_TICKS_MAX}: name a shorter period")
    answer = Backfilled([rfc3339(at_ms) for at_ms in wanted])
    if body.preview or not wanted:
        return reply(answer)

    def decide() -> events.Data:
        if not named(gateway, schedule.name).active:
            raise HttpProblem("schedule-state", f"{schedule.name} is inactive: start it first")
        return stored.BackfillRequested(name=schedule.name, ticks=tuple(wanted), reason=reason)

    seq = await gateway.change(events.SCHEDULE, decide, call.principal, f"look at the ticks of {schedule.name}, then try again")
    return reply(msgspec.structs.replace(answer, seq=seq))


@route("POST", "/api/v1/schedules/what-if", auth=Permission.READ, body=WhatIfAsked, answer=Answered[WhatIf],
       problems=("invalid", "schedule-not-found", "too-far", "service-unavailable", "behind"))
async def schedule_what_if(call: Call[WhatIfAsked, Nothing]) -> web.Response:
    """Replay a past period under another rule, by the code that fires, and compare. It touches nothing."""
    gateway, body = call.gateway, call.body
    now_ms = gateway.now_ms()
    until_ms = min(body.until_ms or now_ms, now_ms)
    if body.since_ms >= until_ms:
        raise invalid("/since_ms", "this period has no past: name a time before until_ms, and before now")
    # What cannot be in any rule is refused here; a schedule has its own definition and zone.
    check_when(changed(Rule(definition="", kind="cron", cron="@daily"), body.change), "/change", policy="")
    fields = {"schedules": body.schedules, "since_ms": body.since_ms, "until_ms": until_ms, "change": body.change}
    return handed_on(await gateway.asker.report("what-if", WhatIfQuestion, fields, WHAT_IF_MS_MAX))


async def _fired(gateway: Gateway, name: str, from_ms: int, until_ms: int) -> set[str]:
    """Return the times of the ticks that were fired. Raises HttpProblem."""
    found: set[str] = set()
    cursor = ""
    for _ in range(BACKFILL_SCAN_MAX // questions.PAGE_MAX + 1):
        fields = {
            "schedule": name, "outcome": "fired", "since_ms": from_ms, "until_ms": until_ms, "limit": questions.PAGE_MAX,
            "cursor": cursor,
        }
        answer = await gateway.asker.report("ticks", ledger.TicksQuestion, fields)
        page = decode.json_answer(answer.data, Paged[_Fired], "reporter")
        found |= {one.nominal_at for one in page.items}
        if not page.next_cursor:
            break
        cursor = page.next_cursor
    return found
