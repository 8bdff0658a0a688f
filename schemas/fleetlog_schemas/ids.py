"""Identifiers: what they look like, what they carry, and how they are checked.

Task and event ids are UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then random bits, so an id sorts by
time and a reader can refuse one that is too old. The id of a scheduled run, and of a task of a workflow's part, is a
UUIDv8 of a time and a hash of what it is a run of: whoever decides the same makes the same id. Nothing here reads a
clock or a random source.
"""

from __future__ import annotations

import hashlib
import re
import uuid

HOST_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""A host id is one NATS subject token: no dot, no wildcard, no space."""

_UUID = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-([78])[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MASK_74_BITS = (1 << 74) - 1


class InvalidId(ValueError):
    """An identifier does not have the form that its kind requires."""


def new_id(now_ms: int, entropy: bytes) -> str:
    """Return the UUIDv7 of *now_ms* (Unix milliseconds) and at least 10 bytes of *entropy*."""
    return _uuid(7, now_ms, entropy)


def made_id(at_ms: int, *run_of: str | int) -> str:
    """Return the UUIDv8 of a time (a tick's, a workflow's) and of what tells this task from every other of that time."""
    # The time is hashed too: people tell ids apart by their last characters.
    return _uuid(8, at_ms, hashlib.sha256("\0".join(map(str, (at_ms, *run_of))).encode()).digest())


def is_made(identifier: str) -> bool:
    """Tell whether an id was made of what its task is: of a scheduled run, or of a part of a workflow."""
    matched = _UUID.fullmatch(identifier)
    return matched is not None and matched[3] == "8"


def _uuid(version: int, at_ms: int, entropy: bytes) -> str:
    random_bits = int.from_bytes(entropy[:10], "big") & _MASK_74_BITS
    value = (at_ms & 0xFFFF_FFFF_FFFF) << 80
    value |= version << 76
    value |= (random_bits >> 62) << 64
    value |= 0b10 << 62
    value |= random_bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=value))


def id_ms(identifier: str) -> int:
    """Return the Unix milliseconds that a UUIDv7, or the UUIDv8 that was made, carries.

    Raises:
        InvalidId: the text is neither in canonical form.
    """
    matched = _UUID.fullmatch(identifier)
    if matched is not None:
        return int(matched[1] + matched[2], 16)
    try:
        uuid.UUID(identifier)
    except ValueError:
        raise InvalidId(f"not a UUID: {identifier[:60]!r}") from None
    raise InvalidId(f"not a UUIDv7 in canonical (lower-case, hyphenated) form: {identifier[:60]!r}")


def check_host_id(host_id: str) -> str:
    """Return *host_id* unchanged.

    Raises:
        InvalidId: it is not a single safe subject token.
    """
    if not HOST_ID.fullmatch(host_id):
        raise InvalidId(f"not a host id (1-40 of A-Z a-z 0-9 _ -): {host_id[:60]!r}")
    return host_id


def short(identifier: str) -> str:
    """Return the last 8 characters: the head of a UUIDv7 is time, so the tail tells ids apart."""
    return identifier[-8:]
