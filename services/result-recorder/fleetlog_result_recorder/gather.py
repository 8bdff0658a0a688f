"""Gather the verdicts of many reports into few events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fleetlog_result_recorder.verify import Verdict
from fleetlog_runtime.pure.split import split
from fleetlog_schemas import events


def gather(verdicts: Iterable[Verdict]) -> Iterator[events.Data]:
    """Yield the events that say what *verdicts* verified: starts before ends, then facts."""
    found = list(verdicts)
    starts = [start for verdict in found for start in verdict.starts]
    ends = [end for verdict in found for end in verdict.ends]
    counters: dict[str, int] = {}
    for verdict in found:
        if verdict.counter:
            counters[verdict.host_id] = max(verdict.counter, counters.get(verdict.host_id, 0))

    def of(entries: Iterable[events.AttemptKey]) -> dict[str, int]:
        hosts = {entry.host_id for entry in entries}
        return {host_id: counter for host_id, counter in counters.items() if host_id in hosts}

    yield from split(lambda entries: events.AttemptsStarted(attempts=entries, counters=of(entries)), starts)
    yield from split(lambda entries: events.AttemptsEnded(attempts=entries, counters=of(entries)), ends)
    for verdict in found:
        if verdict.facts is not None:
            yield verdict.facts
