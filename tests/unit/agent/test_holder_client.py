"""A holder is started, also when the first one is killed before it listens; one that dies while it speaks has died."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_agent import holder
from fleetlog_agent.holder_client import HolderClient, HolderFailed, News

KILLED = "import os; os.kill(os.getpid(), 9)"
BROKEN = "import sys; sys.exit('there is no such module')"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[HolderClient]:
    made = HolderClient(tmp_path, lambda _news: None, lambda: None, pytest.fail)
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


def test_one_that_is_killed_in_the_middle_of_a_word_has_died(tmp_path: Path) -> None:
    """And what its news are taken for cannot go wrong unheard."""
    heard, failed = list[News](), list[BaseException | None]()

    def on_news(news: News) -> None:
        heard.append(news)
        if news["key"] == "unthinkable":
            raise KeyError(news["key"])

    async def scenario(*words: bytes) -> int:
        broken = asyncio.Event()
        client = HolderClient(tmp_path, on_news, broken.set, lambda error: (failed.append(error), broken.set()))

        async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.writelines([b'{"news": "hello", "pid": 1, "held": []}\n', *words])
            server.close()
            writer.close()

        server = await asyncio.start_unix_server(hold, tmp_path / "holder.sock")
        assert await client.find()
        await asyncio.wait_for(broken.wait(), 10)
        (tmp_path / "holder.sock").unlink(missing_ok=True)
        await client.close(retire=False)
        return len(failed)

    assert asyncio.run(scenario(b'{"key": "one", "state": "running"}\n', b'{"key": "two", "sta')) == 0
    assert [news["key"] for news in heard] == ["one"]
    assert asyncio.run(scenario(b'{"key": "unthinkable"}\n')) == 1
