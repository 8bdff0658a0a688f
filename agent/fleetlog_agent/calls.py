"""News of function calls, in the form in which the holder gives news of processes: for the runner both are the same."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_agent import process_tree
from fleetlog_schemas import workers

News = dict[str, Any]


def running(key: str, pid: int, process_start: int, started_ms: int) -> News:
    """Return the news of a call that runs."""
    return {"key": key, "state": "running", "pid": pid, "process_start": process_start, "started_ms": started_ms}


def exited(record: workers.Finished) -> News:
    """Return the news of a call that is over; where the function was not called, that nothing ran."""
    if not record.called:
        return refused(record.key, record.error)
    return {
        "key": record.key, "state": "exited", "exit_code": None, "signal": None, "ended_ms": record.ended_ms,
        "duration_ms": max(record.ended_ms - record.began_ms, 0), "value": record.value, "error": record.error,
        "traceback": record.traceback,
    }


def refused(key: str, error: str) -> News:
    """Return the news of a call that was not made."""
    return {"key": key, "state": "failed", "error": error}


def died(news: News, signal: int | None, how: str) -> News:
    """Return the news of a call whose worker is gone, from the news that it ran."""
    now_ms = process_tree.boot_ms()
    said = f"killed by signal {signal}" if signal else how or "ended"
    began_ms = news.get("started_ms", now_ms)
    return {
        "key": news["key"], "state": "exited", "exit_code": None, "signal": signal, "ended_ms": now_ms,
        "started_ms": began_ms, "duration_ms": max(now_ms - began_ms, 0), "value": None, "traceback": "", "died": True,
        "error": f"the worker process was gone before the function returned: {said}",
    }


def decoded_parameters(values: object) -> dict[str, Any]:
    """Return parameters as the plain values that JSON has."""
    return dict(msgspec.to_builtins(values))
