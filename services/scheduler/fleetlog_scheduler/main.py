"""The scheduler as a service: the runner that drives it. It hears nobody; everything it acts on is in the log."""

from __future__ import annotations

from fleetlog_runtime.shell.loop import EngineRunner
from fleetlog_runtime.shell.service import Context
from fleetlog_scheduler.unit import Scheduler

REST_SECONDS = 0.02
"""The log's news gather for so long: what is due is fired to the second, and most events are none of its business."""


async def run(context: Context) -> None:
    """Decide while active, stand by otherwise, until the service is stopped."""
    settings = context.settings.scheduler
    await EngineRunner(context, Scheduler(settings), (), settings.snapshot_events, rest_seconds=REST_SECONDS).run()
