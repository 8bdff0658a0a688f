"""The keeper as a service: its folder, what it hears, and the runner that drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from fleetlog_keeper.folder import Folder
from fleetlog_keeper.hands import Hands
from fleetlog_keeper.live import ALERTS, STATUS, TOLD, WEBHOOKS
from fleetlog_keeper.posting import BadAuthorities, Poster, trusting
from fleetlog_keeper.unit import Keeper
from fleetlog_runtime.pure import egress
from fleetlog_runtime.pure.bus import Bus
from fleetlog_runtime.pure.webhook_signing import WEBHOOK_KEY
from fleetlog_runtime.shell.archive import chunk_of, folder_of
from fleetlog_runtime.shell.archived_bus import ArchivedBus
from fleetlog_runtime.shell.loop import EngineRunner
from fleetlog_runtime.shell.service import Context, Fatal
from fleetlog_schemas import subjects

REST_SECONDS = 0.05
"""The log's news gather for so long: nobody waits for the archive, and alerts gather for longer anyway."""


async def run(context: Context) -> None:
    """Seal and prune while active, keep a copy of the archive in any case, until the service is stopped.

    Raises:
        Fatal: the archive's folder cannot be used, a setting of webhooks is wrong, or a part of the log is missing.
    """
    settings = context.settings.keeper
    folder = Folder(folder_of(context.home.path, settings.archive_path))
    try:
        await asyncio.to_thread(folder.prepare)
    except OSError as error:
        raise Fatal(
            f"the archive {folder.path} cannot be used: {error.strerror}; see to the folder, or set keeper.archive_path"
        ) from None
    bus = context.bus if isinstance(context.bus, ArchivedBus) else ArchivedBus(context.bus, folder.path)
    try:
        trusted = trusting(context.home.path / settings.webhook_ca if settings.webhook_ca else None)
        poster = Poster(context.home.secret(WEBHOOK_KEY), egress.allowed_of(settings.webhook_internal), trusted)
    except (egress.Refused, BadAuthorities) as error:
        raise Fatal(str(error)) from None
    hands = Hands(bus, folder, settings, poster, context.log)
    questions = (TOLD, STATUS, ALERTS, WEBHOOKS)
    runner = EngineRunner(
        context, Keeper(settings), questions, settings.snapshot_events, hands=hands, rest_seconds=REST_SECONDS
    )
    stop_giving = await _give_segments(context.bus, folder.path)
    running, copying = asyncio.create_task(runner.run()), asyncio.create_task(hands.copy())
    try:
        ended, _ = await asyncio.wait({running, copying}, return_when=asyncio.FIRST_COMPLETED)
        ended.pop().result()
    finally:
        for task in (running, copying):
            task.cancel()
        await asyncio.gather(running, copying, return_exceptions=True)
        await stop_giving()


async def _give_segments(bus: Bus, folder: Path) -> Callable[[], Awaitable[None]]:
    """Answer whoever needs a segment and has no folder; any keeper does."""

    async def asked(_subject: str, body: bytes, reply: str) -> None:
        if reply:
            await bus.publish(reply, await asyncio.to_thread(chunk_of, folder, body))

    return await bus.subscribe(subjects.ask("keeper", "segment"), asked, queue="keeper")
