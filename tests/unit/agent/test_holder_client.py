"""A holder is started, also when the first one is killed before it listens, and what cannot start says why."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_agent import holder
from fleetlog_agent.holder_client import HolderClient, HolderFailed

KILLED = "import os; os.kill(os.getpid(), 9)"
BROKEN = "import sys; sys.exit('there is no such module')"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[HolderClient]:
    made = HolderClient(tmp_path, lambda _news: None, lambda: None)
    yield made
    if made.pid:
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)


def start(client: HolderClient, monkeypatch: pytest.MonkeyPatch, *first: str) -> None:
    """Start a holder; the *first* tries are other programs."""
    programs, real = list(first), holder.command

    def command(folder: str) -> list[str]:
        return [sys.executable, "-S", "-c", programs.pop(0)] if programs else real(folder)

    monkeypatch.setattr(holder, "command", command)

    async def scenario() -> None:
        await client.ensure(fresh=True)
        assert client.connected
        await client.close(retire=False)

    asyncio.run(scenario())


def test_one_that_is_killed_before_it_listens_is_followed_by_another(
    client: HolderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(client, monkeypatch, KILLED, KILLED)


@pytest.mark.parametrize(("programs", "says"), [([BROKEN], "no such module"), ([KILLED] * 3, "no answer")])
def test_what_does_not_start_says_why(
    client: HolderClient, monkeypatch: pytest.MonkeyPatch, programs: list[str], says: str
) -> None:
    with pytest.raises(HolderFailed, match=says):
        start(client, monkeypatch, *programs)
