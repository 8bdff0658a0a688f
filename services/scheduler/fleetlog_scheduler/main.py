"""The scheduler as a service: the runner that drives it. It hears nobody; everything it acts on is in the log."""

from __future__ import annotations

from fleetlog_runtime.shell.loop import EngineRunner
from fleetlog_runtime.shell.service import Context
from fleetlog_scheduler.unit import Scheduler


async def run(context: Context) -> None:
    """Decide while active, stand by otherwise, until the service is stopped."""
    settings = context.settings.scheduler
    await EngineRunner(context, Scheduler(settings), (), settings.snapshot_events).run()
