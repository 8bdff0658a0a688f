"""`hosts` and `host`: the hosts as the log knows them, now or in the past."""

from __future__ import annotations

import fnmatch

from fleetlog_reporter.answers.desk import (
    Desk,
    NoAnswer,
    check_limit,
    check_one_of,
    decode_cursor,
    encode_cursor,
)
from fleetlog_reporter.apply import Projector
from fleetlog_reporter.readers import running_by_host
from fleetlog_schemas import questions
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.hosts import Host

PRESENCES = ("online", "offline", "joined", "refused", "revoked")


async def hosts(desk: Desk, question: questions.HostsQuestion) -> tuple[int, questions.Page]:
    """Answer which hosts there are, by name; `name` may have wildcards."""
    limit = check_limit(question.limit)
    check_one_of("presence", question.presence, PRESENCES)
    after = decode_cursor(question.cursor, tuple[str, str]) if question.cursor else None
    projector = await _at(desk, question)
    fitting = sorted(
        (host.name, host.host_id)
        for host in projector.hosts.by_id.values()
        if _fits(host, question) and (after is None or (host.name, host.host_id) > after)
    )
    running = running_by_host(projector)
    items = [_view(projector.hosts.by_id[host_id], running) for _, host_id in fitting[:limit]]
    cursor = encode_cursor(*fitting[limit - 1]) if len(fitting) > limit else None
    return projector.position, questions.Page(items=items, next_cursor=cursor)


async def host(desk: Desk, question: questions.HostsQuestion) -> tuple[int, questions.HostView]:
    """Answer what is known of one host, by id or name; a name in use goes before one that was revoked."""
    projector = await _at(desk, question)
    known = projector.hosts
    found = known.named(question.name) or next((one for one in known.by_id.values() if one.name == question.name), None)
    if found is None:
        raise NoAnswer(
            404, "host-not-found", f"no host is named {question.name[:60]!r}; `fleetlog host ls` lists them", "/name"
        )
    return projector.position, _view(found, running_by_host(projector))


async def _at(desk: Desk, question: questions.HostsQuestion) -> Projector:
    when = await desk.past(question)
    if when is None:
        await desk.wait(question)
        return desk.projector
    return await desk.past_fold(when, hosts_too=True)


def _fits(host: Host, question: questions.HostsQuestion) -> bool:
    if question.name and host.host_id != question.name and not fnmatch.fnmatchcase(host.name, question.name):
        return False
    if question.presence and host.presence != question.presence:
        return False
    if not question.label:
        return True
    key, equals, value = question.label.partition("=")
    return key in host.labels and (not equals or host.labels[key] == value)


def _view(host: Host, running: dict[str, int]) -> questions.HostView:
    return questions.HostView(
        host_id=host.host_id, name=host.name, presence=host.presence,
        since=rfc3339(host.presence_ms) if host.presence_ms else None, labels=dict(sorted(host.labels.items())),
        maintenance=host.maintenance, maintenance_reason=host.maintenance_reason, epoch=host.epoch, version=host.version,
        enrolled_at=rfc3339(host.enrolled_ms), running=running.get(host.host_id, 0), facts=dict(host.facts),
        refusals=[{"time": rfc3339(one.time_ms), "code": one.code, "message": one.message} for one in host.refusals],
        refused_reason=host.blocked.message if host.blocked else "",
        refused_code=host.blocked.code if host.blocked else "",
    )
