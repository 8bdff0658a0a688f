"""Python functions: how many no-op calls one host makes in a second, and how long one takes on an idle system.

The host is an agent with two workers, joined as a person would join it. A call counts when its end is in the log and can be
read. The machine's own part is a durable append for each batch of events; a process start there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import measure
from bench.figures import Figure
from bench.system import System, until
from fleetlog_schemas.spec import Choose, Function, TaskSpec

PROCESSES = 2
POLICY = f"""
[functions]
modules = ["bench.called"]
path = ["{Path(__file__).resolve().parent.parent}"]
workers = {PROCESSES}
calls_max = 1000000
"""


def call_of(name: str = "") -> TaskSpec:
    """Return a call of the function that does nothing, by any host that offers it."""
    return TaskSpec(payload=Function(name="bench.noop"), target="all", choose=Choose(), name=name, timeout_ms=60_000)


@contextmanager
def offering_system() -> Iterator[System]:
    """Run a system with one host that offers the function."""
    with measure.fresh_system("--no-agent") as system:
        system.join(1, "fn", POLICY)
        client = system.client()
        until(lambda: client.gateway.get("/functions")["data"]["items"], "the host offers its function")
        yield system


def functions(tasks: int, rounds: int) -> list[Figure]:
    """Measure calls of a function that does nothing."""
    with offering_system() as system:
        client = system.client()
        watcher = measure.Watcher(client)
        figures = measure.latency(client, watcher, call_of(), "a function call")
        measure.throughput_once(client, watcher, min(tasks, 100), call_of("warm-up"))
        samples = tuple(measure.throughput_once(client, watcher, tasks, call_of(f"round-{number}")) for number in range(rounds))
        watcher.feed.close()
    name = f"function calls on one host, {PROCESSES} workers, {tasks} tasks"
    return [*figures, Figure(name, "tasks/s", samples, note="in the log, and readable")]
