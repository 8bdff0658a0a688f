"""stats, sql, verify projection: answers computed from the projection."""

from __future__ import annotations

import sys

from fleetlog.console import Console
from fleetlog.exits import Exit
from fleetlog.render.lists import sql_text, stats_text
from fleetlog.verbs.tasks import since_ms

SQL_TIMEOUT_S = 120.0
"""Longer than the reporter lets a statement run, so that its own error arrives."""
VERIFY_TIMEOUT_S = 600.0
"""Rebuilding the projection takes as long as reading the whole log."""


def stats(console: Console) -> int:
    """Print counts, success rate and durations of ended commands."""
    options = console.options
    answer = console.gateway.get(
        "/stats", by=options.by, kind=options.kind, host=options.host, definition=options.definition,
        since_ms=since_ms(options.since), as_of=options.as_of,
    )["data"]
    if console.json:
        console.put_json(answer)
    else:
        console.put(stats_text(answer["items"], options.by, console.out_style))
    return Exit.OK


def sql(console: Console) -> int:
    """Ask the projection in SQL."""
    options = console.options
    query = sys.stdin.read() if options.query == "-" else options.query
    body = {"query": query, "limit": options.limit, "as_of": options.as_of}
    answer = console.patient_gateway(SQL_TIMEOUT_S).post("/sql", body)["data"]
    if console.json:
        console.put_json(answer)
    else:
        console.put(sql_text(answer, console.out_style))
    return Exit.OK


def verify_projection(console: Console) -> int:
    """Rebuild the projection from the log and compare; 1 when they differ."""
    answer = console.patient_gateway(VERIFY_TIMEOUT_S).post("/verify/projection")["data"]
    if console.json:
        console.put_json(answer)
    else:
        word = "equal" if answer["equal"] else "DIFFERENT"
        console.put(f"projection {word}: {answer['events']} events through sequence {answer['through_seq']}")
        for name, state in sorted(answer["tables"].items()):
            console.put(f"  {name:<24} {console.out_style.line(state)}")
    if not answer["equal"]:
        console.say("delete the file reporter/projection-v*.duckdb and start the reporter: it is rebuilt from the log")
    return Exit.OK if answer["equal"] else Exit.INTERNAL
