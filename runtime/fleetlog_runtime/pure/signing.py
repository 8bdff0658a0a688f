"""Sign what agents must obey, and check it (ed25519, RFC 8032, by PyNaCl). Pure: keys are arguments."""

from __future__ import annotations

import base64
import hashlib

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from fleetlog_schemas.pushes import Signed


class BadSignature(ValueError):
    """Nobody we trust signed this."""


class Signer:
    """A private signing key."""

    def __init__(self, seed: bytes) -> None:
        """Make it from 32 secret bytes."""
        self._key = SigningKey(seed)
        public = bytes(self._key.verify_key)
        self.public_key = base64.b64encode(public).decode()
        """In base64, as agents pin it."""
        self.key_id = hashlib.sha256(public).hexdigest()[:16]

    def sign(self, payload: bytes) -> Signed:
        """Return *payload* with our signature."""
        return Signed(key_id=self.key_id, signature=self._key.sign(payload).signature, payload=payload)


def verify(signed: Signed, trusted: dict[str, str]) -> bytes:
    """Return the payload that one of the *trusted* keys (key id to base64) signed.

    Raises:
        BadSignature: the key is not trusted, or the signature does not fit.
    """
    public = trusted.get(signed.key_id)
    if public is None:
        raise BadSignature(f"signed by key {signed.key_id[:16]!r}, which is not trusted here")
    try:
        return VerifyKey(base64.b64decode(public)).verify(signed.payload, signed.signature)
    except (BadSignatureError, ValueError):
        raise BadSignature("the signature does not fit the message") from None
