"""Handles in the order in which their tasks end, by one reading of the log for all of them.

To wait for ten thousand tasks one by one would be ten thousand streams, and each reads what the task before has read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from fleetlog.exits import Exit, NotEnded
from fleetlog.follow import Folds, decode_stored
from fleetlog.functions import Handle
from fleetlog.sse import Feed, Item
from fleetlog_schemas.view import task_view

R = TypeVar("R")


def as_completed(handles: Iterable[Handle[R]], timeout_s: float | None = None) -> Iterator[Handle[R]]:
    """Yield each handle as soon as its task has ended, however it did; `value()` of what is yielded asks nobody any more.

    All handles are of one gateway.

    Raises:
        NotEnded: `timeout_s` is over; it is a TimeoutError. The tasks that were not yielded go on.
        CliError: the gateway stayed away.
    """
    left = {handle.task_id: handle for handle in handles}
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    for handle in [one for one in left.values() if one.ended is not None]:
        yield left.pop(handle.task_id)
    if not left:
        return
    client, asked = next(iter(left.values())).client, len(left)
    # Ids carry the time at which they were made: nothing about any of these tasks stands before the first.
    first = next(iter(client.read_log(task_id=min(left))), None)
    feed = Feed(client.gateway, f"/events?after_seq={max(first.seq - 1, 1) if first else 1}")
    folds = Folds(left)
    try:
        while left:
            left_s = 60.0 if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                raise NotEnded(Exit.WAITED, f"{len(left)} of {asked} tasks have not ended in {timeout_s:g} s; they go on")
            item = feed.take(left_s)
            if not isinstance(item, Item) or item.event == "reset":
                continue
            for task in folds.feed(decode_stored(item.data)):
                handle = left.pop(task.task_id)
                handle.ended = task_view(task)
                yield handle
    finally:
        feed.close()
