"""Who writes the journal, and when: one thing at a time, and no longer on the event loop than it takes to sync a quick disk.

To hand a commit to a thread and to hear of it takes as long as such a disk takes to sync it. So where the last commit was
quick the next one is written at once, and everything else, the rewriting of the file among it, is a thread's, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from fleetlog_agent.journal import Journal
from fleetlog_agent.journal_records import Commit, JournalState

QUICK_SECONDS = 0.001
"""A disk that took no longer for the last commit is waited for by the event loop itself."""
RETRY_SECONDS = 2.0
"""After a commit did not reach the disk; nothing new happens until one does."""


class JournalWriter:
    """Writes one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = ThreadPoolExecutor(1, "journal")
        self._busy = 0
        """What the thread was asked for and is not over."""
        self._log = structlog.get_logger("journal")

    async def append(self, commit: Commit) -> None:
        """Return when *commit* is on disk, however long that takes."""
        while True:
            try:
                if self._journal.took_seconds < QUICK_SECONDS and not self._busy:
                    self._journal.append(commit)
                else:
                    await self._in_thread(self._journal.append, commit)
                return
            except OSError as error:
                self._log.error("the journal cannot be written: nothing new starts", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def compact(self, state: JournalState) -> None:
        """Rewrite the file if that would pay; *state* is what it says, and changes only with a commit, which waits for this."""
        if self._busy or not self._journal.wants_compaction:
            return
        try:
            await self._in_thread(self._journal.compact, state)
        except OSError as error:
            self._log.warning("the journal was not rewritten; it goes on as it is", error=str(error))

    async def restore_reserve(self) -> None:
        """Have room for what must be written."""
        await self._in_thread(self._journal.restore_reserve)

    def close(self) -> None:
        """Finish what was begun, and close the file."""
        self._thread.shutdown()
        self._journal.close()

    async def _in_thread(self, work: Callable[..., None], *args: object) -> None:
        self._busy += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        finally:
            self._busy -= 1
