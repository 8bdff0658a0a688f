"""What is due: look, make a segment, say that it is sealed, check, say that the log is pruned, remove it.

One thing at a time, and each rests on the one before: a segment is in the log only after it was read back from the
disk; a pruning is in the log only after its segments were read back once more, and is carried out only after it was
read back from the log. Whatever was cut off by a crash is found undone and done again, to the same bytes.
"""

from __future__ import annotations

import msgspec

from fleetlog_keeper import prune, telling, watching, works
from fleetlog_keeper.live import ALERTS, WEBHOOKS, Asked, Live
from fleetlog_keeper.state import State
from fleetlog_runtime.pure.effects import Answer, Append, Effect, WakeAt, Work
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_schemas.archive import ArchiveStatus


def decide(settings: KeeperSettings, state: State, live: Live, now_ms: int) -> list[Effect]:
    """Return what is due; changes nothing."""
    effects: list[Effect] = [Answer(reply, _answer(settings, state, live, one, now_ms)) for reply, one in live.asked.items()]
    effects += watching.decide(settings, state.watch, live.watching, now_ms)
    if live.working is not None:
        return effects
    if now_ms < live.retry_ms:
        return [*effects, WakeAt(live.retry_ms)]
    due = _due(settings, state, live, now_ms)
    if due is not None:
        return [*effects, due]
    return [*effects, WakeAt((live.looked_ms or now_ms) + settings.look_ms)]


def _answer(settings: KeeperSettings, state: State, live: Live, asked: Asked, now_ms: int) -> bytes:
    if asked.subject == ALERTS:
        return telling.alerts(state.watch, state.position, asked.body)
    if asked.subject == WEBHOOKS:
        return telling.webhooks(state.watch, state.position, asked.body)
    return _status(settings, state, live, now_ms)


def _due(settings: KeeperSettings, state: State, live: Live, now_ms: int) -> Effect | None:
    archive = state.archive
    if archive.pruned_through > live.purged_through:
        return Work(works.Purge(state.pruned_from, archive.pruned_through, archive.below))
    if live.made is not None and live.made.first_seq == archive.sealed_through + 1:
        return Append((live.made,))
    if live.looked_ms is None or now_ms >= live.looked_ms + settings.look_ms:
        return Work(works.Look())
    if _may_be_full(settings, state, live):
        return Work(works.Make(archive.sealed_through + 1, state.position, archive.chain_head))
    pruned = prune.due(settings, state, live, now_ms)
    if pruned is None:
        return None
    if live.checked_through < pruned.through_seq:
        return Work(works.Check(archive.pruned_through + 1, pruned.through_seq))
    return Append((pruned,))


def _may_be_full(settings: KeeperSettings, state: State, live: Live) -> bool:
    """Whether the next segment is full, as far as can be told without reading it: by count, or by the log's growth."""
    if state.position == live.not_full_at:
        return False
    if state.position - state.archive.sealed_through >= settings.segment_events:
        return True
    return live.room is not None and live.room.bytes - live.not_full_bytes >= settings.segment_bytes


def _status(settings: KeeperSettings, state: State, live: Live, now_ms: int) -> bytes:
    room = live.room or works.Room(0, 0)
    return msgspec.json.encode(
        ArchiveStatus(
            position=state.position, sealed_through=state.archive.sealed_through, segments=len(state.archive.sealed),
            pruned_through=state.archive.pruned_through, log_bytes=room.bytes, log_bytes_max=room.bytes_max,
            held_back=prune.held_back(settings, state, live, now_ms), error=live.error,
        )
    )
