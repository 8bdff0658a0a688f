"""What the active keeper knows that is not in the log: what it is doing, how full the log is, who reads from where."""

from __future__ import annotations

import msgspec

from fleetlog_keeper import watching, works
from fleetlog_keeper.state import State
from fleetlog_keeper.watching import Watching
from fleetlog_runtime.pure.effects import Answer, Changed, Done, Performed, Request, Tick, Work
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_schemas import subjects
from fleetlog_schemas.archive_events import SegmentSealed

READERS = ("dispatcher", "scheduler", "reporter", "keeper")
"""Services that read the log on from a place that they remember: a new one that does is added here."""
TOLD = subjects.ask("keeper", "told")
STATUS = subjects.ask("keeper", "status")
ALERTS = subjects.ask("keeper", "alerts")
WEBHOOKS = subjects.ask("keeper", "webhooks")
ASKED_MAX = 100
"""Questions that wait for the next decision; more are not answered, and are asked again."""
RETRY_MS = 30_000
"""Before something that could not be done is tried again: a disk that is full or a bus that is away stays so for a while."""
ANSWERING_LOOKS = 3
"""A service answers as long as one of so many looks was answered."""


class Told(msgspec.Struct, frozen=True):
    """What a health answer says of where a service would read on."""

    service: str
    instance: str
    snapshot: int | None = None


class Heard(msgspec.Struct, frozen=True):
    """From where one instance would read, and when it said so."""

    snapshot: int
    at_ms: int


class Asked(msgspec.Struct, frozen=True):
    """A question that waits for the next decision."""

    subject: str
    body: bytes


class Live(msgspec.Struct):
    """The live state of one leadership."""

    since_ms: int
    working: object | None = None
    looked_ms: int | None = None
    room: works.Room | None = None
    """None until the first look, and again after a purge."""
    heard: dict[str, dict[str, Heard]] = {}
    """By service and instance."""
    made: SegmentSealed | None = None
    """A segment that is on the disk and not yet in the log."""
    not_full_at: int = 0
    """The position at which the next segment was last found not to be full."""
    not_full_bytes: int = 0
    """How full the log was then."""
    checked_through: int = 0
    purged_through: int = 0
    """As far as this leadership has seen to it that what the log says is pruned is gone."""
    retry_ms: int = 0
    error: str = ""
    """Why the last work could not be done."""
    asked: dict[str, Asked] = {}
    """Where answers are waited for, and to what."""
    watching: Watching = msgspec.field(default_factory=Watching)


def awaken(now_ms: int) -> Live:
    """Return the live state of a keeper that takes over."""
    return Live(since_ms=now_ms)


def observe(settings: KeeperSettings, state: State, live: Live, observation: object, now_ms: int) -> None:
    """Take in one observation."""
    match observation:
        case Tick():
            watching.ticked(settings, state.watch, live.watching)
        case Changed(changes=touched):
            watching.changed(live.watching, touched)
        case Performed(effect=Work(what=works.Post() as post)):
            watching.sent(live.watching, post)
        case Done(what=works.Post() as post, found=found, error=error):
            watching.done(live.watching, post, found or works.Posted(error=error))
        case Performed(effect=Work(what=what)):
            live.working = what
        case Performed(effect=Answer(reply=reply)) if reply in live.asked:
            del live.asked[reply]
        case Request(subject=subject, body=body, reply=reply):
            if subject == TOLD:
                _told(settings, live, body, now_ms)
            elif reply and len(live.asked) < ASKED_MAX:
                live.asked[reply] = Asked(subject, body)
        case Done(what=what) if what == live.working:
            live.working = None
            _done(live, observation, now_ms)
        case _:
            pass


def _told(settings: KeeperSettings, live: Live, body: bytes, now_ms: int) -> None:
    try:
        told = msgspec.json.decode(body, type=Told)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    if told.service in READERS and told.snapshot is not None:
        of_service = live.heard.setdefault(told.service, {})
        of_service[told.instance] = Heard(told.snapshot, now_ms)
        # An instance that is gone, and was followed by another, reads nothing any more.
        for instance in [one for one, heard in of_service.items() if heard.at_ms < answering_since(settings, now_ms)]:
            del of_service[instance]


def answering_since(settings: KeeperSettings, now_ms: int) -> int:
    """Return since when an instance must have answered to count as one that runs."""
    return now_ms - ANSWERING_LOOKS * settings.look_ms


def _done(live: Live, done: Done, now_ms: int) -> None:
    live.error = done.error
    if done.error:
        live.retry_ms = now_ms + RETRY_MS
        return
    match done.what:
        case works.Look():
            live.looked_ms, live.room = now_ms, done.found
        case works.Make(through_seq=through_seq):
            live.made = done.found
            if done.found is None:
                live.not_full_at, live.not_full_bytes = through_seq, live.room.bytes if live.room else 0
        case works.Check(through_seq=through_seq):
            live.checked_through = through_seq
        case works.Purge(through_seq=through_seq):
            live.purged_through, live.room, live.looked_ms, live.not_full_bytes = through_seq, None, None, 0
        case _:
            pass
