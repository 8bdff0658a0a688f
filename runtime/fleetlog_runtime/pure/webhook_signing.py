"""How webhooks are signed: Standard Webhooks 1.0, symmetric signatures (`v1`, HMAC-SHA256). Pure: keys are arguments.

A secret is derived, not stored: it follows from a key of the home, the webhook's id and the secret's number. So it is in no
event, no answer, no second place that could leak or be lost, and every keeper of a cluster has it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

PREFIX = "whsec_"
WEBHOOK_KEY = "token"
"""The key of the home that secrets follow from: one that every node of every cluster has."""


def secret(key: bytes, webhook_id: str, number: int) -> bytes:
    """Return the 32 bytes of a webhook's secret of this number."""
    # The label keeps this apart from everything else that is derived from the same key (`tokens.py`).
    return hmac.new(key, b"fleetlog webhook secret\0" + f"{webhook_id}\0{number}".encode(), hashlib.sha256).digest()


def text_of(raw: bytes) -> str:
    """Return a secret as people copy it to the receiver."""
    return PREFIX + base64.b64encode(raw).decode()


def signed_headers(secrets: list[bytes], message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a message sent at *at_s* (Unix seconds), with one signature for each secret."""
    content = f"{message_id}.{at_s}.".encode() + body
    signatures = [
        f"v1,{base64.b64encode(hmac.new(one, content, hashlib.sha256).digest()).decode()}" for one in secrets
    ]
    return {"webhook-id": message_id, "webhook-timestamp": str(at_s), "webhook-signature": " ".join(signatures)}
