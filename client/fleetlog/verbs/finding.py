"""What one check of doctor found."""

from __future__ import annotations

import dataclasses

OK, NOTE, BAD = "ok", "note", "bad"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    state: str
    found: str
    todo: str = ""
