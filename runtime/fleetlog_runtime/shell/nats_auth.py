"""Who may do what on the bus: JWTs of NATS operator mode, minted here without any server's help.

Three accounts: SYS, CORE (services and streams) and AGENTS. Agents reach CORE only by the imports listed in
`fleetlog_schemas.subjects`, so a reply subject they invent never reaches a stream. The rights of every service and
of all agents are *scopes* of their account (templates bound to a signing key): credentials carry no rights of
their own, and a new version's rights take effect when the server starts with the new account JWT.
Source of the format: NATS JWT v2 (nats-io/jwt).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from typing import Any

import nkeys

from fleetlog_schemas import ids, limits, subjects

SERVICE_USERS = ("dispatcher", "scheduler", "result-recorder", "reporter", "keeper", "gateway", "operator")
"""Users of CORE; `operator` is for people and tools that only look."""

ANSWER_TTL_SECONDS = 120
"""How long a service may answer a request it got: longer than any append and read-back takes."""

_PREFIXES = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR, "account": nkeys.PREFIX_BYTE_ACCOUNT, "user": nkeys.PREFIX_BYTE_USER,
}
_HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_NO_LIMITS = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT_LIMITS = {**_NO_LIMITS, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
_STORAGE_LIMITS = {
    "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "max_ack_pending": -1,
    "mem_max_stream_bytes": -1, "disk_max_stream_bytes": -1,
}
_AGENT_SUBSCRIPTIONS_MAX = 16
"""An agent needs two; some room for a reconnect that overlaps."""


def new_seed(kind: str) -> bytes:
    """Return a fresh secret seed of an `operator`, `account` or `user`."""
    return bytes(nkeys.encode_seed(os.urandom(32), _PREFIXES[kind]))


def public_key(seed: bytes) -> str:
    """Return the public key text of a seed."""
    public: bytes | bytearray = nkeys.from_seed(bytearray(seed)).public_key
    return bytes(public).decode()


def host_id_of(agent_public_key: str) -> str:
    """Return the host id that a key stands for: identity is the key."""
    digest = hashlib.sha256(agent_public_key.encode()).digest()
    return "h" + base64.b32encode(digest).decode().lower()[:15]


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _mint(subject: str, nats: dict[str, Any], signer_seed: bytes, name: str, issued_s: int | None = None) -> str:
    claims: dict[str, Any] = {
        "iat": int(time.time()) if issued_s is None else issued_s,
        "iss": public_key(signer_seed), "name": name, "sub": subject, "nats": nats, "jti": "",
    }
    text = json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()
    claims["jti"] = base64.b32encode(hashlib.new("sha512_256", text).digest()).rstrip(b"=").decode()
    unsigned = _b64(_HEADER) + b"." + _b64(json.dumps(claims, separators=(",", ":")).encode())
    signature = nkeys.from_seed(bytearray(signer_seed)).sign(unsigned)
    return (unsigned + b"." + _b64(signature)).decode()


def operator_jwt(operator_seed: bytes, system_account: str) -> str:
    """Return the JWT that the server trusts everything else by."""
    claims = {"type": "operator", "version": 2, "system_account": system_account}
    return _mint(public_key(operator_seed), claims, operator_seed, "fleetlog")


def system_account_jwt(operator_seed: bytes, account_seed: bytes) -> str:
    """Return the account of the server's own subjects."""
    claims = {
        "type": "account", "version": 2, "limits": _ACCOUNT_LIMITS,
        "default_permissions": {"pub": {}, "sub": {}},
    }
    return _mint(public_key(account_seed), claims, operator_seed, "SYS")


def core_account_jwt(
    operator_seed: bytes, account_seed: bytes, agents_account: str, role_seeds: dict[str, bytes]
) -> str:
    """Return the account of services and streams; *role_seeds* are the scope keys by service user."""
    scopes = [
        {"kind": "user_scope", "key": public_key(seed), "role": role, "template": service_rights(role)}
        for role, seed in role_seeds.items()
    ]
    exports = [
        {"name": subject, "subject": subject, "type": "service", "response_type": "Singleton"}
        for subject in subjects.AGENT_SERVICE_IMPORTS
    ] + [{"name": subject, "subject": subject, "type": "stream"} for subject in subjects.AGENT_STREAM_EXPORTS]
    imports = [
        {"name": subjects.HEARTBEATS, "subject": subjects.HEARTBEATS, "account": agents_account, "type": "stream"}
    ]
    claims = {
        "type": "account", "version": 2, "limits": {**_ACCOUNT_LIMITS, **_STORAGE_LIMITS}, "signing_keys": scopes,
        "exports": exports, "imports": imports, "default_permissions": {"pub": {}, "sub": {}},
    }
    return _mint(public_key(account_seed), claims, operator_seed, "CORE")


def agents_account_jwt(
    operator_seed: bytes, account_seed: bytes, core_account: str, scope_seed: bytes,
    revocations: dict[str, int], issued_s: int | None = None,
) -> str:
    """Return the account of the agents.

    *revocations* maps public keys to Unix seconds: user JWTs issued until then are refused.
    """
    imports = [
        {"name": subject, "subject": subject, "account": core_account, "type": "service"}
        for subject in subjects.AGENT_SERVICE_IMPORTS
    ] + [
        {"name": subject, "subject": subject, "account": core_account, "type": "stream"}
        for subject in subjects.AGENT_STREAM_EXPORTS
    ]
    claims: dict[str, Any] = {
        "type": "account", "version": 2, "limits": _ACCOUNT_LIMITS,
        "signing_keys": [
            {"kind": "user_scope", "key": public_key(scope_seed), "role": "agent", "template": _agent_rights()}
        ],
        "imports": imports,
        "exports": [{"name": subjects.HEARTBEATS, "subject": subjects.HEARTBEATS, "type": "stream"}],
        "default_permissions": {"pub": {}, "sub": {}},
    }
    if revocations:
        claims["revocations"] = dict(sorted(revocations.items()))
    return _mint(public_key(account_seed), claims, operator_seed, "AGENTS", issued_s)


def agent_user_jwt(scope_seed: bytes, agents_account: str, host_id: str, agent_public_key: str) -> str:
    """Return the JWT of one agent. Its name is its host id, which the account's template turns into its rights.

    Raises:
        ids.InvalidId: the host id is not one safe subject token.
    """
    ids.check_host_id(host_id)
    return scoped_user_jwt(scope_seed, agents_account, host_id, agent_public_key)


def scoped_user_jwt(scope_seed: bytes, account: str, name: str, user_public_key: str) -> str:
    """Return a user JWT whose rights are those of the scope that *scope_seed* belongs to."""
    claims = {"type": "user", "version": 2, "issuer_account": account}
    return _mint(user_public_key, claims, scope_seed, name)


def free_user_jwt(account_seed: bytes, name: str, user_public_key: str, publish: list[str]) -> str:
    """Return a user JWT signed by the account itself, which may publish these subjects and hear its inbox."""
    claims = {
        "type": "user", "version": 2, **_NO_LIMITS,
        "pub": {"allow": publish}, "sub": {"allow": [f"_INBOX_{name}.>"]},
    }
    return _mint(user_public_key, claims, account_seed, name)


def credentials(jwt: str, seed: bytes) -> str:
    """Return the text of a `.creds` file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )


def _agent_rights() -> dict[str, Any]:
    return {
        "pub": {"allow": [subject.format(id="{{name()}}") for subject in subjects.AGENT_PUBLISH]},
        "sub": {"allow": [subject.format(id="{{name()}}") for subject in subjects.AGENT_SUBSCRIBE]},
        "subs": _AGENT_SUBSCRIPTIONS_MAX, "data": -1, "payload": limits.BUS_MESSAGE_BYTES_MAX,
    }


_BLOBS_STREAM = f"OBJ_{subjects.BLOBS}"


def _look_at(*streams: str) -> list[str]:
    """Name the API subjects that read stored messages without a consumer."""
    return [
        api.format(stream)
        for stream in streams
        for api in ("$JS.API.DIRECT.GET.{}", "$JS.API.DIRECT.GET.{}.>", "$JS.API.STREAM.MSG.GET.{}", "$JS.API.STREAM.INFO.{}")
    ]


def _follow(stream: str) -> list[str]:
    """Name the API subjects that read a stream as it grows, by a consumer that the server forgets again."""
    return [f"$JS.API.CONSUMER.CREATE.{stream}.*", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*"]


_READ_LOG = [*_look_at(subjects.EVENTS), *_follow(subjects.EVENTS), subjects.ask("keeper", "segment")]
"""The log as a whole: what the bus has of it, and the segments of what it has no more."""

_PUBLISH: dict[str, list[str]] = {
    "dispatcher": [
        "evt.dispatch", *subjects.AGENT_STREAM_EXPORTS, subjects.leader("dispatcher"),
        *_look_at(subjects.LEADERS, _BLOBS_STREAM), *_READ_LOG,
    ],
    "scheduler": [
        "evt.tick", "evt.request", subjects.leader("scheduler"), *_look_at(subjects.LEADERS), *_READ_LOG,
    ],
    "result-recorder": [
        "evt.result", subjects.ask("reporter", "export"), *_look_at(subjects.EVENTS, subjects.REPORTS, _BLOBS_STREAM),
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.REPORTS}.{subjects.RECORDER_CONSUMER}",
        f"$JS.ACK.{subjects.REPORTS}.{subjects.RECORDER_CONSUMER}.>",
    ],
    "reporter": [
        *_look_at(subjects.OUTPUT, subjects.REPORTS, _BLOBS_STREAM), *_READ_LOG,
    ],
    "keeper": [
        # Nobody else may purge anything; of a purge the bus's permissions name the stream, not the subjects.
        "evt.archive", "evt.alert", subjects.leader("keeper"), f"$JS.API.STREAM.PURGE.{subjects.EVENTS}", subjects.ask("*", "health"),
        *_look_at(subjects.LEADERS), *_READ_LOG,
    ],
    "gateway": [
        "evt.request", "evt.host", "evt.access", "evt.catalog", "evt.schedule", "ask.*.*", f"$O.{subjects.BLOBS}.>",
        *_look_at(subjects.OUTPUT, subjects.REPORTS, subjects.LEADERS, _BLOBS_STREAM), *_READ_LOG,
    ],
    "operator": [
        "ask.*.*", "$JS.API.INFO", f"$JS.API.CONSUMER.INFO.{subjects.REPORTS}.{subjects.RECORDER_CONSUMER}",
        *_look_at(subjects.OUTPUT, subjects.REPORTS, subjects.LEADERS, _BLOBS_STREAM), *_READ_LOG,
    ],
}
_SUBSCRIBE: dict[str, list[str]] = {
    "dispatcher": [subjects.HEARTBEATS, subjects.SESSIONS],
    "scheduler": [],
    "result-recorder": [subjects.BLOB_REQUESTS],
    "reporter": [],
    "keeper": [],
    "gateway": [],
    "operator": [subjects.HEARTBEATS],
}


def service_rights(user: str) -> dict[str, Any]:
    """Return what one service user may do; answers are allowed to whoever asked, once."""
    return {
        "pub": {"allow": _PUBLISH[user]},
        "sub": {"allow": [*_SUBSCRIBE[user], subjects.ask(user, "*"), f"_INBOX_{user}.>"]},
        "resp": {"max": 1, "ttl": ANSWER_TTL_SECONDS * 1_000_000_000},
        **_NO_LIMITS,
    }
