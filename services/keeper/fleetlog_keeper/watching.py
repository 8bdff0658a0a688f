"""What is due of alerts and webhooks: raise, resolve, send, note what came of it, disable. Pure and level-triggered.

Raising and resolving compare the troubles with the alerts; sending compares what is owed with what is on its way. What a
try came to is kept until the log has it, and only then forgotten: a keeper that dies between the endpoint's answer and
the log sends the message again, with the same id.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

import msgspec

from fleetlog_keeper import works
from fleetlog_keeper.outbox import Message, Outbox
from fleetlog_keeper.troubles import LASTING, REPORTS_QUIET_MS, Alert, Trouble, Troubles, new_alert_id
from fleetlog_keeper.watch import Watch
from fleetlog_runtime.pure.effects import Append, Effect, WakeAt, Work
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_runtime.pure.split import split
from fleetlog_schemas import limits
from fleetlog_schemas.alert_events import (
    AlertsRaised,
    AlertsResolved,
    Kind,
    RaisedAlert,
    WebhookAttempt,
    WebhookDisabled,
    WebhooksAttempted,
)
from fleetlog_schemas.events import Data
from fleetlog_schemas.occurrences import next_tick
from fleetlog_schemas.schedules import Schedules

GATHER_MS: dict[Kind, int] = {"host-gone": 15_000, "host-refused": 5_000, "reports-refused": 5_000}
"""How long alerts of a kind wait for more of the same: a switch that fails takes its hosts within seconds, not at once."""
RETRY_STEPS = (1, 12, 60, 360, 1_440, 3_600, 5_760, 5_760)
"""Pauses between tries of one message, in times of `keeper.webhook_retry_ms`: with 5 s it is 5 s, 1 min, 5 min, 30 min,
2 h, 5 h, 8 h, 8 h; a day in all, for endpoints that are down over night."""
EXPECTED_AT_ONCE = 2_000
"""Schedules whose next tick is looked up in one decision."""
HTTP_GONE = 410
_NEVER_MS = 2**62
_WHAT: dict[Kind, str] = {
    "task-failed": "definitions ended badly", "schedule-missed": "schedules missed ticks", "host-gone": "hosts are gone",
    "host-refused": "hosts are refused", "reports-refused": "hosts sent reports that were refused",
    "webhook-disabled": "webhooks are disabled",
}


class Watching(msgspec.Struct):
    """What the active keeper knows of alerts and webhooks beside the log."""

    on_its_way: dict[str, works.Post] = {}
    """By id of the webhook."""
    posted: dict[str, tuple[works.Post, works.Posted]] = {}
    """By id of the message: what came of it, until the log has it."""
    expected: dict[str, int] = {}
    """Until when a tick of a schedule must have met its fate, of those that expect one."""
    soonest_ms: int = _NEVER_MS
    """The first of them."""
    unknown: dict[str, None] = {}
    """Schedules whose next tick has to be looked up."""
    begun: bool = False


# --- observing ---


def sent(watching: Watching, post: works.Post) -> None:
    """A message is on its way."""
    watching.on_its_way[post.webhook_id] = post


def done(watching: Watching, post: works.Post, posted: works.Posted) -> None:
    """Take in what came of a message."""
    if watching.on_its_way.get(post.webhook_id) == post:
        del watching.on_its_way[post.webhook_id]
        watching.posted[post.message_id] = (post, posted)


def changed(watching: Watching, touched: tuple[str, ...]) -> None:
    """Learn that the log has news of these schedules."""
    for name in touched:
        watching.unknown[name] = None


def ticked(settings: KeeperSettings, watch: Watch, watching: Watching) -> None:
    """Forget what the log has by now of messages, and look up what is not known yet of the next ticks."""
    for message_id, (post, _) in list(watching.posted.items()):
        outbox = watch.outboxes.get(post.webhook_id)
        message = outbox.waiting.get(message_id) if outbox is not None else None
        if message is None or message.attempts >= post.attempt:
            del watching.posted[message_id]
    if not watching.begun:
        watching.begun, watching.unknown = True, dict.fromkeys(watch.schedules.tracks)
    looked_up = list(itertools.islice(watching.unknown, EXPECTED_AT_ONCE))
    for name in looked_up:
        del watching.unknown[name]
        watching.expected.pop(name, None)
        if found_ms := _expected_ms(watch.schedules, name):
            watching.expected[name] = found_ms + settings.tick_overdue_ms
    if looked_up:
        watching.soonest_ms = min(watching.expected.values(), default=_NEVER_MS)


def _expected_ms(schedules: Schedules, name: str) -> int:
    """Return when the next tick of a schedule must have met its fate at the latest; 0 when none is expected."""
    track = schedules.tracks.get(name)
    if track is None:
        return 0
    for period in track.periods:
        tick = next_tick(period.rule, max(track.settled_ms, period.from_ms))
        if tick is not None and period.paused is None and not (period.until_ms and tick.at_ms > period.until_ms):
            return tick.at_ms + period.rule.policy.jitter_ms
    return 0


# --- deciding ---


def decide(settings: KeeperSettings, watch: Watch, watching: Watching, now_ms: int) -> list[Effect]:
    """Return what is due."""
    raised, wake_ms = _raised(settings, watch.troubles, now_ms)
    silent, overdue_ms = _silent(watch.troubles, watching, now_ms)
    resolved = list(_resolved(watch.troubles, now_ms, silent=bool(overdue_ms <= now_ms)))
    data: list[Data] = [
        *split(lambda entries: WebhooksAttempted(attempts=entries), _attempts(settings, watch, watching, now_ms)),
        *_disabled(settings, watch, watching, now_ms),
        # What is over before what is new: a definition that failed, ran well and failed again has one open alert at any time.
        *split(lambda entries: AlertsResolved(alert_ids=entries), resolved),
        *split(lambda entries: AlertsRaised(alerts=entries), [*raised, *silent]),
    ]
    effects: list[Effect] = [Append(tuple(data[: limits.BATCH_MESSAGES_MAX]))] if data else []
    wakes = [at_ms for at_ms in (wake_ms, overdue_ms) if now_ms < at_ms < _NEVER_MS]
    for webhook_id, outbox in watch.outboxes.items():
        message = _next(outbox, watching)
        if message is None or webhook_id in watching.on_its_way or webhook_id not in watch.webhooks.by_id:
            continue
        if message.due_ms > now_ms:
            wakes.append(message.due_ms)
        else:
            effects.append(Work(_post(settings, watch, webhook_id, message, now_ms), lane=f"webhook {webhook_id}"))
    if any(alert.raised.kind == "reports-refused" for alert in watch.troubles.open.values()):
        wakes.append(now_ms + 60_000)
    return [*effects, *map(WakeAt, wakes)]


def _raised(settings: KeeperSettings, troubles: Troubles, now_ms: int) -> tuple[list[RaisedAlert], int]:
    """Return the alerts that are due, and when the next ones may be."""
    found: list[RaisedAlert] = []
    wake_ms = _NEVER_MS
    for kind, waiting in troubles.waiting.items():
        if not waiting:
            continue
        delay_ms = settings.host_gone_ms if kind == "host-gone" else 0
        # Refused reports are noted at the newest of them, so what is waited for is the first.
        due_ms = min(trouble.since_ms for trouble in waiting.values()) + delay_ms + GATHER_MS.get(kind, 0)
        if due_ms > now_ms:
            wake_ms = min(wake_ms, due_ms)
            continue
        ripe = {subject: trouble for subject, trouble in waiting.items() if trouble.since_ms + delay_ms <= now_ms}
        if len(ripe) > limits.ALERTS_APART_MAX:
            found.append(_alert(troubles, kind, ripe, now_ms - delay_ms))
        else:
            found += [_alert(troubles, kind, {subject: trouble}, now_ms - delay_ms) for subject, trouble in ripe.items()]
    return found, wake_ms


def _alert(troubles: Troubles, kind: Kind, ripe: dict[str, Trouble], through_ms: int) -> RaisedAlert:
    first, trouble = next(iter(ripe.items()))
    subjects = tuple(ripe)[: limits.ALERT_SUBJECTS_MAX]
    names = tuple(ripe[subject].name for subject in subjects)
    if len(ripe) == 1:
        message = f"{trouble.name}: {trouble.detail}" if not kind.startswith("host") else f"{trouble.name} {trouble.detail}"
    else:
        more = f" and {len(ripe) - len(names)} more" if len(ripe) > len(names) else ""
        message = f"{len(ripe)} {_WHAT[kind]}: {', '.join(names)}{more}"
    return RaisedAlert(
        alert_id=new_alert_id(troubles, kind, first, trouble.seq), kind=kind, subjects=subjects, names=names, count=len(ripe),
        since_ms=min(one.since_ms for one in ripe.values()), through_ms=through_ms,
        message=message[: limits.REASON_BYTES_MAX],
    )


def _silent(troubles: Troubles, watching: Watching, now_ms: int) -> tuple[list[RaisedAlert], int]:
    """Return the alert that no scheduler fires, if it is due, and when the first tick is overdue."""
    overdue_ms = watching.soonest_ms
    if overdue_ms > now_ms or "scheduler" in troubles.alert_of.get("scheduler-silent", {}):
        return [], overdue_ms
    late = [name for name, at_ms in watching.expected.items() if at_ms <= now_ms]
    alert = RaisedAlert(
        alert_id=new_alert_id(troubles, "scheduler-silent", "scheduler", overdue_ms), kind="scheduler-silent", subjects=("scheduler",),
        names=("scheduler",), count=1, since_ms=overdue_ms, through_ms=now_ms,
        message=f"no scheduler fires: ticks of {len(late)} schedules are overdue, of {', '.join(late[:3])}"
        + (" and more" if len(late) > 3 else ""),
    )
    return [alert], overdue_ms


def _resolved(troubles: Troubles, now_ms: int, *, silent: bool) -> Iterator[str]:
    for alert_id, alert in troubles.open.items():
        kind = alert.raised.kind
        if (
            not alert.members
            or (kind == "scheduler-silent" and not silent)
            or (kind not in LASTING and kind != "scheduler-silent" and _quiet(alert, now_ms))
        ):
            yield alert_id


def _quiet(alert: Alert, now_ms: int) -> bool:
    return all(trouble.since_ms + REPORTS_QUIET_MS <= now_ms for trouble in alert.members.values())


# --- webhooks ---


def _next(outbox: Outbox, watching: Watching) -> Message | None:
    """Return the message to send next; the one that was due first."""
    candidates = (one for one in outbox.waiting.values() if one.message_id not in watching.posted)
    return min(candidates, key=lambda one: (one.due_ms, one.seq, one.message_id), default=None)


def _post(settings: KeeperSettings, watch: Watch, webhook_id: str, message: Message, now_ms: int) -> works.Post:
    known = watch.webhooks.by_id[webhook_id]
    both = known.secret_number > 1 and now_ms < known.rotated_ms + settings.webhook_rotation_ms
    numbers = (known.secret_number, known.secret_number - 1) if both else (known.secret_number,)
    return works.Post(webhook_id, message.message_id, message.attempts + 1, known.webhook.url, message.body, numbers)


def _attempts(settings: KeeperSettings, watch: Watch, watching: Watching, now_ms: int) -> Iterator[WebhookAttempt]:
    """Yield what came of messages, as it is to stand in the log."""
    for post, posted in watching.posted.values():
        outbox = watch.outboxes.get(post.webhook_id)
        message = outbox.waiting.get(post.message_id) if outbox is not None else None
        if message is None or post.attempt != message.attempts + 1:
            continue  # forgotten with the next look: the log has it, or the webhook is no more
        good = 200 <= posted.status < 300
        final = good or posted.status == HTTP_GONE or message.attempts >= len(RETRY_STEPS)
        yield WebhookAttempt(
            webhook_id=post.webhook_id, message_id=post.message_id, attempt=post.attempt, status=posted.status,
            outcome="delivered" if good else "failed" if final else "retry", error="" if good else posted.error,
            due_ms=0 if final else now_ms + _pause_ms(settings, post),
        )


def _pause_ms(settings: KeeperSettings, post: works.Post) -> int:
    """Return the pause before the next try, with a jitter that follows from the message: a fifth at most."""
    pause_ms = settings.webhook_retry_ms * RETRY_STEPS[post.attempt - 1]
    return pause_ms + pause_ms * (zlib.crc32(f"{post.message_id}/{post.attempt}".encode()) % 1_000) // 5_000


def _disabled(settings: KeeperSettings, watch: Watch, watching: Watching, now_ms: int) -> Iterator[WebhookDisabled]:
    gone = {post.webhook_id for post, posted in watching.posted.values() if posted.status == HTTP_GONE}
    for webhook_id, outbox in watch.outboxes.items():
        if outbox.disabled or webhook_id not in watch.webhooks.by_id:
            continue
        if webhook_id in gone:
            yield WebhookDisabled(webhook_id, "gone", "its endpoint answered 410 (gone): it does not want messages any more")
        elif outbox.overflowed:
            message = f"more than {limits.WEBHOOK_WAITING_MAX} messages waited for its endpoint"
            yield WebhookDisabled(webhook_id, "overflow", message)
        elif outbox.failing_ms and now_ms - outbox.failing_ms > settings.webhook_failing_ms:
            days = (now_ms - outbox.failing_ms) // 86_400_000
            yield WebhookDisabled(webhook_id, "failing", f"its endpoint has taken nothing for {days} days")
