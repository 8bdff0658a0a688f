"""Hosts as the log knows them: identity, labels, sessions, presence, refusals. One fold for every reader.

A host's *ticket* proves that it is the one the log last spoke with; this file keeps what a ticket is checked
against, and the dispatcher does the checking. A host that showed a wrong one is `blocked` until a person
accepts it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fleetlog_schemas import events, host_events
from fleetlog_schemas.codec import Event

REFUSALS_PER_HOST_MAX = 20
"""Newest refusals kept in memory for each host; all of them are in the log."""


class HostRefusal(msgspec.Struct, frozen=True):
    """Something about a host that a person should look at."""

    time_ms: int
    code: str
    message: str


class Host(msgspec.Struct):
    """One enrolled host."""

    host_id: str
    name: str
    public_key: str
    labels: dict[str, str] = {}
    enrolled_ms: int = 0
    revoked: bool = False
    maintenance: bool = False
    maintenance_reason: str = ""
    blocked: host_events.SessionRefusal | None = None
    fresh: bool = True
    """Its next session starts from nothing: no ticket is asked for (newly enrolled, or accepted again)."""
    epoch: int = 0
    session_seq: int = 0
    previous_epoch: int = 0
    previous_seq: int = 0
    ticket_used: bool = False
    """The current session's ticket was used, so the previous one no longer opens anything."""
    nonce: str = ""
    previous_nonce: str = ""
    """Of the request behind the session before: one that comes late, also from an earlier boot, is known by it."""
    boot_id: str = ""
    asked_ms: int = 0
    """When the current session was asked for, by the host's boot clock."""
    version: str = ""
    counter: int = 0
    """The highest journal counter that the log has seen."""
    online: bool = False
    presence_ms: int = 0
    """When it last went online or offline, by the log."""
    offline_reason: str = ""
    facts: dict[str, str | int | float | bool] = {}
    refusals: list[HostRefusal] = []

    @property
    def presence(self) -> str:
        """`revoked`, `refused`, `online`, `offline` or `joined` (enrolled and never seen)."""
        if self.revoked:
            return "revoked"
        if self.blocked:
            return "refused"
        if self.online:
            return "online"
        return "offline" if self.epoch else "joined"


class Hosts(msgspec.Struct):
    """Every host that was ever enrolled."""

    by_id: dict[str, Host] = {}

    def named(self, name: str) -> Host | None:
        """Return the unrevoked host of that name or id."""
        host = self.by_id.get(name)
        if host is not None:
            return host
        return next((host for host in self.by_id.values() if host.name == name and not host.revoked), None)


def apply(hosts: Hosts, event: Event) -> list[str]:
    """Fold one event and return the ids of the hosts that it changed."""
    data = event.data
    match data:
        case host_events.HostEnrolled():
            return _enrolled(hosts, event, data)
        case host_events.HostRevoked():
            return _set(hosts, data.host_id, revoked=True, online=False, presence_ms=event.time_ms)
        case host_events.HostLabelled():
            return _labelled(hosts, data)
        case host_events.MaintenanceSet():
            return _set(hosts, data.host_id, maintenance=data.on, maintenance_reason=data.reason if data.on else "")
        case host_events.HostAccepted():
            return _set(hosts, data.host_id, blocked=None, fresh=True, counter=0)
        case host_events.SessionsOpened(sessions=sessions):
            return [host_id for session in sessions for host_id in _opened(hosts, event, session)]
        case host_events.SessionsRefused(hosts=refusals):
            return [host_id for one in refusals for host_id in _session_refused(hosts, event, one)]
        case host_events.HostsOnline(hosts=epochs):
            return [host_id for one in epochs for host_id in _online(hosts, event, one)]
        case host_events.HostsOffline(hosts=epochs, reason=reason):
            return [host_id for one in epochs for host_id in _offline(hosts, event, one, reason)]
        case host_events.FactsChanged():
            return _set(hosts, data.host_id, facts=data.facts)
        case events.AttemptsStarted(counters=counters) | events.AttemptsEnded(counters=counters):
            _raise_counters(hosts, counters)
            return []
        case host_events.ReportsRefused():
            return _reports_refused(hosts, event, data)
        case _:
            return []


def _set(hosts: Hosts, host_id: str, **fields: object) -> list[str]:
    host = hosts.by_id.get(host_id)
    if host is None:
        return []
    for name, value in fields.items():
        setattr(host, name, value)
    return [host_id]


def _enrolled(hosts: Hosts, event: Event, data: host_events.HostEnrolled) -> list[str]:
    known = hosts.by_id.get(data.host_id)
    if known is not None and not known.revoked:
        return []
    hosts.by_id[data.host_id] = Host(
        host_id=data.host_id, name=data.name, public_key=data.public_key, labels=dict(data.labels),
        enrolled_ms=event.time_ms, epoch=known.epoch if known else 0,
    )
    return [data.host_id]


def _labelled(hosts: Hosts, data: host_events.HostLabelled) -> list[str]:
    host = hosts.by_id.get(data.host_id)
    if host is None:
        return []
    merged: dict[str, str | None] = {**host.labels, **data.labels}
    host.labels = {key: value for key, value in merged.items() if value is not None}
    return [data.host_id]


def _opened(hosts: Hosts, event: Event, session: host_events.Session) -> list[str]:
    host = hosts.by_id.get(session.host_id)
    if host is None or session.epoch != host.epoch + 1:
        return []
    # While the current ticket is unused its predecessor stays good, or a lost answer would lock the host out.
    # Who shows the current ticket has it, so it becomes the predecessor, also when no heartbeat of its session was heard.
    if host.ticket_used or host.fresh or session.shown_epoch == host.epoch:
        host.previous_epoch, host.previous_seq = host.epoch, host.session_seq
    host.epoch, host.session_seq, host.ticket_used = session.epoch, event.seq, False
    host.fresh = False
    host.previous_nonce = host.nonce
    host.nonce, host.boot_id, host.version = session.nonce, session.boot_id, session.version
    host.asked_ms = session.asked_ms
    host.counter = max(host.counter, session.counter)
    return [session.host_id]


def _session_refused(hosts: Hosts, event: Event, refusal: host_events.SessionRefusal) -> list[str]:
    host = hosts.by_id.get(refusal.host_id)
    if host is None:
        return []
    host.blocked = refusal
    host.online = False
    host.presence_ms = event.time_ms
    _refused(host, event, f"session-{refusal.code}", refusal.message)
    return [refusal.host_id]


def _online(hosts: Hosts, event: Event, one: host_events.HostEpoch) -> list[str]:
    host = hosts.by_id.get(one.host_id)
    if host is None or host.epoch != one.epoch or host.revoked or host.blocked:
        return []
    host.ticket_used = True
    host.fresh = False  # accepted again while its session was open: that session's ticket is asked for next
    if not host.online:
        host.online, host.presence_ms, host.offline_reason = True, event.time_ms, ""
    return [one.host_id]


def _offline(hosts: Hosts, event: Event, one: host_events.HostEpoch, reason: str) -> list[str]:
    host = hosts.by_id.get(one.host_id)
    if host is None or host.epoch != one.epoch or not host.online:
        return []
    host.online, host.presence_ms, host.offline_reason = False, event.time_ms, reason
    return [one.host_id]


def _raise_counters(hosts: Hosts, counters: Mapping[str, int]) -> None:
    for host_id, counter in counters.items():
        host = hosts.by_id.get(host_id)
        if host is not None and counter > host.counter and not host.fresh:
            host.counter = counter


def _reports_refused(hosts: Hosts, event: Event, data: host_events.ReportsRefused) -> list[str]:
    host = hosts.by_id.get(data.host_id)
    if host is None:
        return []
    reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted(data.counts.items()))
    _refused(host, event, "reports-refused", f"reports refused in one minute: {reasons}")
    return [data.host_id]


def _refused(host: Host, event: Event, code: str, message: str) -> None:
    host.refusals.append(HostRefusal(time_ms=event.time_ms, code=code, message=message))
    del host.refusals[:-REFUSALS_PER_HOST_MAX]
