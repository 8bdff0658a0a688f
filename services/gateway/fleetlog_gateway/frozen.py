"""What every answer says while something is frozen, so that nobody looks at a screen and does not know. Pure."""

from __future__ import annotations

from urllib.parse import quote

from fleetlog_gateway.limits import FROZEN_TEXT_CHARS_MAX
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.policies import Policies

HEADER = "Fleetlog-Frozen"


def headers_of(policies: Policies) -> dict[str, str]:
    """Return the header of an answer: how many freezes are in force, and the one that matters most.

    That is the oldest one of every host, else the oldest. Texts are percent-encoded (RFC 3986): they are anybody's.
    """
    if not policies.freezes:
        return {}
    first = min(policies.freezes.values(), key=lambda one: (one.target.strip() != "all", one.since_ms))
    fields = {
        "id": first.freeze_id, "target": first.target.strip(), "by": first.by, "since": rfc3339(first.since_ms),
        "reason": first.reason,
    }
    texts = [f"{name}={quote(_cut(text), safe=':')}" for name, text in fields.items()]
    return {HEADER: "; ".join([str(len(policies.freezes)), *texts])}


def _cut(text: str) -> str:
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= FROZEN_TEXT_CHARS_MAX else clean[: FROZEN_TEXT_CHARS_MAX - 1] + "…"
