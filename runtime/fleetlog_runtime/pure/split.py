"""How much is one stored message, and what is stored together: the one place where events are cut and put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.events import Data, TasksPlanned
from fleetlog_schemas.schedule_events import TicksDecided

APART_MAX = 4
"""Events stored one by one where that is as good: an append costs the bus 0.4 ms, an atomic batch at least 2.3 ms."""
_T = TypeVar("_T")
_ENVELOPE_BYTES = 4_096
"""Room for the envelope around the data: ids, source, times."""
_encode = msgspec.json.Encoder().encode


class TooLarge(ValueError):
    """A single entry does not fit into one event: whoever made it should have limited it."""


def split(make: Callable[[tuple[Any, ...]], Data], entries: Iterable[_T]) -> Iterator[Data]:
    """Yield events made of *entries* in order, each of at most EVENT_COMMANDS_MAX entries and EVENT_BYTES_MAX bytes.

    An entry with a `hosts` list (a plan's part) counts as that many.

    Raises:
        TooLarge: one entry alone exceeds the bytes of an event.
    """
    chunk: list[_T] = []
    weight = 0
    for entry in entries:
        entry_weight = max(1, len(getattr(entry, "hosts", ())))
        if chunk and weight + entry_weight > limits.EVENT_COMMANDS_MAX:
            yield from _fitting(make, chunk)
            chunk, weight = [], 0
        chunk.append(entry)
        weight += entry_weight
    if chunk:
        yield from _fitting(make, chunk)


def _fitting(make: Callable[[tuple[Any, ...]], Data], chunk: list[_T]) -> Iterator[Data]:
    # The event is measured as a whole, for `make` may add what grows with the entries.
    data = make(tuple(chunk))
    size = len(_encode(data)) + _ENVELOPE_BYTES
    if size <= limits.EVENT_BYTES_MAX:
        yield data
    elif len(chunk) == 1:
        raise TooLarge(f"one entry of {type(data).__name__} has {size} bytes; an event has {limits.EVENT_BYTES_MAX}")
    else:
        middle = len(chunk) // 2
        yield from _fitting(make, chunk[:middle])
        yield from _fitting(make, chunk[middle:])


def separable(data: Sequence[Data]) -> bool:
    """Tell whether these events are better stored one by one: they are few, and each means something without the next.

    The parts of a plan mean something only together. The fates of ticks are fenced by two subjects, and a message alone
    carries one fence only.
    """
    return len(data) <= APART_MAX and not any(isinstance(one, TicksDecided) for one in data) and not any(
        plan.parts > 1 for one in data if isinstance(one, TasksPlanned) for plan in one.plans
    )
