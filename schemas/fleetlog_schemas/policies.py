"""What narrows admission beyond single tasks: freezes, windows, limits of queues. One fold for every reader.

A freeze stops admission until it is thawed. A host that a maintenance window means gets work only while one of its
windows is open; a blackout is the opposite. Windows recur by the wall clock of their own time zone, so that they
stay where people expect them across a change of daylight saving time.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import msgspec

from fleetlog_schemas import policy_events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.targets import Directory, TargetError

MINUTES_MAX = 7 * 24 * 60
"""Longest a window lasts: it recurs every week."""
_LOOK_DAYS = 8
"""A window that began more than a week ago is over, and each begins again within one."""
_BEGINS = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


class PolicyError(ValueError):
    """A window that cannot be. `pointer` (RFC 6901) names the field."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.message = message


class Freeze(msgspec.Struct, frozen=True):
    """A freeze that is in force."""

    freeze_id: str
    target: str
    reason: str
    by: str
    since_ms: int


class NamedWindow(msgspec.Struct, frozen=True):
    """A window that is in force."""

    name: str
    window: policy_events.Window
    reason: str
    by: str
    since_ms: int


class Policies(msgspec.Struct):
    """Everything that narrows admission now."""

    freezes: dict[str, Freeze] = {}
    windows: dict[str, NamedWindow] = {}
    queues: dict[str, int] = {}
    """Commands in flight at most, by queue; a queue without a limit is not here."""


class Closed(msgspec.Struct, frozen=True):
    """Why nothing may be dispatched to a host now."""

    reason: str
    """`freeze` or `window`."""
    message: str


def apply(policies: Policies, event: Event) -> bool:
    """Fold one event and tell whether it changed anything."""
    match event.data:
        case policy_events.FleetFrozen(freeze_id=freeze_id, target=target, reason=reason):
            if freeze_id in policies.freezes:
                return False
            policies.freezes[freeze_id] = Freeze(freeze_id, target, reason, event.authid or "", event.time_ms)
        case policy_events.FleetThawed(freeze_id=freeze_id):
            return policies.freezes.pop(freeze_id, None) is not None
        case policy_events.WindowSet(name=name, window=window, reason=reason):
            policies.windows[name] = NamedWindow(name, window, reason, event.authid or "", event.time_ms)
        case policy_events.WindowRemoved(name=name):
            return policies.windows.pop(name, None) is not None
        case policy_events.QueueLimited(queue=queue, in_flight_max=in_flight_max):
            if in_flight_max:
                policies.queues[queue] = in_flight_max
            else:
                return policies.queues.pop(queue, None) is not None
        case _:
            return False
    return True


def check_window(window: policy_events.Window) -> None:
    """Check what types cannot express; the target is checked by whoever knows the hosts.

    Raises:
        PolicyError: the first rule that is broken.
    """
    if not window.days or not all(0 <= day <= 6 for day in window.days):
        raise PolicyError("/days", "name the days on which it begins: 0 (Monday) to 6 (Sunday)")
    if not _BEGINS.fullmatch(window.begins):
        raise PolicyError("/begins", f"HH:MM, not {window.begins[:20]!r}")
    if not 1 <= window.lasts_minutes <= MINUTES_MAX:
        raise PolicyError("/lasts_minutes", f"must be between 1 and {MINUTES_MAX}, not {window.lasts_minutes}")
    try:
        ZoneInfo(window.zone)
    except (OSError, ValueError, KeyError):
        raise PolicyError("/zone", f"not a time zone: {window.zone[:60]!r}; write one like Europe/Berlin or UTC") from None


def _beginnings_ms(window: policy_events.Window, now_ms: int) -> Iterator[int]:
    """Yield when the window begins from a week before now until a week after it, in order."""
    zone = ZoneInfo(window.zone)
    hour, minute = map(int, window.begins.split(":"))
    today = dt.datetime.fromtimestamp(now_ms / 1000, zone).date()
    for offset in range(-_LOOK_DAYS, _LOOK_DAYS + 1):
        day = today + dt.timedelta(days=offset)
        if day.weekday() in window.days:
            moment = dt.datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            yield round(moment.timestamp() * 1000)


def open_until_ms(window: policy_events.Window, now_ms: int) -> int:
    """Return until when the window is open; 0 when it is not."""
    lasts_ms = window.lasts_minutes * 60_000
    ends = [at_ms + lasts_ms for at_ms in _beginnings_ms(window, now_ms) if at_ms <= now_ms < at_ms + lasts_ms]
    return max(ends, default=0)


def opens_ms(window: policy_events.Window, now_ms: int) -> int:
    """Return when the window begins next; 0 when it never does."""
    return next((at_ms for at_ms in _beginnings_ms(window, now_ms) if at_ms > now_ms), 0)


def closed_hosts(policies: Policies, hosts: Directory, now_ms: int) -> dict[str, Closed]:
    """Return the hosts to which nothing may be dispatched now, and why: a freeze before a window."""
    closed: dict[str, Closed] = {}
    for freeze in policies.freezes.values():
        text = f"frozen by {freeze.by or 'nobody named'}: {freeze.reason or 'no reason given'}"
        for host in meant(freeze.target, hosts):
            closed.setdefault(host.host_id, Closed("freeze", text))
    for host_id, window_text in _outside_windows(policies, hosts, now_ms).items():
        closed.setdefault(host_id, Closed("window", window_text))
    return closed


def meant(target: str, hosts: Directory) -> list[Host]:
    """Return the hosts that the target of a policy means now."""
    try:
        return hosts.resolve(target, lenient=True)
    except TargetError:
        return list(hosts.by_id.values())  # what cannot be read stands for every host: a rule that narrows fails closed


def _outside_windows(policies: Policies, hosts: Directory, now_ms: int) -> dict[str, str]:
    """Return the hosts that are outside their maintenance windows, or in a blackout, with a text."""
    inside: set[str] = set()
    outside: dict[str, str] = {}
    for named in policies.windows.values():
        window = named.window
        is_open = bool(open_until_ms(window, now_ms))
        for host in meant(window.target, hosts):
            if window.kind == "blackout":
                if is_open:
                    outside[host.host_id] = f"in the blackout {named.name}"
            elif is_open:
                inside.add(host.host_id)
            else:
                outside.setdefault(host.host_id, f"outside its maintenance window {named.name}")
    in_blackout = {host_id for host_id, text in outside.items() if text.startswith("in the blackout")}
    return {host_id: text for host_id, text in outside.items() if host_id in in_blackout or host_id not in inside}
