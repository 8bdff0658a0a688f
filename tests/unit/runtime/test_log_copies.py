"""Copies of the log are compared by what they have, not by whether their reader was lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fleetlog_runtime.shell import log_copies
from fleetlog_runtime.shell.log_copies import Copy
from fleetlog_runtime.shell.nats_pull import PullLost

LAST = 6


class Reader:
    """Gives the messages of one copy two at a time; when there are no more, nothing."""

    def __init__(self, seqs: list[int], lost_after: int) -> None:
        self._seqs, self._left = seqs, lost_after

    async def next(self) -> list[Any]:
        if not self._left:
            raise PullLost
        self._left -= 1
        if not self._seqs:
            await asyncio.Event().wait()
        now, self._seqs = self._seqs[:2], self._seqs[2:]
        return [
            SimpleNamespace(subject="evt", headers=None, data=b"%d" % seq, reply=f"$JS.ACK.EVENTS.c.1.{seq}.{seq}.0.0")
            for seq in now
        ]

    async def close(self) -> None:
        """Nothing is open."""


class Bus:
    """Three nodes; what *holds* of a node, and how often a reader of it may be asked before it is lost."""

    def __init__(self, holds: dict[str, list[int]], lost_after: Callable[[str, int], int] = lambda _node, _time: 99) -> None:
        self._holds, self._lost_after = holds, lost_after
        self._times = dict.fromkeys(holds, 0)
        self._turn = 0

    async def follow_copy(self, _stream: str, from_seq: int) -> tuple[Reader, str]:
        there = sorted(node for node, seqs in self._holds.items() if seqs)
        node = there[self._turn % len(there)]
        self._turn += 1
        self._times[node] += 1
        lost_after = self._lost_after(node, self._times[node])
        return Reader([seq for seq in self._holds[node] if seq >= from_seq], lost_after), node


async def compared(bus: Bus, *nodes: str) -> tuple[list[tuple[str, int, str]], list[str]]:
    copies = [Copy(bus, node, 1, LAST) for node in nodes]  # type: ignore[arg-type]
    for copy in copies:
        await copy.advance()
    faults = await log_copies._compare(copies, 1, LAST, 0)
    return [(fault.node, fault.seq, fault.what) for fault in faults], [copy.node for copy in copies if copy.is_away]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_copies, "SILENCE_SECONDS", 0.02)


WHOLE = [*range(1, LAST + 1)]


def test_a_hole_is_named_and_what_was_read_before_and_after_a_lost_reader_is_one_copy() -> None:
    holds = {"a": WHOLE, "b": WHOLE, "c": [1, 2, 3, 5, 6]}
    bus = Bus(holds, lost_after=lambda _node, time: 1 if time <= 2 else 99)
    assert asyncio.run(compared(bus, *holds)) == ([("c", 4, "lacks it")], [])


def test_a_copy_that_has_no_more_for_reader_after_reader_lacks_the_rest() -> None:
    holds = {"a": WHOLE, "b": WHOLE[:4], "c": WHOLE}
    assert asyncio.run(compared(Bus(holds), *holds)) == ([("b", 5, "lacks it"), ("b", 6, "lacks it")], [])


def test_a_node_on_which_no_reader_is_placed_any_more_is_away_and_not_judged() -> None:
    holds = {"a": WHOLE, "b": list(WHOLE), "c": WHOLE}

    def lost_after(node: str, _time: int) -> int:
        if node == "b":
            holds["b"].clear()
        return 1 if node == "b" else 99

    faults, away = asyncio.run(compared(Bus(holds, lost_after), *holds))
    assert away == ["b"]
    assert not [fault for fault in faults if fault[0] != "b"]
