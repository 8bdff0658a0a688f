"""The result-recorder as a service: take reports, append what verifies, acknowledge; serve content beside it.

Nothing is acknowledged before it is in the log. A recorder that dies in between leaves its reports to another one,
and what is then appended twice changes nothing, for the first end of an attempt stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from fleetlog_result_recorder.blobs import BlobServer
from fleetlog_result_recorder.gather import gather
from fleetlog_result_recorder.verify import Refusals, verify
from fleetlog_runtime.pure.bus import AppendRefused, AppendUnsettled, Batch, BusFull, Draft, NoAnswer, Taken
from fleetlog_runtime.pure.split import separable
from fleetlog_runtime.shell.service import Context
from fleetlog_schemas import codec, events, limits, subjects, tokens
from fleetlog_schemas.ids import new_id

RESEND_SECONDS = 0.2
"""Before an unsettled append is sent again; the append itself has waited for its own time limit."""
FULL_SECONDS = 5.0
"""Before an append that found no room is sent again: somebody must make room first."""
REFUSALS_SECONDS = 15.0
"""How often finished minutes of refusals are looked for."""
LAST_WORDS_SECONDS_MAX = 2.0
"""What was refused since the last minute is told when the service stops, if the bus takes it by then."""
APPEND_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of reports that one append is made of, so that a flood of large ones does not fill memory."""


class Recorder:
    """One running recorder."""

    def __init__(self, context: Context) -> None:
        """Record for the home of *context*."""
        self._context = context
        self._bus = context.bus
        self._log = context.log
        token_key = context.home.secret("token")
        self._keys = {tokens.key_id(token_key): token_key}
        self._blobs = BlobServer(context.bus, context.home.secret("blob"))
        self._refusals = Refusals()

    async def run(self) -> None:
        """Record until `context.stop` is set."""
        stop_serving = await self._bus.subscribe(subjects.BLOB_REQUESTS, self._blobs.asked, queue="result-recorder")
        self._context.ready()
        tasks = [asyncio.create_task(self._record()), asyncio.create_task(self._tell_refusals())]
        stopping = asyncio.create_task(self._context.stop.wait())
        try:
            done, _ = await asyncio.wait((*tasks, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await stop_serving()
            await self._blobs.close()
            with contextlib.suppress(TimeoutError):  # the bus may be going as well
                async with asyncio.timeout(LAST_WORDS_SECONDS_MAX):
                    await self._append(list(self._refusals.due()))

    async def _record(self) -> None:
        per_append = self._context.settings.recorder.reports_per_append
        async for chunk in self._bus.take(subjects.REPORTS, subjects.RECORDER_CONSUMER):
            waiting = list(chunk)
            while waiting:
                count = _fitting(waiting, per_append)
                await self._record_some(waiting[:count])
                del waiting[:count]

    async def _record_some(self, taken: list[Taken]) -> None:
        verdicts = [verify(subjects.host_of(one.subject), one.body, self._keys) for one in taken]
        now_ms = self._context.clock.now_ms()
        for verdict in verdicts:
            if self._refusals.add(verdict, now_ms):
                # Once a minute for each host: who floods us must not fill our disk with what we say of it.
                self._log.warning("reports refused", host_id=verdict.host_id, refused=verdict.refused)
        await self._append(list(gather(verdicts)))
        try:
            await self._bus.ack(taken)
        except NoAnswer as error:
            # They come again, and change nothing then.
            self._log.warning("reports could not be acknowledged", error=str(error))

    async def _tell_refusals(self) -> None:
        while True:
            await asyncio.sleep(REFUSALS_SECONDS)
            await self._append(list(self._refusals.due(self._context.clock.now_ms())))

    async def _append(self, data: list[events.Data]) -> None:
        """Store events, and return when they surely are."""
        size = 1 if separable(data) else limits.BATCH_MESSAGES_MAX
        for start in range(0, len(data), size):
            batch = self._batch(data[start : start + size])
            while True:
                try:
                    await self._bus.append(batch)
                    break
                except AppendRefused:
                    break  # without an expected sequence only one thing is refused: what is stored already
                except AppendUnsettled as error:
                    self._log.warning("an append is unsettled and is sent again", error=str(error))
                    await asyncio.sleep(RESEND_SECONDS)
                except BusFull as error:
                    self._log.error("the log has no room: results wait", alarm=True, error=str(error))
                    await asyncio.sleep(FULL_SECONDS)

    def _batch(self, data: list[events.Data]) -> Batch:
        source = f"/fleetlog/result-recorder/{self._context.instance}"
        now_ms = self._context.clock.now_ms()
        ids = [new_id(now_ms, os.urandom(10)) for _ in data]
        drafts = tuple(
            Draft(
                subject=events.RESULT,
                body=codec.encode(codec.Event(id=event_id, source=source, data=one, time_ms=now_ms)),
            )
            for event_id, one in zip(ids, data, strict=True)
        )
        return Batch(drafts=drafts, message_id=ids[0])


def _fitting(taken: list[Taken], count_max: int) -> int:
    """Return how many of *taken* go into one append."""
    size = 0
    for count, one in enumerate(taken[:count_max]):
        size += len(one.body)
        if count and size > APPEND_BYTES_MAX:
            return count
    return min(len(taken), count_max)


async def run(context: Context) -> None:
    """Record reports and serve content until the service is stopped."""
    await Recorder(context).run()
