"""The stored events of policies, which narrow admission: freezes, windows, limits of queues.

Part of the format that `events.py` begins, by the same rules.
"""

from __future__ import annotations

from typing import Literal

from fleetlog_schemas.events import CATALOG, Data, event


@event("fleetlog.fleet.frozen.v1", CATALOG, "gateway", "dispatcher", "reporter", "gateway")
class FleetFrozen(Data, frozen=True):
    """Nothing more is dispatched to the hosts that the target means, until it is thawed. What runs goes on."""

    freeze_id: str
    target: str
    """As of a task; `all` for every host. Hosts that join or change labels are looked at anew."""
    reason: str


@event("fleetlog.fleet.thawed.v1", CATALOG, "gateway", "dispatcher", "reporter", "gateway")
class FleetThawed(Data, frozen=True):
    """A freeze is over."""

    freeze_id: str
    reason: str = ""


class Window(Data, frozen=True):
    """A time of the week in which hosts may get work (maintenance), or may not (blackout)."""

    kind: Literal["maintenance", "blackout"]
    target: str
    """Which hosts. A host that is meant by a maintenance window gets work only within one of them."""
    days: tuple[int, ...]
    """Days on which it begins: 0 is Monday."""
    begins: str
    """HH:MM on the wall clock of the zone."""
    lasts_minutes: int
    """Real minutes, also across a change of daylight saving time; at most a week."""
    zone: str = "UTC"
    """An IANA name."""


@event("fleetlog.window.set.v1", CATALOG, "gateway", "dispatcher", "reporter", "gateway")
class WindowSet(Data, frozen=True):
    """A window was made, or changed."""

    name: str
    window: Window
    reason: str = ""


@event("fleetlog.window.removed.v1", CATALOG, "gateway", "dispatcher", "reporter", "gateway")
class WindowRemoved(Data, frozen=True):
    """A window is no more."""

    name: str
    reason: str = ""


@event("fleetlog.queue.limited.v1", CATALOG, "gateway", "dispatcher", "reporter", "gateway")
class QueueLimited(Data, frozen=True):
    """How many commands of a queue may be in flight at once, over all tasks and hosts."""

    queue: str
    in_flight_max: int
    """0: no limit."""
    reason: str = ""
