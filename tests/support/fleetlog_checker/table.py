"""What a person reads at the end: faults with their times, attempts by outcome and class, figures, and every violation."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from fleetlog_checker.history import History
from fleetlog_checker.judging import Ran, Verdict, Violation
from fleetlog_checker.run import Options
from fleetlog_checker.timings import TAKE_OVER_S_MAX, Timings
from fleetlog_schemas.outcomes import Outcome

EVENTS_SHOWN_MAX = 12
VIOLATIONS_SHOWN_MAX = 20


def text(options: Options, history: History, verdict: Verdict, timings: Timings, began_ms: int) -> str:
    """Return the whole table."""
    return "\n".join([
        *_faults(history, began_ms), "", *_submissions(history, verdict), "", *_attempts(verdict), "",
        *_figures(timings, began_ms), "", *_violations(verdict),
        f"again: ./run torture {again(options)}",
    ])


def again(options: Options) -> str:
    """Return the options that repeat a run."""
    return (
        f"--minutes {options.seconds / 60:g} --faults {','.join(options.faults)} --agents {options.agents}"
        f" --nodes {options.nodes} --writers {options.writers} --seed {options.seed}"
    )


def _faults(history: History, began_ms: int) -> Iterator[str]:
    yield "faults       from    for  part"
    for one in history.troubles:
        led = f", leading the {one.led}" if one.led else ""
        note = f"  ({one.note})" if one.note else ""
        lasted = (one.healed_ms - one.began_ms) / 1000
        yield f"  {one.fault:<10} {(one.began_ms - began_ms) / 1000:5.1f} {lasted:5.1f}s  {one.part}{led}{note}"


def _submissions(history: History, verdict: Verdict) -> Iterator[str]:
    tasks = sum(len(one.task_ids) for one in history.submissions)
    parts = ", ".join(f"{count} {fate}" for fate, count in sorted(verdict.submissions.items()))
    yield f"submissions  {len(history.submissions)} of {tasks} tasks: {parts}"
    counted = sum(len(task.commands) for task in history.tasks.values())
    yield f"log          {len(history.tasks)} tasks, {counted} commands"


def _attempts(verdict: Verdict) -> Iterator[str]:
    yield "attempts     " + "".join(f"{one.value:>9}" for one in Ran)
    for outcome in (*(one.value for one in reversed(Outcome)), "open"):
        row = verdict.classes.get(outcome)
        if row:
            yield f"  {outcome:<11}" + "".join(f"{row.get(one.value, 0) or '-':>9}" for one in Ran)


def _figures(timings: Timings, began_ms: int) -> Iterator[str]:
    def gap(name: str, found: tuple[float, int]) -> str:
        return f"  {name:<31} {found[0]:5.1f} s, from {(found[1] - began_ms) / 1000:.1f} s"

    yield "longest time without"
    yield gap("an acknowledged submission", timings.no_submission)
    yield gap("an answered question", timings.no_answer)
    yield gap("an end in the log", timings.no_end)
    if timings.slowest:
        yield f"slowest report of a host that was well: {timings.slowest.seconds:.1f} s ({timings.slowest.task_id} {timings.slowest.host_id})"
    yield f"everything was over {timings.over_s:.1f} s after the last fault was healed"
    yield f"take-overs   {len(timings.take_overs)}, promised within {TAKE_OVER_S_MAX:g} s while the bus and a successor are well"
    for one in timings.take_overs:
        late = "   LATE" if one.late else " (the bus, or its successor, was hit, too)" if one.others_hit else ""
        yield f"  {one.seconds:4.1f} s  {one.by} after the {one.fault} of {one.part} at {(one.began_ms - began_ms) / 1000:.1f} s{late}"


def _violations(verdict: Verdict) -> Iterator[str]:
    yield f"violations   {len(verdict.violations) or 'none'}"
    for one in verdict.violations[:VIOLATIONS_SHOWN_MAX]:
        yield from _violation(one)
    if len(verdict.violations) > VIOLATIONS_SHOWN_MAX:
        yield f"  and {len(verdict.violations) - VIOLATIONS_SHOWN_MAX} more, in verdict.json"


def _violation(one: Violation) -> Iterator[str]:
    where = " ".join(filter(None, [one.task_id, one.host, f"attempt {one.attempt}" if one.attempt else ""]))
    yield f"  [{one.rule}] {where}: {one.text}"
    yield from (f"      line   {line}" for line in one.lines[:EVENTS_SHOWN_MAX])
    yield from (f"      event  {line}" for line in one.events[:EVENTS_SHOWN_MAX])


def stamp() -> str:
    """Return the time of day, for what is printed while a run goes on."""
    return f"{dt.datetime.now():%H:%M:%S}"
