"""The reporter as a service: its folder in the home, and what stops it for good."""

from __future__ import annotations

import duckdb

from fleetlog_reporter.service import Reporter
from fleetlog_reporter.store import Damaged, FileInUse
from fleetlog_runtime.shell.service import Context, Fatal


async def run(context: Context) -> None:
    """Keep the projection and answer until the service is stopped.

    Raises:
        Fatal: another reporter has the file, it cannot be written, or it broke again and again.
    """
    reporter = Reporter(
        context.bus, context.home.path / "reporter", context.clock.shown_ms, context.log, context.health,
        context.settings.reporter,
    )
    try:
        await reporter.run(context.stop, context.ready)
    except FileInUse as error:
        raise Fatal(str(error)) from None
    except duckdb.Error as error:
        raise Fatal(f"the projection cannot be written; is the disk full? {error}") from None
    except Damaged as error:
        raise Fatal(f"the projection broke again after it was built anew; look at the disk: {error}") from None
