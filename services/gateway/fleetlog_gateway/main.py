"""The gateway as a service."""

from __future__ import annotations

from fleetlog_gateway.assembly import CannotServe, Options, build, running
from fleetlog_runtime.pure import egress
from fleetlog_runtime.pure.bus import NoAnswer
from fleetlog_runtime.shell.service import Context, Fatal
from fleetlog_schemas.codec import TooNew


async def run(context: Context) -> None:
    """Serve HTTP until the service is stopped.

    Raises:
        Fatal: the address is taken or not ours, or the log has events that this version must not pass over.
        NoAnswer: the connection to the bus ended for good.
    """
    settings = context.settings.gateway
    try:
        allowed = egress.allowed_of(context.settings.keeper.webhook_internal)
    except egress.Refused as error:
        raise Fatal(str(error)) from None
    options = Options(
        listen=settings.listen, port=settings.port, instance=context.instance,
        waiting_max=context.settings.runtime.publisher_waiting_max, egress=allowed,
    )
    try:
        gateway = await build(context.bus, context.home, context.clock.shown_ms, context.log, options, context.health)
        async with running(gateway, options) as url:
            context.log.info("serving", url=url)
            context.ready()
            await context.stop.wait()
    except* (CannotServe, TooNew) as errors:
        raise Fatal(str(_first(errors))) from None
    except* NoAnswer as errors:
        raise _first(errors) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
