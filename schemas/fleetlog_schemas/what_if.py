"""What if a schedule had had another rule: what is asked of the reporter, what it answers, and how two pasts are weighed.

Pure. A past is a list of decisions, from the ledger or from a replay of it; both are weighed alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.policy_events import Window
from fleetlog_schemas.questions import AsOf
from fleetlog_schemas.replay import Decided, Span
from fleetlog_schemas.schedule_events import Rule, TickDecision

LOAD_BUCKETS = 48
"""Parts of the period of which the load is told: half an hour of a day, and as many as a line has room for."""
_POLICY = ("misfire", "misfire_window_ms", "misfire_runs_max", "overlap", "gap", "fold", "jitter_ms", "windows")


class RuleChange(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What would have been otherwise; what is not given stays as it was."""

    cron: str = ""
    zone: str = ""
    interval_ms: int = 0
    misfire: Literal["latest", "skip", "all"] | None = None
    misfire_window_ms: int | None = None
    misfire_runs_max: int | None = None
    overlap: Literal["allow", "skip", "queue-one", "cancel-running"] | None = None
    gap: Literal["auto", "run-after", "skip"] | None = None
    fold: Literal["auto", "first", "second", "both"] | None = None
    jitter_ms: int | None = None
    windows: tuple[Window, ...] | None = None


class WhatIfQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`what-if`: replay a past period of schedules under another rule. Answer: WhatIf."""

    schedules: tuple[str, ...] = ()
    """Names; none is all."""
    since_ms: int = 0
    until_ms: int = 0
    change: RuleChange = RuleChange()


class Side(msgspec.Struct, frozen=True):
    """What became of the ticks of a period. Backfills are no ticks of it, but their runs are load."""

    fired: int
    missed: int
    skipped: int
    reasons: dict[str, int]
    """Fates with a reason, as `skipped overlap`, and how many ticks met each."""
    delay_p50_ms: int | None
    """From the time that the rule names until the task was submitted, of ticks that were fired; null: none was."""
    delay_p95_ms: int | None
    delay_max_ms: int | None
    peak: int
    """The most runs that were open at once."""
    peak_at: str | None
    busy_seconds: float
    """Of all runs together, within the period."""
    load: tuple[int, ...]
    """The most runs that were open at once in each part of the period, all of one length."""


class WhatIfSchedule(msgspec.Struct, frozen=True):
    """One of several schedules."""

    schedule: str
    was: Side
    would_be: Side


class WhatIf(msgspec.Struct, frozen=True):
    """A past as it was, and as it would have been."""

    since: str
    until: str
    was: Side
    would_be: Side
    schedules: list[WhatIfSchedule]
    lengths_known: int
    """Runs of the replay that took what the run of the same tick took."""
    lengths_usual: int
    """Runs that took what runs of the schedule usually take: the median."""
    lengths_unknown: int
    """Runs of schedules of which no run has ended: they took no time."""
    away_seconds: float
    """How long no scheduler was there, as far as ticks tell; it is away in the replay too."""


def changed(rule: Rule, change: RuleChange) -> Rule:
    """Return a rule with a change."""
    given = {name: value for name in _POLICY if (value := getattr(change, name)) is not None}
    fields: dict[str, Any] = {"policy": msgspec.structs.replace(rule.policy, **given)}
    begins_ms = 0 if rule.kind == "once" else rule.begins_ms
    if change.cron:
        fields |= {"kind": "cron", "cron": change.cron, "interval_ms": 0, "begins_ms": begins_ms}
    elif change.interval_ms:
        fields |= {"kind": "interval", "interval_ms": change.interval_ms, "cron": "", "zone": "UTC", "begins_ms": begins_ms}
    if change.zone and (change.cron or rule.kind == "cron"):
        fields["zone"] = change.zone
    return msgspec.structs.replace(rule, **fields)


def side(past: Sequence[Decided], open_until_ms: Iterable[int], since_ms: int, until_ms: int) -> Side:
    """Weigh a past; *open_until_ms* are the ends of runs that were open when it began."""
    fates: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    delays = []
    spans = [(since_ms, min(end_ms, until_ms)) for end_ms in open_until_ms]
    for one in past:
        tick = one.tick
        if tick.task_id and one.at_ms < until_ms:
            spans.append((max(one.at_ms, since_ms), min(one.ended_ms or until_ms, until_ms)))
        if tick.outcome == "queued" or tick.backfill_seq or not (count := _within(tick, since_ms, until_ms)):
            continue
        fates[tick.outcome] += count
        if tick.reason:
            reasons[f"{tick.outcome} {tick.reason}"] += count
        if tick.outcome == "fired":
            delays.append(max(0, one.at_ms - tick.nominal_ms))
    delays.sort()
    load, peak, peak_ms = _load(spans, since_ms, until_ms)
    return Side(
        fired=fates["fired"], missed=fates["missed"], skipped=fates["skipped"], reasons=dict(sorted(reasons.items())),
        delay_p50_ms=_percentile(delays, 50), delay_p95_ms=_percentile(delays, 95), delay_max_ms=_percentile(delays, 100),
        peak=peak, peak_at=rfc3339(peak_ms) if peak else None,
        busy_seconds=sum(max(0, end - begin) for begin, end in spans) / 1000, load=load,
    )


def _within(tick: TickDecision, since_ms: int, until_ms: int) -> int:
    """Return how many of an entry's ticks lie in a period; of a row that reaches out of it, as if they were even."""
    last_ms = tick.until_ms or tick.nominal_ms
    begin_ms, end_ms = max(tick.nominal_ms, since_ms + 1), min(last_ms, until_ms)
    if begin_ms > end_ms:
        return 0
    if (begin_ms, end_ms) == (tick.nominal_ms, last_ms):
        return tick.count
    step_ms = (last_ms - tick.nominal_ms) / max(1, tick.count - 1)
    return max(1, round((end_ms - begin_ms) / step_ms))


def _percentile(ordered: Sequence[int], percent: int) -> int | None:
    """Return the smallest value that so many percent do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def _load(spans: Sequence[Span], since_ms: int, until_ms: int) -> tuple[tuple[int, ...], int, int]:
    """Return the most runs at once in each part of a period, in all of it, and when that was first so."""
    moves = sorted([(begin, 1) for begin, end in spans if end > begin] + [(end, -1) for begin, end in spans if end > begin])
    found, level, peak, peak_ms, position = [], 0, 0, 0, 0
    for bucket in range(LOAD_BUCKETS):
        end_ms = since_ms + (until_ms - since_ms) * (bucket + 1) // LOAD_BUCKETS
        most = level
        while position < len(moves) and moves[position][0] < end_ms:
            at_ms, step = moves[position]
            level, position = level + step, position + 1
            if level > peak:
                peak, peak_ms = level, at_ms
            most = max(most, level)
        found.append(most)
    return tuple(found), peak, peak_ms
