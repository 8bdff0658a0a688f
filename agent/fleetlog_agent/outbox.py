"""Which reports to send, and when again: until stored, then until forgotten. Pure.

A report that the bus has not confirmed is sent again byte for byte, so that it is stored once. An end that is
stored and not yet told to be forgotten is reported anew every `repeat_ms`: what was lost behind the bus heals too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from fleetlog_agent import core_settings as limits
from fleetlog_agent.journal_records import Key
from fleetlog_agent.messages import SendReport
from fleetlog_schemas import wire
from fleetlog_schemas.limits import EVENT_COMMANDS_MAX, REPORT_BYTES_MAX
from fleetlog_schemas.reports import Report, ReportEnded, ReportItem

_NEVER = 1 << 62


class _InFlight(msgspec.Struct):
    effect: SendReport
    ends: set[Key]
    """Ends in it that are not yet forgotten."""
    others: bool
    """It also carries something else than ends."""
    due_ms: int
    tries: int = 1


class Outbox:
    """Ends that are not forgotten, and reports that are not stored."""

    def __init__(self, entropy: Callable[[int], bytes], repeat_ms: int) -> None:
        self._entropy = entropy
        self._repeat_ms = repeat_ms
        self._ends: dict[Key, int] = {}
        """When each end is to be reported next; never while it is in a report under way."""
        self._in_flight: dict[str, _InFlight] = {}

    @property
    def full(self) -> bool:
        """Whether new items should wait, to share a report."""
        return len(self._in_flight) >= limits.REPORTS_IN_FLIGHT_MAX

    @property
    def quiet(self) -> bool:
        """Whether every end was stored at least once and nothing is under way."""
        return not self._in_flight and all(due > 0 for due in self._ends.values())

    def add(self, key: Key) -> None:
        """An end is in the journal: report it now."""
        self._ends[key] = 0

    def hurry(self, key: Key) -> None:
        """Somebody seems not to know of this end: report it now, unless it is under way."""
        if self._ends.get(key, _NEVER) < _NEVER:
            self._ends[key] = 0

    def forget(self, key: Key) -> None:
        """The end of *key* is settled in the log."""
        self._ends.pop(key, None)
        for report_id, sent in list(self._in_flight.items()):
            sent.ends.discard(key)
            if not sent.ends and not sent.others:
                del self._in_flight[report_id]

    def stored(self, report_id: str, now_ms: int) -> None:
        """The bus has this report: its ends are due again later."""
        sent = self._in_flight.pop(report_id, None)
        for key in sent.ends if sent else ():
            self._ends[key] = now_ms + self._repeat_ms

    def reconnected(self) -> None:
        """Send again at once what may have been lost with the connection."""
        for sent in self._in_flight.values():
            sent.due_ms = 0

    def ends_due(self, now_ms: int) -> list[Key]:
        """Return the ends to report now."""
        return [key for key, due_ms in self._ends.items() if due_ms <= now_ms]

    def next_ms(self) -> int:
        """Return when something is due."""
        dues = [sent.due_ms for sent in self._in_flight.values()]
        if not self.full:
            dues.extend(self._ends.values())
        return min(dues, default=_NEVER)

    def resend(self, now_ms: int) -> list[SendReport]:
        """Return the reports that were not confirmed in time."""
        again = []
        for sent in self._in_flight.values():
            if sent.due_ms <= now_ms:
                sent.due_ms = now_ms + min(limits.REPORT_RETRY_MS << min(sent.tries, 10), limits.REPORT_RETRY_MS_MAX)
                sent.tries += 1
                again.append(sent.effect)
        return again

    def send(self, items: Iterable[ReportItem], epoch: int, counter: int, now_ms: int) -> list[SendReport]:
        """Return as few new reports as carry *items*, each within REPORT_BYTES_MAX."""
        effects = []
        room, group = 0, list[ReportItem]()
        for item in items:
            size = len(wire.encode(item))
            if group and (size > room or len(group) >= EVENT_COMMANDS_MAX):
                effects.append(self._send_group(group, epoch, counter, now_ms))
                group = []
            if not group:
                room = REPORT_BYTES_MAX - limits.REPORT_OVERHEAD_BYTES
            group.append(item)
            room -= size
        if group:
            effects.append(self._send_group(group, epoch, counter, now_ms))
        return effects

    def _send_group(self, items: list[ReportItem], epoch: int, counter: int, now_ms: int) -> SendReport:
        report = Report(report_id=self._entropy(16).hex(), epoch=epoch, counter=counter, items=tuple(items))
        effect = SendReport(report=report, body=wire.encode(report))
        ends = {Key(item.task_id, item.attempt) for item in items if isinstance(item, ReportEnded)}
        for key in ends:
            self._ends[key] = _NEVER
        self._in_flight[report.report_id] = _InFlight(
            effect=effect, ends=ends, others=len(ends) < len(items), due_ms=now_ms + limits.REPORT_RETRY_MS
        )
        return effect
