"""What was open at a past position, by folding the raw events again: the one lifecycle answers for the past too.

Cost: one scan of the events between the submission of the oldest task that was open then and that position, and
about 30 microseconds for each attempt in them; for one task only the events that name it. With both go the few events
of the whole log before it that name no task and yet decide what became of one (freezes, limits, a cancel of everything).
"""

from __future__ import annotations

import duckdb

from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.apply import Projector, touch_key
from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import ids, limits, records

EVENTS_MAX = 200_000
"""Events folded for one question: some seconds of one core."""
PAGE = 1_000


def fold_open(db: duckdb.DuckDBPyConnection, seq: int, first: int, *, hosts_too: bool) -> Projector | None:
    """Return the fold at *seq*, with the tasks that were open there; None when that is too much work.

    *first* is the submission of the oldest task that is in memory now.
    """
    found = db.execute(question_sql("past_first_open.sql"), [seq]).fetchone()
    first = min(first, found[0]) if found and found[0] is not None else first
    count = db.execute(question_sql("past_count.sql"), [first, seq]).fetchone()
    if count and count[0] > EVENTS_MAX:
        return None
    projector = Projector(written_through=seq)
    _fold(db, question_sql("past_events.sql"), [first, seq], projector)
    if hosts_too:
        of_hosts = Projector(written_through=seq)
        _fold(db, question_sql("past_host_events.sql"), [seq], of_hosts)
        projector.hosts = of_hosts.hosts
    projector.position = seq
    return projector


def fold_task(db: duckdb.DuckDBPyConnection, task_id: str, seq: int) -> records.Task | None:
    """Return one task as it was at *seq*, or None when it did not exist."""
    projector = Projector(written_through=seq)
    projector.tasks.partial = True
    # A submission that far before the time its id carries is refused by the fold, so nothing of it is older.
    since_ms = ids.id_ms(task_id) - limits.TASK_ID_AHEAD_MS_MAX
    _fold(db, question_sql("past_task_events.sql"), [seq, since_ms, touch_key(task_id), task_id], projector)
    return projector.tasks.by_id.get(task_id)


def _fold(db: duckdb.DuckDBPyConnection, query: str, parameters: list[object], projector: Projector) -> None:
    found = db.execute(query, parameters)
    while page := found.fetchmany(PAGE):
        for seq, subject, time_ms, body in page:
            projector.fold(Stored(seq=seq, subject=subject, time_ms=time_ms, body=body.encode()))
