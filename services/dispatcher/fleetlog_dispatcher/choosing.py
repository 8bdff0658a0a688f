"""Run on some of the hosts that a target means: which ones. Pure.

Hosts that can take work now go before those that cannot: a busy or absent host is passed over while there is another.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from fleetlog_dispatcher.gates import room_now
from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.state import State
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.spec import Choose

Standing = tuple[bool, float, int, str]
"""Whether it cannot take work, how busy it is, a tie-break, its name: the smaller is taken first."""


def choose(
    settings: DispatcherSettings, state: State, live: Live, rule: Choose, hosts: list[Host], seed: str, now_ms: int
) -> list[Host]:
    """Return the hosts that *rule* takes of *hosts*, by name; fewer than asked for when there are not as many.

    *seed* decides among equals, and everything where any host will do: a task's id, so that tasks differ.
    """
    if rule.by in ("load", "random") and len(hosts) <= rule.count:
        return sorted(hosts, key=lambda host: (host.name, host.host_id))
    standings = {host.host_id: _standing(settings, state, live, rule, host, seed, now_ms) for host in hosts}
    ordered = sorted(hosts, key=lambda host: standings[host.host_id])
    if rule.by in ("load", "random"):
        chosen = ordered[: rule.count]
    else:
        groups: dict[str, list[Host]] = {}
        for host in ordered:
            if rule.label in host.labels:
                groups.setdefault(host.labels[rule.label], []).append(host)
        if rule.by == "each":
            chosen = [host for group in groups.values() for host in group[: rule.count]]
        else:
            chosen = [host for _, host in zip(range(rule.count), _in_turns(groups), strict=False)]
    return sorted(chosen, key=lambda host: (host.name, host.host_id))


def _in_turns(groups: dict[str, list[Host]]) -> Iterator[Host]:
    """Yield one host of each group, then a second of each, and so on."""
    for turn in range(max(map(len, groups.values()), default=0)):
        yield from (group[turn] for group in groups.values() if turn < len(group))


def _standing(
    settings: DispatcherSettings, state: State, live: Live, rule: Choose, host: Host, seed: str, now_ms: int
) -> Standing:
    room = room_now(settings, state, live, host.host_id, now_ms)
    closed = host.host_id in live.closed
    presence = live.presence.get(host.host_id)
    load = presence.load if presence else None
    busy = (load.cpu_ratio + load.memory_ratio if load else 0.0) + len(live.flights.get(host.host_id, ()))
    chance = zlib.crc32(f"{seed}/{host.host_id}".encode())
    return not room.any or closed, 0.0 if rule.by == "random" else busy, chance, host.name
