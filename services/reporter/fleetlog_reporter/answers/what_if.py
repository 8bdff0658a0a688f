"""`what-if`: a past period of schedules as the ledger has it, and replayed under another rule.

What people did, how long runs took and when no scheduler was there is read from the log; the replay is the code that
fires (`fleetlog_schemas.replay`). It touches nothing.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

import duckdb
import msgspec

from fleetlog_reporter.answers.desk import Desk, NoAnswer
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.readers import TASKS
from fleetlog_runtime.pure.settings import SchedulerSettings
from fleetlog_schemas import codec, limits
from fleetlog_schemas.codec import Event, rfc3339
from fleetlog_schemas.occurrences import RuleError
from fleetlog_schemas.replay import Decided, Past, Span, TooMany, replay
from fleetlog_schemas.schedule_events import Rule, ScheduleRegistered, TickDecision
from fleetlog_schemas.what_if import WhatIf, WhatIfQuestion, WhatIfSchedule, changed, side

_NOT_A_LENGTH = "cancelled"
"""How long a run took that was ended early says nothing of how long it takes."""


class _Known(msgspec.Struct):
    """What the log says of one schedule."""

    changes: list[Event] = []
    was: list[Decided] = []
    lengths_ms: dict[int, int] = {}
    open_until_ms: dict[str, int] = {}

    @property
    def definition(self) -> str:
        """What it runs, by its newest rule."""
        rules = [one.data.rule for one in self.changes if isinstance(one.data, ScheduleRegistered)]
        return rules[-1].definition if rules else ""


async def what_if(desk: Desk, question: WhatIfQuestion) -> tuple[int, WhatIf]:
    """Replay a past period. Raises NoAnswer when there is no such schedule, or too much of it."""
    now_ms = desk.now_ms()
    if not 0 < question.since_ms < question.until_ms <= now_ms:
        raise NoAnswer(400, "bad-query", "a period of the past has a beginning, and an end that is later and over", "/since_ms")
    moment = await desk.moment(question, TASKS)
    await desk.wait_for_tables(moment.seq)
    try:
        return moment.seq, await desk.run(lambda db: _answer(db, question, now_ms), moment)
    except RuleError as error:
        raise NoAnswer(400, "bad-query", error.message, f"/change{error.pointer}") from None
    except TooMany:
        raise NoAnswer(
            422, "too-far", f"this period has more than {limits.WHAT_IF_TICKS_MAX} ticks: name a shorter one, or fewer schedules"
        ) from None


def _answer(db: duckdb.DuckDBPyConnection, question: WhatIfQuestion, now_ms: int) -> WhatIf:
    since_ms, until_ms = question.since_ms, question.until_ms
    known = _known(db, question)
    away = _away(db, since_ms, until_ms)
    usual_ms = _usual(db, known)
    left, grace_ms = limits.WHAT_IF_TICKS_MAX, SchedulerSettings().late_ms
    told: list[WhatIfSchedule] = []
    all_was: list[Decided] = []
    all_would: list[Decided] = []
    lengths = [0, 0, 0]

    def rule_of(rule: Rule) -> Rule:
        return changed(rule, question.change)

    for name, one in known.items():
        past = Past(name, one.changes, one.lengths_ms, usual_ms.get(name, 0), one.open_until_ms)
        would = replay(past, rule_of, since_ms, until_ms, away=away, grace_ms=grace_ms, ticks_max=left, now_ms=now_ms)
        left -= len(would)
        for decided in would:
            if decided.tick.task_id:
                lengths[0 if decided.tick.nominal_ms in one.lengths_ms else 1 if name in usual_ms else 2] += 1
        ends = one.open_until_ms.values()
        told.append(WhatIfSchedule(name, side(one.was, ends, since_ms, until_ms), side(would, ends, since_ms, until_ms)))
        all_was += one.was
        all_would += would
    ends_ms = [end_ms for one in known.values() for end_ms in one.open_until_ms.values()]
    return WhatIf(
        since=rfc3339(since_ms), until=rfc3339(until_ms), was=side(all_was, ends_ms, since_ms, until_ms),
        would_be=side(all_would, ends_ms, since_ms, until_ms), schedules=told, lengths_known=lengths[0], lengths_usual=lengths[1],
        lengths_unknown=lengths[2], away_seconds=sum(end - begin for begin, end in away) / 1000,
    )


def _known(db: duckdb.DuckDBPyConnection, question: WhatIfQuestion) -> dict[str, _Known]:
    """Return what the log says of each schedule that is asked about, by name. Raises NoAnswer, TooMany."""
    given = {"names": list(question.schedules), "since_ms": question.since_ms, "until_ms": question.until_ms}
    known: defaultdict[str, _Known] = defaultdict(_Known)
    for seq, subject, time_ms, body in _rows(db, "what_if_changes.sql", {"names": given["names"]}):
        event = codec.decode(body.encode(), seq=seq, subject=subject, time_ms=time_ms)
        known[getattr(event.data, "name", "")].changes.append(event)
    for name in question.schedules:
        if name not in known:
            raise NoAnswer(404, "schedule-not-found", f"no schedule was ever named {name[:100]!r}", "/schedules")
    if len(known) > limits.WHAT_IF_SCHEDULES_MAX:
        raise NoAnswer(422, "too-far", f"there were {len(known)} schedules: name at most {limits.WHAT_IF_SCHEDULES_MAX} of them")
    rows = _rows(db, "what_if_ticks.sql", {**given, "limit": limits.WHAT_IF_TICKS_MAX + 1})
    if len(rows) > limits.WHAT_IF_TICKS_MAX:
        raise TooMany
    for name, nominal_ms, until_ms, count, outcome, reason, task_id, backfill_seq, at_ms, begun_ms, ended_ms, ended in rows:
        tick = TickDecision(
            name=name, outcome=outcome, nominal_ms=nominal_ms, until_ms=until_ms or 0, count=count, reason=reason,
            task_id=task_id or "", backfill_seq=backfill_seq or 0,
        )
        known[name].was.append(Decided(tick, at_ms, ended_ms or 0))
        if ended_ms and ended != _NOT_A_LENGTH:
            known[name].lengths_ms[nominal_ms] = ended_ms - begun_ms
    for name, task_id, ended_ms in _rows(db, "what_if_open.sql", {"names": given["names"], "since_ms": question.since_ms}):
        known[name].open_until_ms[task_id] = ended_ms or question.until_ms
    return dict(sorted(known.items()))


def _rows(db: duckdb.DuckDBPyConnection, name: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    return db.execute(question_sql(name), parameters).fetchall()


def _away(db: duckdb.DuckDBPyConnection, since_ms: int, until_ms: int) -> list[Span]:
    """Return when no scheduler was there: from the time at which a tick was due until it was looked at too late."""
    spans: list[Span] = []
    for begin_ms, end_ms in _rows(db, "what_if_away.sql", {"since_ms": since_ms, "until_ms": until_ms}):
        if spans and begin_ms <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end_ms))
        elif end_ms > begin_ms:
            spans.append((begin_ms, end_ms))
    return spans


def _usual(db: duckdb.DuckDBPyConnection, known: dict[str, _Known]) -> dict[str, int]:
    """Return how long runs usually take, by schedule: as those of the period, else as any of the same definition."""
    found = {name: round(statistics.median(one.lengths_ms.values())) for name, one in known.items() if one.lengths_ms}
    others = {name: one.definition for name, one in known.items() if name not in found}
    if others:
        medians = dict(_rows(db, "what_if_usual.sql", {"definitions": sorted(set(others.values()))}))
        found |= {name: round(medians[definition]) for name, definition in others.items() if definition in medians}
    return found
