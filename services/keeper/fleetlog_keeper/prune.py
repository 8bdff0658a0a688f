"""How far the log may be pruned, and why not further: the rules, each once.

Only whole segments go, only what this keeper's own disk was seen to hold, and never: what an open task began after,
what a service that answers would still read, the last message of a subject.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fleetlog_keeper.live import READERS, Live, answering_since
from fleetlog_keeper.state import State, oldest_open
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_schemas import archive_events

DAY_MS = 86_400_000


class Bound(msgspec.Struct, frozen=True):
    """Nothing above *through_seq* may go, because of *why*."""

    through_seq: int
    why: str


def bounds(settings: KeeperSettings, state: State, live: Live, now_ms: int, *, patient: bool) -> Iterator[Bound]:
    """Yield what holds pruning back; a *patient* keeper also waits for services that do not answer, for a while."""
    yield Bound(state.archive.sealed_through, "only what is archived is pruned")
    task = oldest_open(state)
    if task is not None:
        yield Bound(task.submitted_seq - 1, f"task {task.task_id} is open")
    for service in READERS:
        heard = live.heard.get(service, {}).values()
        answering = [one for one in heard if one.at_ms >= answering_since(settings, now_ms)]
        waited_ms = now_ms - max((one.at_ms for one in heard), default=live.since_ms)
        if answering:
            yield Bound(min(one.snapshot for one in answering), f"the {service} would read on from there")
        elif patient and waited_ms < settings.silent_ms:
            snapshot = min((one.snapshot for one in heard), default=0)
            yield Bound(snapshot, f"the {service} does not answer, and may have to read on from there")


def narrowest(settings: KeeperSettings, state: State, live: Live, now_ms: int, *, patient: bool) -> Bound:
    """Return what holds pruning back most."""
    return min(bounds(settings, state, live, now_ms, patient=patient), key=lambda bound: bound.through_seq)


def due(settings: KeeperSettings, state: State, live: Live, now_ms: int) -> archive_events.LogPruned | None:
    """Return the pruning that is due, None when there is none."""
    if live.room is None or state.archive.sealed_through <= state.archive.pruned_through:
        return None
    aged = _aged(settings, state, narrowest(settings, state, live, now_ms, patient=True), now_ms)
    for_room = _for_room(settings, state, live, narrowest(settings, state, live, now_ms, patient=False))
    through_seq = max(aged, for_room)
    if through_seq <= state.archive.pruned_through:
        return None
    below = {
        # The last message of a subject is the fence of its writers: without it the bus forgets the sequence.
        subject: min(through_seq + 1, state.last_by_subject[subject])
        for subject in archive_events.PRUNABLE if subject in state.last_by_subject
    }
    return archive_events.LogPruned(through_seq=through_seq, below=below, reason="age" if aged >= for_room else "room")


def _aged(settings: KeeperSettings, state: State, bound: Bound, now_ms: int) -> int:
    """Return through where everything is old enough and may go."""
    oldest_ms = now_ms - int(settings.keep_days * DAY_MS)
    through_seq = 0
    for sealed in state.archive.sealed:
        if sealed.last_ms > oldest_ms or sealed.last_seq > bound.through_seq:
            break
        through_seq = sealed.last_seq
    return through_seq


def _for_room(settings: KeeperSettings, state: State, live: Live, bound: Bound) -> int:
    """Return through where segments must go so that the log is less full than it may be."""
    room = live.room
    through_seq = 0
    if room is None:
        return through_seq
    excess = room.bytes - int(settings.full_ratio * room.bytes_max)
    for sealed in state.archive.sealed:
        if sealed.last_seq <= state.archive.pruned_through:
            continue
        if excess <= 0 or sealed.last_seq > bound.through_seq:
            break
        through_seq = sealed.last_seq
        excess -= sealed.bytes
    return through_seq


def held_back(settings: KeeperSettings, state: State, live: Live, now_ms: int) -> str:
    """Say why what should be pruned is not: nothing when nothing should."""
    everything = Bound(state.archive.sealed_through, "")
    aged, for_room = _aged(settings, state, everything, now_ms), _for_room(settings, state, live, everything)
    wanted = max(aged, for_room)
    bound = narrowest(settings, state, live, now_ms, patient=aged >= for_room)
    return bound.why if wanted > state.archive.pruned_through and bound.through_seq < wanted else ""
