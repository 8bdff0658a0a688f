"""`functions`: the Python functions that hosts offer, now or in the past, by what the hosts say of themselves.

`offers` is the same, host by host, for a gateway that checks what is submitted.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict

from fleetlog_reporter.answers.desk import Desk, check_limit, decode_cursor, encode_cursor
from fleetlog_schemas import questions
from fleetlog_schemas.functions import QUEUES_FACT, described, offered_by, said_of_functions
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.offers import Offer, Offers, OffersQuestion

HOST_NAMES_MAX = 100


async def functions(desk: Desk, question: questions.FunctionsQuestion) -> tuple[int, questions.Page]:
    """Answer which functions there are, by name; `name` may have wildcards."""
    limit = check_limit(question.limit)
    after = decode_cursor(question.cursor, str) if question.cursor else ""
    when = await desk.past(question)
    if when is None:
        await desk.wait(question)
    projector = desk.projector if when is None else await desk.past_fold(when, hosts_too=True)
    found: dict[str, list[Host]] = defaultdict(list)
    for host in projector.hosts.by_id.values():
        if not host.revoked:
            for name in offered_by(host):
                if name > after and (not question.name or fnmatch.fnmatchcase(name, question.name)):
                    found[name].append(host)
    names = sorted(found)
    items = [_view(name, found[name]) for name in names[:limit]]
    return projector.position, questions.Page(items=items, next_cursor=encode_cursor(names[limit - 1]) if len(names) > limit else None)


async def offers(desk: Desk, question: OffersQuestion) -> tuple[int, Offers]:
    """Answer what each host offers, as it says so itself."""
    await desk.wait(question)
    alike: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for host in desk.projector.hosts.by_id.values():
        if host.facts and not host.revoked:
            alike[tuple(sorted(said_of_functions(host.facts).items()))].append(host.host_id)
    return desk.projector.position, Offers([Offer(dict(facts), host_ids) for facts, host_ids in alike.items()])


def _view(name: str, hosts: list[Host]) -> questions.FunctionView:
    said = {found for host in hosts if any(found := described(host, name))}
    signature, summary = min(said, default=("", ""))
    return questions.FunctionView(
        name=name, signature=signature, summary=summary, hosts=len(hosts), differs=len({one for one, _ in said}) > 1,
        queues=sorted({queue for host in hosts for queue in str(host.facts.get(QUEUES_FACT, "")).split()}),
        host_names=sorted(host.name for host in hosts)[:HOST_NAMES_MAX],
    )
