"""When a rule means: the times of its ticks, in order. The one engine that fires, previews and backfills.

A wall clock is cut where its offset from UTC changes. Within a piece, wall time is UTC plus a constant, so the
pattern (read by cronsim, with the semantics of Debian's cron) is stepped through as plain numbers; what happens at
the cuts, a time that does not exist or comes twice, is the policy's to say. An interval is a fixed grid: neither
restarts nor daylight saving time shift it.
"""

from __future__ import annotations

import collections
import copy
import datetime as dt
import functools
import itertools
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from fleetlog_schemas.schedule_events import DAY_MS, Rule

WORDS = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}
"""Words that stand for a pattern, as in Vixie's cron; `@reboot` means nothing here."""
CRON_CHARACTERS_MAX = 200
INTERVAL_MS_MIN = 1_000
LOOK_AHEAD_MS = 50 * 366 * DAY_MS
"""A pattern that names no day in fifty years names none: 29 February on a given weekday comes within forty."""
LATEST_MS = 253_370_764_800_000
"""The year 9999: where calendars end."""
_EPOCH = dt.datetime(1970, 1, 1)
"""Without a zone: it is where wall clocks are counted from."""


class RuleError(ValueError):
    """A rule that cannot be. `pointer` (RFC 6901) names the field."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.message = message


class Tick(msgspec.Struct, frozen=True):
    """One time that a rule names."""

    at_ms: int
    note: str = ""
    """What the change of the clocks did to it, for people."""


class _Change(msgspec.Struct, frozen=True):
    """A moment at which a wall clock is moved."""

    at_ms: int
    before_ms: int
    """Offset from UTC until then."""
    after_ms: int


def pattern(cron: str) -> str:
    """Return the fields of a cron expression, words such as `@daily` written out.

    Raises:
        RuleError: it is none.
    """
    text = " ".join(cron.split())
    if len(text) > CRON_CHARACTERS_MAX:
        raise RuleError("/cron", f"longer than {CRON_CHARACTERS_MAX} characters")
    if text.startswith("@"):
        word = WORDS.get(text.lower())
        if word is None:
            raise RuleError("/cron", f"{text[:40]!r} is not one of {', '.join(WORDS)}")
        return word
    try:
        CronSim(text, _EPOCH)
    except (CronSimError, ValueError, OverflowError) as error:
        raise RuleError(
            "/cron", f"{text[:60]!r} is no cron expression ({error}): minute hour day month weekday, as in '30 2 * * mon-fri'"
        ) from None
    return text


def check_times(rule: Rule) -> None:
    """Check that a rule's times make sense.

    Raises:
        RuleError: the first rule that is broken.
    """
    for field in ("begins_ms", "ends_ms"):
        if not 0 <= getattr(rule, field) <= LATEST_MS:
            raise RuleError(f"/{field}", "must be Unix milliseconds before the year 9999")
    if rule.ends_ms and rule.ends_ms < rule.begins_ms:
        raise RuleError("/ends_ms", "it ends before it begins")
    if rule.kind == "cron":
        pattern(rule.cron)
        zone_of(rule.zone)
    elif rule.cron:
        raise RuleError("/cron", f"only a schedule of kind cron has a cron expression, not one of kind {rule.kind}")
    if rule.kind == "interval":
        if not INTERVAL_MS_MIN <= rule.interval_ms <= LOOK_AHEAD_MS:
            raise RuleError("/interval_ms", f"must be between {INTERVAL_MS_MIN} (a second) and {LOOK_AHEAD_MS} (fifty years)")
    elif rule.interval_ms:
        raise RuleError("/interval_ms", f"only a schedule of kind interval has one, not one of kind {rule.kind}")
    if rule.kind == "once" and not rule.begins_ms:
        raise RuleError("/begins_ms", "say when it is to run once")


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone. Raises RuleError."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise RuleError("/zone", f"not a time zone: {name[:60]!r}; write one like Europe/Berlin or UTC") from None


def ticks(rule: Rule, after_ms: int, until_ms: int) -> Iterator[Tick]:
    """Yield the ticks of a rule later than *after_ms* and not later than *until_ms*, in order.

    Raises:
        RuleError: the rule's expression or zone is wrong.
    """
    after_ms = max(after_ms, rule.begins_ms - 1)
    until_ms = min(until_ms, rule.ends_ms or LATEST_MS, LATEST_MS)
    if until_ms <= after_ms:
        return
    match rule.kind:
        case "once":
            if rule.begins_ms > after_ms:
                yield Tick(rule.begins_ms)
        case "interval":
            first = after_ms + 1 + (rule.begins_ms - after_ms - 1) % rule.interval_ms
            yield from map(Tick, range(first, until_ms + 1, rule.interval_ms))
        case "cron":
            yield from _cron_ticks(rule, after_ms, until_ms)


def next_tick(rule: Rule, after_ms: int) -> Tick | None:
    """Return the first tick later than *after_ms*; None when there is none in fifty years."""
    return next(ticks(rule, after_ms, min(after_ms, LATEST_MS) + LOOK_AHEAD_MS), None)


def last_tick(rule: Rule, after_ms: int, until_ms: int) -> Tick | None:
    """Return the last tick later than *after_ms* and not later than *until_ms*, without going through all of them."""
    span_ms = 60_000
    while True:
        begin_ms = max(after_ms, until_ms - span_ms)
        newest = collections.deque(ticks(rule, begin_ms, until_ms), maxlen=1)
        if newest or begin_ms == after_ms:
            return newest[0] if newest else None
        span_ms *= 8


def _cron_ticks(rule: Rule, after_ms: int, until_ms: int) -> Iterator[Tick]:
    text = pattern(rule.cron)
    hourly = text.split()[-4].startswith("*")
    gap = rule.policy.gap if rule.policy.gap != "auto" else "skip" if hourly else "run-after"
    fold = rule.policy.fold if rule.policy.fold != "auto" else "both" if hourly else "first"
    last_ms = after_ms
    for piece_from, piece_until, former, change in _pieces(rule.zone, after_ms, until_ms):
        for tick in _in_piece(text, gap, fold, piece_from, piece_until, former, change):
            if last_ms < tick.at_ms <= until_ms:
                last_ms = tick.at_ms
                yield tick


def _in_piece(
    text: str, gap: str, fold: str, from_ms: int, until_ms: int, former: _Change, following: _Change | None
) -> Iterator[Tick]:
    """Yield the ticks from *from_ms* until before *until_ms*, between two changes of the clock."""
    moved_ms = former.after_ms - former.before_ms
    if moved_ms > 0 and from_ms == former.at_ms and gap == "run-after":
        lost = next(_walls(text, former.at_ms + former.before_ms, former.at_ms + former.after_ms), None)
        if lost is not None:
            yield Tick(from_ms, f"{_clock(lost)} does not exist on this day: clocks go forward to {_clock(from_ms + former.after_ms)}")
    for wall_ms in _walls(text, from_ms + former.after_ms, until_ms + former.after_ms):
        at_ms = wall_ms - former.after_ms
        if moved_ms < 0 and at_ms < former.at_ms - moved_ms:
            if fold != "first":
                yield Tick(at_ms, f"{_clock(wall_ms)} comes twice on this day: the second")
        elif following is not None and following.after_ms < following.before_ms and (
            at_ms >= following.at_ms - (following.before_ms - following.after_ms)
        ):
            if fold != "second":
                yield Tick(at_ms, f"{_clock(wall_ms)} comes twice on this day: the first")
        else:
            yield Tick(at_ms)


def _walls(text: str, from_ms: int, until_ms: int) -> Iterator[int]:
    """Yield the wall times, as milliseconds, that the pattern names from *from_ms* until before *until_ms*."""
    # cronsim names what comes after a second; sub-second parts are cut off by it.
    stepper = copy.copy(_parsed(text))
    stepper.dt = _EPOCH + dt.timedelta(milliseconds=(from_ms - 1) // 1000 * 1000)
    for moment in stepper:
        wall_ms = (moment - _EPOCH) // dt.timedelta(milliseconds=1)
        if wall_ms >= until_ms:
            return
        yield wall_ms


@functools.lru_cache(maxsize=1_000)
def _parsed(text: str) -> CronSim:
    """Return a pattern that was read once; reading it costs ten times a step."""
    return CronSim(text, _EPOCH)


def _pieces(zone: str, after_ms: int, until_ms: int) -> Iterator[tuple[int, int, _Change, _Change | None]]:
    """Yield (first ms, end ms, the change before, the next change) of each piece of the time asked for."""
    first_year, last_year = _year(after_ms), _year(until_ms)
    # The change before what is asked for may reach into it: what comes twice is seen from behind.
    former = next(iter(_changes_of(zone, first_year - 1)[-1:]), None) or _Change(0, *(2 * (_offset_ms(zone, after_ms),)))
    begin_ms = after_ms + 1
    following = itertools.chain.from_iterable(_changes_of(zone, year) for year in range(first_year, last_year + 2))
    for change in following:
        if change.at_ms <= begin_ms:
            former = change
            continue
        yield begin_ms, min(change.at_ms, until_ms + 1), former, change
        begin_ms, former = change.at_ms, change
        if begin_ms > until_ms:
            return
    yield begin_ms, until_ms + 1, former, None


@functools.lru_cache(maxsize=1_000)
def _changes_of(zone: str, year: int) -> tuple[_Change, ...]:
    """Return the changes of a zone's offset within one year of UTC."""
    if not 1900 <= year < 9999:
        return ()
    # From second to second before midnight, so that a change at the turn of a year belongs to the year that it begins.
    low_ms = _ms(dt.datetime(year, 1, 1, tzinfo=dt.UTC)) - 1000
    end_ms = _ms(dt.datetime(year + 1, 1, 1, tzinfo=dt.UTC)) - 1000
    found = []
    before_ms = _offset_ms(zone, low_ms)
    while low_ms < end_ms:
        high_ms = min(low_ms + DAY_MS, end_ms)
        after_ms = _offset_ms(zone, high_ms)
        if after_ms != before_ms:
            found.append(_Change(_changed_at(zone, low_ms, high_ms), before_ms, after_ms))
        low_ms, before_ms = high_ms, after_ms
    return tuple(found)


def _changed_at(zone: str, before_ms: int, after_ms: int) -> int:
    """Return the first second with the later one of two offsets."""
    old_ms = _offset_ms(zone, before_ms)
    while after_ms - before_ms > 1000:
        middle_ms = (before_ms + after_ms) // 2000 * 1000
        if _offset_ms(zone, middle_ms) == old_ms:
            before_ms = middle_ms
        else:
            after_ms = middle_ms
    return after_ms


def _offset_ms(zone: str, at_ms: int) -> int:
    offset = dt.datetime.fromtimestamp(at_ms / 1000, zone_of(zone)).utcoffset()
    assert offset is not None
    return offset // dt.timedelta(milliseconds=1)


def _year(at_ms: int) -> int:
    return dt.datetime.fromtimestamp(min(max(at_ms, 0), LATEST_MS) / 1000, dt.UTC).year


def _ms(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1000


def _clock(wall_ms: int) -> str:
    moment = _EPOCH + dt.timedelta(milliseconds=wall_ms)
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
