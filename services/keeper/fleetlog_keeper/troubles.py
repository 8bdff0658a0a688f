"""What is wrong now, as the log has it, and which alert says so. Part of the keeper's state.

A *trouble* is one thing that is wrong with one subject: a definition whose last run ended badly, a host that is away. It
is there as long as the log says so. An *alert* is what people are told of one trouble, or of many of one kind that came
at once. Every trouble waits until an alert takes it up, so an alert can neither be lost nor be raised twice: what is
decided is compared with what is there, and what is there follows from the log.
"""

from __future__ import annotations

import base64
import hashlib
import itertools

import msgspec

from fleetlog_schemas import host_events, limits
from fleetlog_schemas import hosts as host_rules
from fleetlog_schemas.alert_events import AlertAcknowledged, Kind, RaisedAlert
from fleetlog_schemas.codec import Event

REPORTS_QUIET_MS = 3_600_000
"""So long after the last refused report of a host the alert about them is over."""
LASTING: tuple[Kind, ...] = ("task-failed", "schedule-missed", "host-gone", "host-refused", "webhook-disabled")
"""Kinds whose end is an event of the log; the others end when time has passed."""


class Trouble(msgspec.Struct):
    """One thing that is wrong with one subject."""

    since_ms: int
    seq: int
    """The event that it follows from."""
    name: str
    """The subject for people."""
    detail: str
    times: int = 0
    """How often it happened again."""
    task_id: str = ""
    definition: str = ""
    tags: tuple[str, ...] = ()
    host_ids: tuple[str, ...] = ()


class Alert(msgspec.Struct):
    """An alert, open or resolved."""

    raised: RaisedAlert
    seq: int
    raised_ms: int
    members: dict[str, Trouble] = {}
    """What of it still is so, by subject."""
    told: Trouble | None = None
    """The newest trouble of it."""
    definitions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    host_ids: tuple[str, ...] = ()
    """What filters of webhooks compare, when it was raised."""
    acknowledged_ms: int = 0
    acknowledged_by: str = ""
    reason: str = ""
    resolved_ms: int = 0


class Troubles(msgspec.Struct):
    """Everything that is wrong, and every alert."""

    hosts: host_rules.Hosts = msgspec.field(default_factory=host_rules.Hosts)
    """Without their facts."""
    waiting: dict[Kind, dict[str, Trouble]] = {}
    """Troubles that no alert has taken up yet, by kind and subject."""
    open: dict[str, Alert] = {}
    alert_of: dict[Kind, dict[str, str]] = {}
    """Which open alert has a subject of this kind."""
    resolved: list[Alert] = []
    """The newest last."""

    def put(self, kind: Kind, subject: str, trouble: Trouble) -> None:
        """Note that something is wrong; that it is so again, when it was already."""
        alert = self.open.get(self.alert_of.get(kind, {}).get(subject, ""))
        there = alert.members if alert is not None else self.waiting.setdefault(kind, {})
        before = there.get(subject)
        if before is not None:
            trouble.since_ms, trouble.seq, trouble.times = before.since_ms, before.seq, before.times + 1
        there[subject] = trouble
        if alert is not None:
            alert.told = trouble

    def has(self, kind: Kind, subject: str) -> bool:
        """Tell whether this is wrong."""
        return subject in self.waiting.get(kind, {}) or subject in self.alert_of.get(kind, {})

    def clear(self, kind: Kind, subject: str) -> None:
        """Note that something is not wrong, or no more."""
        self.waiting.get(kind, {}).pop(subject, None)
        alert_id = self.alert_of.get(kind, {}).pop(subject, None)
        if alert_id is not None:
            self.open[alert_id].members.pop(subject, None)


def new_alert_id(troubles: Troubles, kind: Kind, subject: str, seq: int) -> str:
    """Return the id of a new alert: it follows from the kind, the first subject, what the trouble follows from, and the state.

    A trouble that is still there after its alert was resolved gets an alert of another id.
    """
    known = {*troubles.open, *(former.raised.alert_id for former in troubles.resolved)}
    return next(one for again in itertools.count() if (one := _id_of(f"{kind}\0{subject}\0{seq}\0{again}")) not in known)


def _id_of(text: str) -> str:
    return "a" + base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:15]


def raised(troubles: Troubles, event: Event, one: RaisedAlert) -> Alert | None:
    """Fold the raising of an alert and return it; None when it is known already.

    One whose troubles ended between decision and log is open without any, and is resolved next.
    """
    if one.alert_id in troubles.open or any(former.raised.alert_id == one.alert_id for former in troubles.resolved):
        return None
    alert = Alert(raised=one, seq=event.seq, raised_ms=event.time_ms)
    waiting = troubles.waiting.get(one.kind, {})
    if one.kind == "scheduler-silent":
        # No event says it: nothing came where something should have.
        waiting = {one.subjects[0]: Trouble(one.since_ms, event.seq, one.names[0], one.message)}
    named = one.subjects if one.count <= len(one.subjects) else tuple(waiting)
    for subject in named:
        trouble = waiting.get(subject)
        if trouble is not None and trouble.since_ms <= one.through_ms:
            alert.members[subject] = waiting.pop(subject)
            troubles.alert_of.setdefault(one.kind, {})[subject] = one.alert_id
            alert.told = trouble
    found = alert.members.values()
    alert.definitions = tuple(dict.fromkeys(t.definition for t in found if t.definition))
    alert.tags = tuple(dict.fromkeys(tag for t in found for tag in t.tags))
    alert.host_ids = tuple(dict.fromkeys(host_id for t in found for host_id in t.host_ids))
    troubles.open[one.alert_id] = alert
    return alert


def resolved(troubles: Troubles, event: Event, alert_id: str) -> Alert | None:
    """Fold the resolving of an alert and return it; None when it is not open.

    What came to be wrong between decision and log waits for an alert of its own.
    """
    alert = troubles.open.pop(alert_id, None)
    if alert is None:
        return None
    kind = alert.raised.kind
    for subject, trouble in alert.members.items():
        troubles.alert_of[kind].pop(subject, None)
        if kind in LASTING or (kind == "reports-refused" and trouble.since_ms + REPORTS_QUIET_MS > event.time_ms):
            troubles.waiting.setdefault(kind, {})[subject] = trouble
    alert.members, alert.resolved_ms = {}, event.time_ms
    troubles.resolved.append(alert)
    del troubles.resolved[: -limits.ALERTS_RESOLVED_MAX]
    return alert


def acknowledged(troubles: Troubles, event: Event, data: AlertAcknowledged) -> None:
    """Fold a person's word."""
    alert = troubles.open.get(data.alert_id)
    if alert is not None:
        alert.acknowledged_ms, alert.acknowledged_by, alert.reason = event.time_ms, event.authid or "", data.reason


# --- hosts ---


def fold_hosts(troubles: Troubles, event: Event) -> None:
    """Fold what an event says of hosts into what is wrong with them."""
    for host_id in host_rules.apply(troubles.hosts, event):
        host = troubles.hosts.by_id[host_id]
        _gone(troubles, host, event)
        if host.blocked is None or host.revoked:
            troubles.clear("host-refused", host_id)
        elif isinstance(event.data, host_events.SessionsRefused):
            detail = f"is refused: {host.blocked.message}"[: limits.REASON_BYTES_MAX]
            troubles.put("host-refused", host_id, _of(host, host.presence_ms, event.seq, detail))
        if isinstance(event.data, host_events.ReportsRefused):
            trouble = _of(host, event.time_ms, event.seq, host.refusals[-1].message)
            troubles.put("reports-refused", host_id, trouble)
            trouble.since_ms = event.time_ms  # it is over when it has not happened again for a while


def _gone(troubles: Troubles, host: host_rules.Host, event: Event) -> None:
    # One that was never online has not joined yet.
    away = bool(host.presence_ms) and not (host.online or host.revoked or host.blocked or host.maintenance)
    if not away:
        troubles.clear("host-gone", host.host_id)
    elif not troubles.has("host-gone", host.host_id):
        detail = "said goodbye and is not back" if host.offline_reason == "goodbye" else "is silent"
        troubles.put("host-gone", host.host_id, _of(host, event.time_ms, event.seq, detail))


def _of(host: host_rules.Host, since_ms: int, seq: int, detail: str) -> Trouble:
    return Trouble(since_ms=since_ms, seq=seq, name=host.name, detail=detail, host_ids=(host.host_id,))
