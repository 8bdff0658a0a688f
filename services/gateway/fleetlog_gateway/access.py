"""What this gateway decides on, as the log has it: hosts, invitations, revoked keys, definitions, webhooks, what narrows admission.

Pure. Folds `evt.access`, `evt.host`, `evt.catalog` and `evt.schedule` only, so it is quick to rebuild at start; what hosts say of their
functions stands elsewhere, and is asked for once and then read as it comes. Every append that this state decides carries the last sequence of its subject that was folded, so a decision on an older state is refused by
the bus.
"""

from __future__ import annotations

import msgspec

from fleetlog_schemas import (
    catalog,
    events,
    files,
    host_events,
    hosts,
    policies,
    schedules,
    targets,
    webhooks,
)
from fleetlog_schemas.codec import Event
from fleetlog_schemas.functions import said_of_functions

SUBJECTS = (events.ACCESS, events.HOST, events.CATALOG, events.SCHEDULE)
"""What is folded."""


class Invitation(msgspec.Struct, frozen=True):
    """A join token that was made, as its hash."""

    name: str
    labels: dict[str, str]
    expires_ms: int


class Access(msgspec.Struct):
    """The folded state."""

    hosts: hosts.Hosts = msgspec.field(default_factory=hosts.Hosts)
    invitations: dict[str, Invitation] = {}
    """By hash of the token; until it expires, also after it was used."""
    used: dict[str, str] = {}
    """Hash of a used token to the host that used it, as long as the invitation is kept."""
    revoked: dict[str, int] = {}
    """Public key to the Unix milliseconds of its revocation."""
    policies: policies.Policies = msgspec.field(default_factory=policies.Policies)
    """Freezes, windows and limits of queues that are in force."""
    definitions: catalog.Catalog = msgspec.field(default_factory=catalog.Catalog)
    """What can be run again."""
    files: files.Files = msgspec.field(default_factory=files.Files)
    """Scripts that are kept here."""
    webhooks: webhooks.Webhooks = msgspec.field(default_factory=webhooks.Webhooks)
    """Who is told of what."""
    schedules: schedules.Schedules = msgspec.field(default_factory=schedules.Schedules)
    """When what is run; of ticks only the scheduler and the reporter know."""
    directory: targets.Directory | None = None
    """The hosts, ready for targets; made anew when one was enrolled, revoked or labelled."""
    offers_known: bool = False
    """What hosts offered when this gateway began was asked for; what changed since then was read."""
    signatures: dict[tuple[object, ...], set[str]] = {}
    """What hosts say of the functions that were asked for, by function, queue and target; forgotten when a host changes."""
    last_seq: dict[str, int] = {}
    """Last sequence folded of each subject: the fence of the next append."""


def fold(access: Access, event: Event) -> None:
    """Fold one event of SUBJECTS."""
    passed(access, event.subject, event.seq)
    if event.subject == events.CATALOG:
        policies.apply(access.policies, event)
        catalog.apply(access.definitions, event)
        files.apply(access.files, event)
        webhooks.apply(access.webhooks, event)
        return
    if event.subject == events.SCHEDULE:
        schedules.apply(access.schedules, event)
        # Ticks are settled in a part of the log that is not read here, so nothing would ever leave the tracks.
        access.schedules.tracks.clear()
        return
    if event.subject == events.HOST:
        access.signatures.clear()
    if isinstance(event.data, host_events.HostEnrolled | host_events.HostRevoked | host_events.HostLabelled):
        access.directory = None
    match event.data:
        case host_events.HostInvited(token_sha256=token, name=name, labels=labels, expires_ms=expires_ms):
            _forget_expired(access, event.time_ms)
            access.invitations[token] = Invitation(name=name, labels=labels, expires_ms=expires_ms)
        case host_events.HostEnrolled(host_id=host_id, token_sha256=token):
            if hosts.apply(access.hosts, event) and token:
                access.used.setdefault(token, host_id)
            return
        case host_events.HostRevoked(public_key=public_key):
            access.revoked.setdefault(public_key, event.time_ms)
        case _:
            pass
    hosts.apply(access.hosts, event)


def learn_facts(access: Access, said: host_events.FactsChanged) -> None:
    """Take in what a host says of its functions; its other facts decide nothing here."""
    host = access.hosts.by_id.get(said.host_id)
    if host is not None:
        host.facts = dict(said_of_functions(said.facts))
        access.signatures.clear()


def directory_of(access: Access) -> targets.Directory:
    """Return the hosts, ready for targets."""
    if access.directory is None:
        access.directory = targets.Directory(access.hosts.by_id.values())
    return access.directory


def passed(access: Access, subject: str, seq: int) -> None:
    """Note that the log was read up to here on *subject*, also where it could not be understood."""
    access.last_seq[subject] = max(seq, access.last_seq.get(subject, 0))


def _forget_expired(access: Access, now_ms: int) -> None:
    # In the order in which they were made, so nearly in that of their ends: one that ends late holds up a few behind it.
    while access.invitations:
        token, oldest = next(iter(access.invitations.items()))
        if oldest.expires_ms > now_ms:
            return
        del access.invitations[token]
        access.used.pop(token, None)


def open_invitations(access: Access, now_ms: int) -> int:
    """Return how many tokens could still be used."""
    return sum(
        token not in access.used and one.expires_ms > now_ms for token, one in access.invitations.items()
    )
