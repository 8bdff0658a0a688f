"""How long things took: taking over, going without an answer, and bringing an end into the log. Pure, over one run's record."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleetlog_checker.faults import LEAD_KIND
from fleetlog_checker.history import History, Said, Trouble
from fleetlog_checker.watching import Turn, longest_gap
from fleetlog_schemas import codec, events

TAKE_OVER_S_MAX = 5.0
"""What is promised: a service whose leader is gone has another one within this."""
REPORT_S_MAX = 8.0
"""A recorder that is gone is replaced within five seconds; on a busy machine a report takes some time of its own."""
ELECTION_S_MAX = 10.0
"""More where the bus was hit as well, whose other nodes first elect who leads its streams, which takes them 4 to 9 s; or where
the one that took over was: stopped, or on a slow line."""
BUS_KINDS = ("bus", "node", "routes")
AROUND_MS = 1_000
"""A fault of the host or the bus excuses a slow report from this long before to this long after it."""


class TakeOver(msgspec.Struct, frozen=True):
    """A leader was hit, and another instance led afterwards."""

    fault: str
    part: str
    began_ms: int
    by: str
    seconds: float
    others_hit: bool
    """The bus, or the one that took over, was hit at that time, too."""
    well_seconds: float = 0.0
    """From when they were well again, if that was later than the fault, until it led."""

    @property
    def late(self) -> bool:
        """Whether it took longer than is promised."""
        if not self.others_hit:
            return self.seconds > TAKE_OVER_S_MAX
        # Nobody can lead while too few nodes are well, however often they are hit.
        return min(self.seconds, self.well_seconds) > TAKE_OVER_S_MAX + ELECTION_S_MAX


class Recorded(msgspec.Struct, frozen=True):
    """The end of an attempt: when the host saw it, and when the log had it."""

    task_id: str
    host_id: str
    attempt: int
    ended_ms: int
    logged_ms: int
    outcome: str

    @property
    def seconds(self) -> float:
        """How long the report was on its way."""
        return (self.logged_ms - self.ended_ms) / 1000


class Timings(msgspec.Struct):
    """The figures of one run, in seconds."""

    take_overs: list[TakeOver] = []
    no_submission: tuple[float, int] = (0.0, 0)
    """The longest time in which no submission was acknowledged, and when it began."""
    no_answer: tuple[float, int] = (0.0, 0)
    no_end: tuple[float, int] = (0.0, 0)
    slowest: Recorded | None = None
    """The slowest report whose host, and the bus, were well all the time: services alone were to blame."""
    over_s: float = 0.0
    """From the last healed fault until everything was over."""


def take_overs(troubles: list[Trouble], turns: list[Turn]) -> list[TakeOver]:
    """Return how long each fault of a leader left its service without one; a leader that stayed is left out."""
    found = []
    for one in troubles:
        if one.led != LEAD_KIND or one.note:
            continue
        following = next((turn for turn in turns if turn.at_ms > one.began_ms), None)
        former = [turn.instance for turn in turns if turn.at_ms <= one.began_ms]
        if following is None or (former and following.instance == former[-1]):
            continue
        if one.fault in ("kill", "restart") or following.at_ms <= one.healed_ms:
            seconds = (following.at_ms - one.began_ms) / 1000
            others = [
                min(other.healed_ms or following.at_ms, following.at_ms) for other in troubles
                if (other.kind in BUS_KINDS or other.part == following.part) and not other.note
                and other.began_ms <= following.at_ms and one.began_ms <= (other.healed_ms or following.at_ms) + AROUND_MS
            ]
            well_ms = max([one.began_ms, *others])
            well_seconds = (following.at_ms - well_ms) / 1000
            found.append(TakeOver(one.fault, one.part, one.began_ms, following.part, seconds, bool(others), well_seconds))
    return found


def recorded(log: Iterable[codec.Event]) -> list[Recorded]:
    """Return the first end of each attempt that a host reported."""
    found: dict[tuple[str, str, int], Recorded] = {}
    for event in log:
        if isinstance(event.data, events.AttemptsEnded) and event.subject == events.RESULT:
            for end in event.data.attempts:
                if end.ended_ms is not None:
                    found.setdefault(
                        (end.task_id, end.host_id, end.attempt),
                        Recorded(end.task_id, end.host_id, end.attempt, end.ended_ms, event.time_ms, end.outcome.value),
                    )
    return list(found.values())


def slowest(reports: list[Recorded], troubles: list[Trouble]) -> Recorded | None:
    """Return the slowest report that neither its host nor the bus can be blamed for."""

    def excused(one: Recorded) -> bool:
        return any(
            (trouble.host_id == one.host_id or trouble.kind in BUS_KINDS)
            and not trouble.note
            and trouble.began_ms - AROUND_MS <= one.logged_ms
            and one.ended_ms <= (trouble.healed_ms or trouble.began_ms) + AROUND_MS
            for trouble in troubles
        )

    return max((one for one in reports if not excused(one)), key=lambda one: one.seconds, default=None)


def measure(
    history: History, reports: list[Recorded], turns: list[Turn], answered_ms: list[int], began_ms: int, ended_ms: int,
    over_s: float,
) -> Timings:
    """Return the figures of a run."""
    acknowledged = [
        answer.answered_ms for one in history.submissions for answer in one.answers if answer.said is Said.ACKNOWLEDGED
    ]
    return Timings(
        take_overs=take_overs(history.troubles, turns),
        no_submission=longest_gap(acknowledged, began_ms, ended_ms),
        no_answer=longest_gap(answered_ms, began_ms, ended_ms),
        no_end=longest_gap([one.logged_ms for one in reports], began_ms, ended_ms),
        slowest=slowest(reports, history.troubles),
        over_s=over_s,
    )
