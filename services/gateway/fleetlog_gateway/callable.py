"""Whether a function that is asked for can run anywhere, said before anything is stored: the dispatcher's own rule.

The gateway asks the reporter once what hosts offer, and then reads what they say anew. Before it refuses it reads to the end of the
log, so that a host which has just said what it offers counts. What cannot be known here (a target that is wrong, a host that was
never heard, a reporter that is silent) is left to the dispatcher.
"""

from __future__ import annotations

import asyncio

from fleetlog_gateway import decode, limits
from fleetlog_gateway.access import Access, directory_of
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import FieldError, HttpProblem
from fleetlog_schemas import subjects
from fleetlog_schemas.functions import UNKNOWN, WRONG_ARGUMENTS, Unfit, described, fits, offering_of, runs_on
from fleetlog_schemas.offers import Offers, OffersQuestion
from fleetlog_schemas.signatures import SIGNATURES_KNOWN_MAX
from fleetlog_schemas.spec import Function, TaskSpec
from fleetlog_schemas.targets import TargetError

FUNCTION_PROBLEMS = (UNKNOWN, WRONG_ARGUMENTS)
"""With which `check_callable` refuses."""


async def check_callable(gateway: Gateway, spec: TaskSpec, prefix: str = "") -> None:
    """Refuse a function that no host of the target offers, or not with these arguments. Raises HttpProblem."""
    if not isinstance(spec.payload, Function) or not (gateway.access.offers_known or await _offers_learned(gateway)):
        return
    if unfit(gateway.access, spec, spec.payload) is not None:
        newest_seq = (await gateway.bus.state(subjects.EVENTS)).last_seq
        await gateway.tail.grown_past(newest_seq, limits.APPEND_SECONDS_MAX)
        error = unfit(gateway.access, spec, spec.payload)
        if error is not None:
            raise HttpProblem(error.code, error.message, errors=[FieldError(prefix + error.pointer, error.message)])


async def _offers_learned(gateway: Gateway) -> bool:
    """Ask the reporter what hosts offer; tell whether it is known."""
    access, loop = gateway.access, asyncio.get_running_loop()
    async with gateway.offers_lock:
        if not access.offers_known and loop.time() >= gateway.offers_again_s:
            try:
                # No older than what was read here: who says something anew from then on is heard.
                asked = OffersQuestion(at_least_seq=gateway.tail.next_seq - 1)
                told = await gateway.asker.ask("reporter", "offers", asked, limits.ASK_EXTRA_MS_MAX)
                found = decode.json_answer(told.data, Offers, "reporter")
            except HttpProblem:
                gateway.offers_again_s = loop.time() + limits.ASK_OFFERS_SECONDS
                return False
            for offer in found.offers:
                for host_id in offer.host_ids:
                    host = access.hosts.by_id.get(host_id)
                    if host is not None and not host.facts:
                        host.facts = dict(offer.facts)
            access.offers_known = True
        return access.offers_known


def unfit(access: Access, spec: TaskSpec, function: Function) -> Unfit | None:
    """Return why a function cannot run on any host that is meant; None when it can, or that is not to be said here."""
    asked = (function.name, spec.queue, spec.choose is None, spec.target)
    # Thousands of calls of one function come in a second: only their arguments differ.
    if not spec.host_ids and any(fits(spec, function, text) for text in access.signatures.get(asked, ())):
        return None
    known = directory_of(access)
    try:
        if spec.host_ids:
            meant = [known.by_id[host_id] for host_id in spec.host_ids if host_id in known.by_id]
        else:
            meant = known.resolve(spec.target)
        if meant:
            runs_on(spec, function, meant)
            if not spec.host_ids and len(access.signatures) < SIGNATURES_KNOWN_MAX:
                access.signatures[asked] = {described(host, function.name)[0] for host in offering_of(spec, function, meant)}
    except TargetError:
        return None
    except Unfit as error:
        return error
    return None
