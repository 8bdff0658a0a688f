"""Hosts as requests: invite, join, label, take out of work, accept again, revoke."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import enrolment, limits
from fleetlog_gateway.addresses import LOOPBACK_NAMES, host_name
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.decode import Reason, check_reason
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.registry import Call, Nothing, reply, route
from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.home import agent_user_jwt
from fleetlog_schemas import events, host_events, hosts
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.limits import LABELS_PER_HOST_MAX

_CHANGES = ("invalid", "host-not-found", "host-revoked", "conflict", "bus-unavailable", "unsettled")


class Invite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host that shall join."""

    name: str
    labels: dict[str, str] = {}


class Invited(msgspec.Struct, frozen=True):
    """A token that works once, and the line to paste on the new machine."""

    token: str
    expires_at: str
    line: str


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host that joins: its key was made there, and only the public half is sent."""

    token: Annotated[str, Meta(max_length=200)]
    public_key: Annotated[str, Meta(max_length=100)]
    boot_id: Annotated[str, Meta(max_length=100)] = ""


class Joined(msgspec.Struct, frozen=True):
    """What an agent needs from now on."""

    host_id: str
    name: str
    user_jwt: str
    nats_urls: list[str]
    nats_ca: str
    signing_keys: dict[str, str]


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels to set (a value) or remove (null)."""

    labels: dict[str, str | None]


class Maintenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the host is out of work."""

    on: bool
    reason: Reason = ""


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is done."""

    reason: Reason = ""


class Changed(msgspec.Struct, frozen=True):
    """The change is in the log, at this sequence."""

    seq: int


class Authority(msgspec.Struct, frozen=True):
    """The certificate authority to pin; both empty without TLS."""

    pem: str
    sha256: str


def _reached_as(call: Call[Any, Any]) -> str:
    return host_name(call.request.headers.get("Host", ""))


@route("POST", "/api/v1/hosts", auth=Permission.HOSTS, body=Invite, answer=Invited, status=201,
       problems=("invalid", "name-taken", "too-many-invitations", "conflict", "bus-unavailable", "unsettled"))
async def invite(call: Call[Invite, Nothing]) -> web.Response:
    """Invite a host: make a token that works once within 15 minutes.

    `line` is what to paste on the new machine. Only the token's hash is kept.
    """
    gateway, body = call.gateway, call.body
    enrolment.check_name(body.name)
    enrolment.check_labels(body.labels)
    token = enrolment.TOKEN_PREFIX + secrets.token_urlsafe(32)
    expires_ms = gateway.now_ms() + limits.INVITATION_MS

    def decide() -> events.Data:
        enrolment.check_invite(gateway.access, body.name, gateway.now_ms())
        return host_events.HostInvited(
            token_sha256=enrolment.token_sha256(token), name=body.name, labels=body.labels, expires_ms=expires_ms
        )

    await gateway.change(events.ACCESS, decide, call.principal, "nothing was given out; invite the host again")
    reached = _reached_as(call)
    host = gateway.addresses.advertised if reached in LOOPBACK_NAMES else reached
    line = gateway.addresses.line(host, token)
    return reply(Invited(token=token, expires_at=rfc3339(expires_ms), line=line), status=201)


@route("POST", "/api/v1/join", auth=Permission.PUBLIC, body=Join, answer=Joined, status=201,
       problems=("invalid", "join-token", "join-token-used", "key-revoked", "key-enrolled", "name-taken",
                 "too-many-failures", "conflict", "bus-unavailable", "unsettled"))
async def join(call: Call[Join, Nothing]) -> web.Response:
    """Join as a host: spend a token and get credentials for the bus. Needs no bearer token.

    The same token with the same key may be sent again when the answer was lost; with another key it is spent.
    """
    gateway, body = call.gateway, call.body
    enrolment.check_public_key(body.public_key)
    host_id = nats_auth.host_id_of(body.public_key)
    host = await _enrol(call, host_id)
    gateway.log.info("host joined", host_id=host_id, name=host.name, remote=call.request.remote)
    addresses = gateway.addresses
    return reply(
        Joined(
            host_id=host_id, name=host.name, user_jwt=agent_user_jwt(gateway.home, host_id, body.public_key),
            nats_urls=addresses.nats_urls_for(_reached_as(call)), nats_ca=addresses.ca_pem,
            signing_keys=addresses.signing_keys,
        ),
        status=201,
    )


class _AlreadyJoined(Exception):
    """The same key spent the same token before."""


async def _enrol(call: Call[Join, Nothing], host_id: str) -> hosts.Host:
    gateway, body = call.gateway, call.body

    def decide() -> events.Data:
        found = enrolment.check_join(gateway.access, body.token, host_id, body.public_key, gateway.now_ms())
        if isinstance(found, hosts.Host):
            raise _AlreadyJoined
        return host_events.HostEnrolled(
            host_id=host_id, name=found.name, labels=found.labels, public_key=body.public_key,
            token_sha256=enrolment.token_sha256(body.token),
        )

    try:
        await gateway.change(events.ACCESS, decide, call.principal, "send the same request again")
    except _AlreadyJoined:
        pass
    except HttpProblem as problem:
        if problem.code in ("join-token", "join-token-used", "key-revoked"):
            gateway.refuse_remote(problem.code, call.request.remote or "")
        raise
    host = gateway.access.hosts.by_id.get(host_id)
    if host is None or host.public_key != body.public_key:
        raise HttpProblem("conflict", "another host took this name or key at the same time")
    return host


@route("GET", "/api/v1/ca", auth=Permission.PUBLIC, answer=Authority)
async def authority(call: Call[Nothing, Nothing]) -> web.Response:
    """Return the certificate authority, for a machine that joins. Needs no bearer token.

    Compare the fingerprint of what you get with the one in the line to paste before trusting it.
    """
    addresses = call.gateway.addresses
    return reply(Authority(pem=addresses.ca_pem, sha256=addresses.ca_sha256))


@route("POST", "/api/v1/hosts/{id}/labels", auth=Permission.HOSTS, body=Labels, answer=Changed, problems=_CHANGES)
async def label(call: Call[Labels, Nothing]) -> web.Response:
    """Set labels of a host, or remove them with null."""
    gateway, labels = call.gateway, call.body.labels
    enrolment.check_labels(labels)
    if not labels:
        raise invalid("/labels", "name at least one label")

    def decide() -> events.Data:
        host = gateway.living_host(call.path["id"])
        kept = {key for key, value in {**host.labels, **labels}.items() if value is not None}
        if len(kept) > LABELS_PER_HOST_MAX:
            raise invalid("/labels", f"a host has at most {LABELS_PER_HOST_MAX} labels; this would make {len(kept)}")
        return host_events.HostLabelled(host_id=host.host_id, labels=labels)

    return await _change(call, events.HOST, decide)


@route("POST", "/api/v1/hosts/{id}/maintenance", auth=Permission.HOSTS, body=Maintenance, answer=Changed,
       problems=_CHANGES)
async def maintenance(call: Call[Maintenance, Nothing]) -> web.Response:
    """Take a host out of work, or give it back. What runs goes on; nothing new is dispatched."""
    gateway, body = call.gateway, call.body
    reason = check_reason(body.reason)

    def decide() -> events.Data:
        host = gateway.living_host(call.path["id"])
        return host_events.MaintenanceSet(host_id=host.host_id, on=body.on, reason=reason)

    return await _change(call, events.HOST, decide)


@route("POST", "/api/v1/hosts/{id}/accept", auth=Permission.HOSTS, body=Why, body_optional=True, answer=Changed,
       problems=_CHANGES)
async def accept(call: Call[Why, Nothing]) -> web.Response:
    """Let a refused host in again, after a person looked at it: its next session starts from nothing."""
    gateway, reason = call.gateway, check_reason(call.body.reason)

    def decide() -> events.Data:
        host = gateway.living_host(call.path["id"])
        return host_events.HostAccepted(host_id=host.host_id, reason=reason)

    return await _change(call, events.HOST, decide)


@route("POST", "/api/v1/hosts/{id}/revoke", auth=Permission.HOSTS, body=Why, body_optional=True, answer=Changed,
       problems=_CHANGES)
async def revoke(call: Call[Why, Nothing]) -> web.Response:
    """Refuse a host's key from now on: its connection is closed, and the key can never join again."""
    gateway, reason = call.gateway, check_reason(call.body.reason)

    def decide() -> events.Data:
        host = gateway.living_host(call.path["id"])
        return host_events.HostRevoked(host_id=host.host_id, public_key=host.public_key, reason=reason)

    seq = await gateway.change(events.ACCESS, decide, call.principal, "look at the host, or revoke it again")
    if not await gateway.revoker.told(len(gateway.access.revoked)):
        raise HttpProblem(
            "unsettled", "the host is revoked in the log, but the bus has not confirmed yet; it is being told again"
        )
    return reply(Changed(seq=seq))


async def _change(call: Call[Any, Any], subject: str, decide: Callable[[], events.Data]) -> web.Response:
    seq = await call.gateway.change(subject, decide, call.principal, "look at the host, then try again")
    return reply(Changed(seq=seq))
