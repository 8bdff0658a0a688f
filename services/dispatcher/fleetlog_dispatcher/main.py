"""The dispatcher as a service: its keys, what it hears, and the runner that drives it."""

from __future__ import annotations

from fleetlog_dispatcher.sessions import Keys
from fleetlog_dispatcher.unit import Dispatcher
from fleetlog_runtime.shell.loop import EngineRunner
from fleetlog_runtime.shell.service import Context
from fleetlog_schemas import subjects


async def run(context: Context) -> None:
    """Decide while active, stand by otherwise, until the service is stopped."""
    settings = context.settings.dispatcher
    home = context.home
    keys = Keys(
        ticket=home.secret("ticket"), token=home.secret("token"), blob=home.secret("blob"), signer=home.signer()
    )
    heard = (
        subjects.HEARTBEATS, subjects.SESSIONS, subjects.ask("dispatcher", "plan"), subjects.ask("dispatcher", "waiting"),
        subjects.ask("dispatcher", "admission"),
    )
    await EngineRunner(context, Dispatcher(settings, keys), heard, settings.snapshot_events).run()
