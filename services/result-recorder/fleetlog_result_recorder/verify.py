"""Check what a host reports before it becomes history. Pure: bytes and keys in, events and refusals out.

The host comes from the subject, which the bus enforces; the attempt is proved by its token; every text is cut to its
limit. What does not verify is counted, by host and minute, and never appended as a result.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fleetlog_schemas import events, host_events, limits, reports, tokens, wire
from fleetlog_schemas.builds import is_artifact_name
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec_fields import is_digest

REFUSED_ATTEMPTS_MAX = 100
"""Attempts named in one refusal event; the counts are always whole."""
_COUNTER_MAX = 1 << 62
_RAN = {
    Outcome.SUCCESS: (Ran.YES,),
    Outcome.FAILURE: (Ran.YES,),
    Outcome.TIMEOUT: (Ran.YES,),
    Outcome.CANCELLED: (Ran.YES, Ran.NO),
    Outcome.ERROR: (Ran.NO, Ran.YES, Ran.UNKNOWN),
    Outcome.UNREACHED: (Ran.NO,),
    Outcome.LOST: (Ran.UNKNOWN,),
}
"""What an agent may say: outcome to the values of `ran` that go with it. `skipped` is not an agent's to say."""


class Verdict(msgspec.Struct):
    """What one report came to."""

    host_id: str
    counter: int = 0
    starts: list[events.Start] = []
    ends: list[events.End] = []
    facts: host_events.FactsChanged | None = None
    refused: dict[str, int] = {}
    """How many items, by reason."""
    refused_attempts: list[events.AttemptKey] = []

    def refuse(self, reason: str, key: events.AttemptKey | None = None) -> None:
        """Count one refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if key is not None and len(self.refused_attempts) < REFUSED_ATTEMPTS_MAX:
            self.refused_attempts.append(key)


def verify(host_id: str, body: bytes, keys: Mapping[str, bytes]) -> Verdict:
    """Return the verdict on one report of *host_id*; *keys* are the attempt token keys by key id."""
    verdict = Verdict(host_id)
    if len(body) > limits.REPORT_BYTES_MAX:
        verdict.refuse("size")
        return verdict
    try:
        report: reports.Report = wire.decode(body, reports.Report)
    except wire.BadMessage:
        verdict.refuse("form")
        return verdict
    if not 0 <= report.counter <= _COUNTER_MAX:
        verdict.refuse("form")
        return verdict
    for item in report.items:
        _check(verdict, item, keys)
    if verdict.starts or verdict.ends:
        # An unproved counter could lock a host out, so it counts only beside something with a token.
        verdict.counter = report.counter
    return verdict


def _check(verdict: Verdict, item: reports.ReportItem, keys: Mapping[str, bytes]) -> None:
    if isinstance(item, reports.ReportFacts):
        facts = host_events.FactsChanged(host_id=verdict.host_id, facts=item.facts)
        if len(msgspec.json.encode(facts)) > limits.FACTS_BYTES_MAX:
            verdict.refuse("size")
        else:
            verdict.facts = facts
        return
    key = events.AttemptKey(task_id=item.task_id[:64], host_id=verdict.host_id, attempt=item.attempt)
    secret = keys.get(item.token_key_id)
    if secret is None or not tokens.matches(
        tokens.attempt_token(secret, item.task_id, verdict.host_id, item.attempt), item.token
    ):
        verdict.refuse("token", key)
    elif isinstance(item, reports.ReportStarted):
        verdict.starts.append(
            events.Start(
                task_id=item.task_id, host_id=verdict.host_id, attempt=item.attempt, started_ms=item.started_ms,
                slot=item.slot, output_first_seq=item.output_first_seq, progress=_how_far(item.progress),
            )
        )
    elif item.ran not in _RAN.get(item.outcome, ()):
        verdict.refuse("form", key)
    else:
        verdict.ends.append(_end(verdict.host_id, item))


def _end(host_id: str, item: reports.ReportEnded) -> events.End:
    output = item.output
    if output is not None and len(output.index) > limits.OUTPUT_INDEX_ENTRIES_MAX:
        output = msgspec.structs.replace(output, index=())
    return events.End(
        task_id=item.task_id, host_id=host_id, attempt=item.attempt, outcome=item.outcome, ran=item.ran,
        exit_code=item.exit_code, signal=item.signal, started_ms=item.started_ms, ended_ms=item.ended_ms,
        duration_ms=item.duration_ms, error=cut(item.error, limits.ERROR_TEXT_BYTES_MAX),
        tail=cut(item.tail, limits.OUTPUT_TAIL_BYTES_MAX), output=output, traceback=cut(item.traceback, limits.TRACEBACK_BYTES_MAX),
        return_value=_value(item.return_value), artifacts=_artifacts(item.artifacts),
    )


def _artifacts(found: tuple[events.Artifact, ...]) -> tuple[events.Artifact, ...]:
    """Return the artifacts that can be kept under their names: what a host says of others is nothing that an agent sends."""
    return tuple(
        one for one in found[: limits.ARTIFACTS_PER_ATTEMPT_MAX]
        if is_artifact_name(one.name) and is_digest(one.sha256) and 0 <= one.size <= limits.ARTIFACT_BYTES_MAX
        and 0 <= one.first_seq <= one.last_seq <= _COUNTER_MAX
    )


def _how_far(said: reports.FarReported | None) -> events.HowFar | None:
    return None if said is None else events.HowFar(said.done, said.total, cut(said.note, limits.PROGRESS_NOTE_BYTES_MAX))


def _value(text: str | None) -> str | None:
    """Return a value that is JSON and within its limit; what a host says that is neither was never returned by a function."""
    if text is None or len(text.encode("utf-8", "replace")) > limits.RETURN_VALUE_BYTES_MAX:
        return None
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return text


def cut(text: str, bytes_max: int) -> str:
    """Return the last *bytes_max* bytes of *text*, without a broken character."""
    body = text.encode("utf-8", "replace")
    return text if len(body) <= bytes_max else body[-bytes_max:].decode("utf-8", "ignore")


class Refusals:
    """Refusals by host and minute, until the minute is over."""

    def __init__(self) -> None:
        """Start with none."""
        self._minutes: dict[tuple[int, str], Verdict] = {}

    def add(self, verdict: Verdict, now_ms: int) -> bool:
        """Count the refusals of one verdict; tell whether they are the first ones of their host in this minute."""
        if not verdict.refused:
            return False
        first = (now_ms // 60_000, verdict.host_id) not in self._minutes
        kept = self._minutes.setdefault((now_ms // 60_000, verdict.host_id), Verdict(verdict.host_id))
        for reason, count in verdict.refused.items():
            kept.refused[reason] = kept.refused.get(reason, 0) + count
        known = set(kept.refused_attempts)
        room = REFUSED_ATTEMPTS_MAX - len(kept.refused_attempts)
        kept.refused_attempts += [key for key in dict.fromkeys(verdict.refused_attempts) if key not in known][:room]
        return first

    def due(self, now_ms: int | None = None) -> list[host_events.ReportsRefused]:
        """Return, and drop, the minutes that are over; without a time, every minute."""
        over = [
            (key, self._minutes.pop(key)) for key in sorted(self._minutes) if now_ms is None or key[0] < now_ms // 60_000
        ]
        return [
            host_events.ReportsRefused(
                host_id=host_id, minute=minute, counts=kept.refused, attempts=tuple(kept.refused_attempts)
            )
            for (minute, host_id), kept in over
        ]
