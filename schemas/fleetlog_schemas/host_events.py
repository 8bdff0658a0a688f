"""The stored events of hosts: who may be one, who is connected, what each is made of, and what was refused.

Part of the format that `events.py` begins, by the same rules. Who may be a host stands on `evt.access`, what people say of
hosts on `evt.host`; sessions and presence are decided by the dispatcher.
"""

from __future__ import annotations

from fleetlog_schemas.events import ACCESS, DISPATCH, HOST, RESULT, AttemptKey, Data, event


class Session(Data, frozen=True):
    """One accepted connection of one host."""

    host_id: str
    epoch: int
    nonce: str
    boot_id: str
    version: str
    counter: int
    """The journal counter that the host showed."""
    asked_ms: int = 0
    """By the host's boot clock."""
    shown_epoch: int = 0
    """The session whose ticket was shown; 0: none was asked for, or it is not known."""


@event("fleetlog.host.session-opened.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class SessionsOpened(Data, frozen=True):
    """Hosts whose ticket fits; the ticket of each is a keyed hash over this event's sequence."""

    sessions: tuple[Session, ...]


class SessionRefusal(Data, frozen=True):
    """Why a host was not let in: `ticket`, `counter` (a copied key, a machine set back), or `restored` (an older log)."""

    host_id: str
    code: str
    message: str


@event("fleetlog.host.session-refused.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class SessionsRefused(Data, frozen=True):
    """These hosts get nothing until a person accepts them again."""

    hosts: tuple[SessionRefusal, ...]


class HostEpoch(Data, frozen=True):
    """A host and the session that is meant."""

    host_id: str
    epoch: int


@event("fleetlog.host.online.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class HostsOnline(Data, frozen=True):
    """The first heartbeat of these sessions came, or one after silence: the ticket is used."""

    hosts: tuple[HostEpoch, ...]


@event("fleetlog.host.offline.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class HostsOffline(Data, frozen=True):
    """These hosts said goodbye or were silent for too long."""

    hosts: tuple[HostEpoch, ...]
    reason: str = ""
    """`goodbye` or `silent`."""


@event("fleetlog.host.facts-changed.v1", RESULT, "result-recorder", "dispatcher", "reporter")
class FactsChanged(Data, frozen=True):
    """What a host is made of, as its agent found it."""

    host_id: str
    facts: dict[str, str | int | float | bool]


@event("fleetlog.host.labelled.v1", HOST, "gateway", "dispatcher", "reporter")
class HostLabelled(Data, frozen=True):
    """Labels of a host were set (a value) or removed (null)."""

    host_id: str
    labels: dict[str, str | None]


@event("fleetlog.host.maintenance-set.v1", HOST, "gateway", "dispatcher", "reporter")
class MaintenanceSet(Data, frozen=True):
    """A host was taken out of work, or given back. What runs goes on; nothing new is dispatched."""

    host_id: str
    on: bool
    reason: str = ""


@event("fleetlog.host.accepted.v1", HOST, "gateway", "dispatcher", "reporter")
class HostAccepted(Data, frozen=True):
    """A person looked at a refused host and lets it in again: its next session starts from nothing."""

    host_id: str
    reason: str = ""


@event("fleetlog.report.refused.v1", RESULT, "result-recorder", "dispatcher", "reporter")
class ReportsRefused(Data, frozen=True):
    """One host's reports that failed verification within one minute."""

    host_id: str
    minute: int
    """Unix minutes."""
    counts: dict[str, int]
    """How many, by reason: token, size, form, kind."""
    attempts: tuple[AttemptKey, ...] = ()
    """Which, as far as it could be read; at most 100."""


@event("fleetlog.access.host-invited.v1", ACCESS, "gateway", "dispatcher", "reporter", "gateway")
class HostInvited(Data, frozen=True):
    """A one-time join token was made. Only its hash is kept."""

    token_sha256: str
    name: str
    labels: dict[str, str]
    expires_ms: int


@event("fleetlog.access.host-enrolled.v1", ACCESS, "gateway", "dispatcher", "reporter", "gateway")
class HostEnrolled(Data, frozen=True):
    """A host made its key and spent its token. The host id is derived from the key: identity is the key."""

    host_id: str
    name: str
    labels: dict[str, str]
    public_key: str
    token_sha256: str = ""


@event("fleetlog.access.host-revoked.v1", ACCESS, "gateway", "dispatcher", "reporter", "gateway")
class HostRevoked(Data, frozen=True):
    """A host's key is refused from here on."""

    host_id: str
    public_key: str
    reason: str = ""


@event("fleetlog.access.refused.v1", ACCESS, "gateway", "reporter")
class AccessRefused(Data, frozen=True):
    """Requests that were refused for who asked, within one minute."""

    minute: int
    counts: dict[str, int]
    """How many, by reason."""
