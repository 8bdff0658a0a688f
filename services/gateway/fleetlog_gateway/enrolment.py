"""The rules of inviting and joining: names, labels, keys, tokens. Pure.

A name or label that the target language cannot spell would be a host that nobody can name, or worse, one that
is meant by another expression; both are refused here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping

import nkeys

from fleetlog_gateway.access import Access, Invitation, open_invitations
from fleetlog_gateway.limits import INVITATIONS_OPEN_MAX
from fleetlog_gateway.problems import FieldError, HttpProblem, escape, invalid
from fleetlog_schemas import hosts
from fleetlog_schemas.limits import HOST_NAME_BYTES_MAX, LABEL_BYTES_MAX, LABELS_PER_HOST_MAX

TOKEN_PREFIX = "fltj_"  # noqa: S105  # the prefix by which scanners know a join token, not a secret

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_HOST_ID = re.compile(r"h[a-z2-7]{15}")
_WORDS = frozenset({"and", "or", "not", "in", "all", "last"})
"""Words of the target language and of the command line."""
_MARKS = frozenset("(),=!*?[]")
_PUBLIC_KEY_BYTES = 35
"""Of an nkey: one byte of prefix, 32 of key, two of checksum."""


def token_sha256(token: str) -> str:
    """Return the hash under which the log knows a join token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def check_name(name: str, pointer: str = "/name") -> None:
    """Check the form of a host name. Raises HttpProblem."""
    if not _NAME.fullmatch(name) or len(name) > HOST_NAME_BYTES_MAX:
        raise invalid(
            pointer, f"a host name is 1-{HOST_NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - and starts with a letter or digit"
        )
    if name in _WORDS:
        raise invalid(pointer, f"{name!r} is a word of the target language")
    if _HOST_ID.fullmatch(name):
        raise invalid(pointer, "this name looks like a host id")


def check_labels(labels: Mapping[str, str | None], pointer: str = "/labels") -> None:
    """Check the form of labels; a value of None removes one. Raises HttpProblem."""
    if len(labels) > LABELS_PER_HOST_MAX:
        raise invalid(pointer, f"a host has at most {LABELS_PER_HOST_MAX} labels")
    for key, value in labels.items():
        at = f"{pointer}/{escape(key[:100])}"
        if not _KEY.fullmatch(key) or len(key) > LABEL_BYTES_MAX or key in _WORDS:
            raise invalid(
                at, f"a label's key is 1-{LABEL_BYTES_MAX} of A-Z a-z 0-9 . _ / - and starts with a letter or digit"
            )
        if value is not None:
            _check_value(at, value)


def _check_value(at: str, value: str) -> None:
    if not value or len(value.encode("utf-8", "replace")) > LABEL_BYTES_MAX:
        raise invalid(at, f"a label's value has 1-{LABEL_BYTES_MAX} bytes")
    if not value.isprintable() or any(character.isspace() or character in _MARKS for character in value):
        raise invalid(at, "a label's value is printable, without spaces and without any of ( ) , = ! * ? [ ]")
    if value in _WORDS:
        raise invalid(at, f"{value!r} is a word of the target language")


def check_public_key(public_key: str) -> None:
    """Check that this is the public half of a user nkey. Raises HttpProblem."""
    try:
        raw = base64.b32decode(public_key.encode("ascii") + b"=" * (-len(public_key) % 8))
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raw = b""
    if (
        len(raw) != _PUBLIC_KEY_BYTES
        or raw[0] != nkeys.PREFIX_BYTE_USER
        or nkeys.crc16_checksum(raw[:-2]) != raw[-2:]
        or base64.b32encode(raw).decode().rstrip("=") != public_key
    ):
        raise invalid("/public_key", "this is not the public key of a user nkey (56 characters that start with U)")


def check_free_name(access: Access, name: str) -> None:
    """Check that no unrevoked host has this name. Raises HttpProblem."""
    if access.hosts.named(name) is not None:
        raise HttpProblem(
            "name-taken", f"a host named {name} exists: choose another name, or revoke it first",
            errors=[FieldError("/name", "taken")],
        )


def check_invite(access: Access, name: str, now_ms: int) -> None:
    """Check that a host of this name may be invited now. Raises HttpProblem."""
    check_free_name(access, name)
    if open_invitations(access, now_ms) >= INVITATIONS_OPEN_MAX:
        raise HttpProblem(
            "too-many-invitations", f"{INVITATIONS_OPEN_MAX} invitations are open: wait until some are used or expire"
        )


def check_join(
    access: Access, token: str, host_id: str, public_key: str, now_ms: int
) -> Invitation | hosts.Host:
    """Return the invitation that this token spends, or the host that spent it with the very same key.

    A host whose answer was lost asks again and gets the same one; with another key the token is spent.

    Raises:
        HttpProblem: the token, the key or the name is refused.
    """
    digest = token_sha256(token)
    invitation = access.invitations.get(digest)
    if invitation is None or invitation.expires_ms <= now_ms:
        raise HttpProblem("join-token", "this join token is unknown or has expired: make one with `fleetlog host add`")
    if public_key in access.revoked:
        raise HttpProblem("key-revoked", "this key was revoked: delete the agent's data folder so that it makes a new one")
    known = access.hosts.by_id.get(host_id)
    if digest in access.used:
        if access.used[digest] == host_id and known is not None and known.public_key == public_key:
            return known
        raise HttpProblem("join-token-used", "this join token was already used: make another with `fleetlog host add`")
    if known is not None:
        raise HttpProblem("key-enrolled", f"a host with this key exists: {known.name}")
    check_free_name(access, invitation.name)
    return invitation
