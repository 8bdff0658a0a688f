"""Keyed hashes that prove what a message claims (HMAC-SHA256, RFC 2104). Pure: keys are arguments."""

from __future__ import annotations

import hashlib
import hmac


def _keyed(key: bytes, *parts: str) -> str:
    # The length before each part keeps ("ab", "c") apart from ("a", "bc").
    text = b"".join([piece for part in map(str.encode, parts) for piece in (len(part).to_bytes(4, "big"), part)])
    return hmac.digest(key, text, "sha256").hex()[:32]


def attempt_token(key: bytes, task_id: str, host_id: str, attempt: int) -> str:
    """Return the token that a report about this attempt must carry."""
    return _keyed(key, "attempt", task_id, host_id, str(attempt))


def ticket(key: bytes, host_id: str, epoch: int, seq: int) -> str:
    """Return the ticket of the session that the event at *seq* opened."""
    return _keyed(key, "ticket", host_id, str(epoch), str(seq))


def blob_token(key: bytes, host_id: str, sha256: str) -> str:
    """Return the token that lets one host read one blob."""
    return _keyed(key, "blob", host_id, sha256)


def matches(expected: str, given: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(expected.encode(), given.encode())


def key_id(key: bytes) -> str:
    """Return a short public name of a key."""
    return hashlib.sha256(b"fleetlog key id" + key).hexdigest()[:8]
