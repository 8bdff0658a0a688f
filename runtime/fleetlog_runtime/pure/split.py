"""The one place where a plural event is cut into several, so that each fits into one stored message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.events import Data

_T = TypeVar("_T")
_ENVELOPE_BYTES = 4_096
"""Room for the envelope and the fields beside the entries."""
_encode = msgspec.json.Encoder().encode


def split(make: Callable[[tuple[Any, ...]], Data], entries: Iterable[_T]) -> Iterator[Data]:
    """Yield events made of *entries* in order, each of at most EVENT_COMMANDS_MAX entries and EVENT_BYTES_MAX bytes.

    An entry with a `hosts` list (a plan's part) counts as that many.
    """
    chunk: list[_T] = []
    size, weight = _ENVELOPE_BYTES, 0
    for entry in entries:
        entry_bytes = len(_encode(entry)) + 1
        entry_weight = max(1, len(getattr(entry, "hosts", ())))
        too_many = weight + entry_weight > limits.EVENT_COMMANDS_MAX
        if chunk and (too_many or size + entry_bytes > limits.EVENT_BYTES_MAX):
            yield make(tuple(chunk))
            chunk, size, weight = [], _ENVELOPE_BYTES, 0
        chunk.append(entry)
        size += entry_bytes
        weight += entry_weight
    if chunk:
        yield make(tuple(chunk))
