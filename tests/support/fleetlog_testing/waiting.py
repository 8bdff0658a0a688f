"""Wait for conditions with a deadline: tests never sleep for a guessed time."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")
PAUSE_SECONDS = 0.01


async def until(
    condition: Callable[[], _T | Awaitable[_T]], seconds: float = 10, what: str = "", pause_seconds: float = PAUSE_SECONDS
) -> _T:
    """Return what *condition* (a function or a coroutine function) gives as soon as it is true.

    It is looked at every *pause_seconds*: more where looking is work for the parts that are tested.

    Raises:
        AssertionError: it was not true within *seconds*; the message says what was waited for.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = condition()
        value: _T = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if loop.time() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(pause_seconds)


def fair(seconds: float) -> float:
    """Return how long that may last here and now what is promised to last *seconds* on a machine with nothing else to do.

    For the few promises that are about time. Other tests run beside this one: it has its share of the processors.
    """
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
