"""How many commands a busy host takes at once: additive increase, multiplicative decrease.

As in TCP congestion control (Chiu and Jain, 1989): while a host is busy its limit is halved, and when it is not and
uses all of its limit, one is added. So the limit settles around what the host bears, whatever the commands cost. It is
never below 1, so that somebody can always look at a busy host, and never above `slots_per_host`.

Calls of functions do not run because they were dispatched: the host's workers make them one after the other. So a host
that is not busy has calls beyond its slots, as many as one worker makes while the next ones are on their way, by the
time that its last calls took: then no worker waits for us, and none of them has more to do than others could take over.
"""

from __future__ import annotations

from typing import NamedTuple

from fleetlog_dispatcher.live import Limit, Live
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.reports import Load
from fleetlog_schemas.spec import Function, TaskSpec

AHEAD_MS = 50
"""Of work for one worker is given to a host beyond its slots."""
NEWEST_SHARE = 0.25
"""Weight of the newest call in the time that calls take."""


def slots_of(settings: DispatcherSettings, live: Live, host_id: str) -> int:
    """Return how many commands a host takes at once now."""
    limit = live.limits.get(host_id)
    return settings.slots_per_host if limit is None else limit.slots


class Room(NamedTuple):
    """How much more a host takes now."""

    slots: int
    """Commands of any kind."""
    ahead: int
    """Calls of functions, beyond these."""

    @property
    def any(self) -> bool:
        """Whether it takes anything at all."""
        return self.slots > 0 or self.ahead > 0

    def fits(self, spec: TaskSpec) -> bool:
        """Tell whether a command of a task can go there."""
        return self.slots > 0 or (self.ahead > 0 and isinstance(spec.payload, Function))

    def less(self, spec: TaskSpec) -> Room:
        """Return what is left when a command of a task went there."""
        if self.ahead > 0 and isinstance(spec.payload, Function):
            return Room(self.slots, self.ahead - 1)
        return Room(self.slots - 1, self.ahead)


NO_ROOM = Room(0, 0)


def room_of(settings: DispatcherSettings, live: Live, host_id: str) -> Room:
    """Return how many more commands a host takes now, by what it has."""
    slots = slots_of(settings, live, host_id)
    free = slots - len(live.flights.get(host_id, ()))
    calls = live.calls.get(host_id)
    if calls is None or calls.took_ms is None or host_id in live.limits:
        return Room(free, 0)
    # What has ended stays with the agent for a while: all that it can hold must not be given to it.
    most = max(0, settings.calls_per_host - slots)
    if calls.took_ms * most > AHEAD_MS:
        most = int(AHEAD_MS / calls.took_ms)
    ahead = min(calls.in_flight, most)
    return Room(free + ahead, most - ahead)


def call_took(live: Live, host_id: str, duration_ms: int) -> None:
    """Take in how long a call took."""
    calls = live.calls[host_id]
    calls.took_ms = duration_ms if calls.took_ms is None else calls.took_ms + (duration_ms - calls.took_ms) * NEWEST_SHARE


def busy(settings: DispatcherSettings, host: Host, load: Load) -> str:
    """Return in words why a host counts as busy, or an empty text."""
    cpus = host.facts.get("cpu.count")
    # Of a host that has just joined nobody knows yet how much load it carries.
    if isinstance(cpus, int) and cpus > 0 and load.load_1m / cpus >= settings.busy_load_per_cpu:
        return f"load {load.load_1m:.1f} on {cpus} processors"
    if load.memory_ratio >= settings.busy_memory_ratio:
        return f"{load.memory_ratio:.0%} of its memory in use"
    return ""


def adapt(settings: DispatcherSettings, live: Live, host: Host, load: Load | None, now_ms: int) -> None:
    """Take in how busy a host says it is."""
    if load is None:
        return
    why = busy(settings, host, load)
    limit = live.limits.get(host.host_id)
    if limit is None:
        if why and settings.slots_per_host > 1:
            live.limits[host.host_id] = Limit(max(1, settings.slots_per_host // 2), now_ms, why)
        return
    flights = len(live.flights.get(host.host_id, ()))
    if now_ms - limit.changed_ms < settings.adapt_ms or (why and flights > limit.slots):
        return  # what the last change brings has not shown yet
    if why:
        limit.slots, limit.changed_ms, limit.why = max(1, limit.slots // 2), now_ms, why
    elif flights >= limit.slots or not live.queues.by_host.get(host.host_id):
        # One that nobody asks anything of recovers as well: there is nothing to learn from keeping it low.
        limit.slots, limit.changed_ms = limit.slots + 1, now_ms
    if limit.slots >= settings.slots_per_host:
        del live.limits[host.host_id]
