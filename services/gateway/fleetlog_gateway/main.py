"""The gateway as a service."""

from __future__ import annotations

from fleetlog_gateway.assembly import CannotServe, Options, build, running
from fleetlog_runtime.shell.service import Context, Fatal


async def run(context: Context) -> None:
    """Serve HTTP until the service is stopped.

    Raises:
        Fatal: the address is taken or not ours.
    """
    settings = context.settings.gateway
    options = Options(listen=settings.listen, port=settings.port, instance=context.instance)
    gateway = await build(context.bus, context.home, context.clock.now_ms, context.log, options)
    try:
        async with running(gateway, options) as url:
            context.log.info("serving", url=url)
            context.ready()
            await context.stop.wait()
    except* CannotServe as errors:
        raise Fatal(str(errors.exceptions[0])) from None
