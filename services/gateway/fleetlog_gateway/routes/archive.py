"""Where the log's past is: what is sealed in the archive, what was pruned, and what the keeper says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import limits
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.registry import Answered, Call, Nothing, reply, route
from fleetlog_runtime.pure.bus import Bus, NoAnswer
from fleetlog_runtime.shell.archive import Segments
from fleetlog_schemas import questions, subjects
from fleetlog_schemas.archive import ArchiveStatus
from fleetlog_schemas.archive_events import SegmentSealed
from fleetlog_schemas.codec import rfc3339


class ArchiveQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which segments: those that end at this sequence or later."""

    from_seq: Annotated[int, Meta(ge=0, le=2**53)] = 0
    limit: Annotated[int, Meta(ge=1, le=questions.PAGE_MAX)] = questions.PAGE_MAX


class SegmentView(msgspec.Struct, frozen=True):
    """One sealed segment: the part of the log that it holds."""

    first_seq: int
    last_seq: int
    first_at: str
    last_at: str
    bytes: int
    """Of its content before compression."""
    sha256: str
    """Of its content before compression."""
    chain_head: str
    """The head of the hash chain after its last message."""
    pruned: bool
    """Whether the bus may have it no more."""


class ArchivePage(msgspec.Struct, frozen=True):
    """Sealed segments; `next_seq` asks for more, null at the end."""

    segments: list[SegmentView]
    next_seq: int | None
    sealed_through: int
    pruned_through: int
    keeper: ArchiveStatus | None
    """What the active keeper says; null when it does not answer."""


@route("GET", "/api/v1/archive", auth=Permission.READ, query=ArchiveQuery, answer=Answered[ArchivePage], problems=("bad-query",))
async def archive(call: Call[Nothing, ArchiveQuery]) -> web.Response:
    """List what the log says is archived, without the reporter and also while no keeper runs."""
    bus, query = call.gateway.bus, call.query
    known = await Segments(bus, Path()).refresh()
    wanted = [one for one in known.sealed if one.last_seq >= query.from_seq]
    page = ArchivePage(
        segments=[_view(one, known.pruned_through) for one in wanted[: query.limit]],
        next_seq=wanted[query.limit].first_seq if len(wanted) > query.limit else None,
        sealed_through=known.sealed_through, pruned_through=known.pruned_through, keeper=await _status(bus),
    )
    return reply({"seq": (await bus.state(subjects.EVENTS)).last_seq, "data": page})


def _view(sealed: SegmentSealed, pruned_through: int) -> SegmentView:
    return SegmentView(
        first_seq=sealed.first_seq, last_seq=sealed.last_seq, first_at=rfc3339(sealed.first_ms),
        last_at=rfc3339(sealed.last_ms), bytes=sealed.bytes, sha256=sealed.sha256, chain_head=sealed.chain_head,
        pruned=sealed.last_seq <= pruned_through,
    )


async def _status(bus: Bus) -> ArchiveStatus | None:
    try:
        body = await bus.request(subjects.ask("keeper", "status"), b"", limits.ASK_READY_MS_MAX)
        return msgspec.json.decode(body, type=ArchiveStatus)
    except (NoAnswer, msgspec.MsgspecError):
        return None
