"""One thing at a time is done to the journal, whoever does it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from fleetlog_agent import journal_writer
from fleetlog_agent.journal import Journal, read_journal
from fleetlog_agent.journal_records import Commit, JournalState, SessionOpened
from fleetlog_agent.journal_writer import JournalWriter

WAIT_S_MAX = 30.0


def commit(counter: int) -> Commit:
    record = SessionOpened(ticket="t", epoch=counter, seq=9, nonce="n", signing_keys={"k": "v"}, boot_id="b", offset_ms=5)
    return Commit(counter=counter, records=(record,))


class Slow(Journal):
    """A journal that is rewritten for as long as a test wants, and says who writes to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.began, self.go_on = threading.Event(), threading.Event()
        self.writers: list[str] = []

    @property
    def wants_compaction(self) -> bool:
        return True

    def compact(self, state: JournalState) -> None:
        self.began.set()
        assert self.go_on.wait(WAIT_S_MAX)
        super().compact(state)

    def append(self, one: Commit) -> None:
        self.writers.append(threading.current_thread().name.split("_")[0])
        super().append(one)


def test_a_commit_that_comes_while_the_file_is_rewritten_is_in_the_new_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = Slow(tmp_path / "journal")
        writer = JournalWriter(journal)
        for counter in (1, 2, 3):
            journal.took_seconds = 0.0
            await writer.append(commit(counter))
        state, _ = read_journal(journal.path)
        compacting = asyncio.create_task(writer.compact(state))
        await asyncio.to_thread(journal.began.wait, WAIT_S_MAX)
        journal.took_seconds = 0.0
        await writer.compact(state)  # it is being done: nothing is begun a second time
        late = asyncio.create_task(writer.append(commit(4)))
        await asyncio.sleep(0)
        assert not late.done()
        journal.go_on.set()
        await asyncio.gather(compacting, late)
        writer.close()
        assert read_journal(journal.path)[0].counter == 4

    asyncio.run(scenario())


def test_a_quick_disk_is_written_at_once_and_a_slow_one_by_a_thread(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = Slow(tmp_path / "journal")
        writer = JournalWriter(journal)
        await writer.append(commit(1))
        journal.took_seconds = 0.0
        await writer.append(commit(2))
        journal.took_seconds = 1.0
        await writer.append(commit(3))
        writer.close()
        assert journal.writers == ["journal", "MainThread", "journal"]

    asyncio.run(scenario())


def test_a_commit_that_does_not_reach_the_disk_is_tried_until_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "RETRY_SECONDS", 0)
    journal = Journal(tmp_path / "journal")
    append, fails = journal.append, [OSError("full"), OSError("full")]

    def failing(one: Commit) -> Any:
        if fails:
            raise fails.pop()
        append(one)

    monkeypatch.setattr(journal, "append", failing)

    async def scenario() -> None:
        writer = JournalWriter(journal)
        await writer.append(commit(1))
        writer.close()

    asyncio.run(scenario())
    assert read_journal(journal.path)[0].counter == 1
