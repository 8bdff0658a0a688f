"""The hash chain over the log: the one definition of it. Events carry no hash; readers compute the chain.

Each link covers the head before it and one message: its sequence, its subject and its stored bytes. So one head
stands for everything that was ever stored up to its sequence, in its order. It begins at START, before sequence 1.
"""

from __future__ import annotations

import hashlib

START = "0" * 64
"""The head of an empty log, in hexadecimal like every head."""


def link(head: str, seq: int, subject: str, body: bytes) -> str:
    """Return the head after one more message."""
    hashed = hashlib.sha256(bytes.fromhex(head))
    hashed.update(f"{seq} {subject} {len(body)}\n".encode())
    hashed.update(body)
    return hashed.hexdigest()
