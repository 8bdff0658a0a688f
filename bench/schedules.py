"""How late ticks are when all schedules are due at once: registered over the API, fired by the scheduler of a real system.

What counts is when the bus stored the task of each tick, so reading, deciding and the durable append are all in it. No
host is joined: what the tasks do is not measured. A tick that is missing or there twice is an error, not a figure.
"""

from __future__ import annotations

import time
from collections import Counter

import msgspec

from bench.figures import Figure
from bench.measure import fresh_system
from bench.system import BenchError, System, until
from fleetlog_schemas import codec, events
from fleetlog_schemas.spec import Shell, TaskSpec

REGISTER_MS = 6
"""Allowed for registering one: a durable append and an answer over HTTP, on a slow machine."""
FIRED_SECONDS_MAX = 120.0


def schedules(count: int) -> list[Figure]:
    """Return how late each of *count* ticks of the same moment is, and what registering cost. Raises BenchError."""
    with fresh_system("--no-agent") as system:
        gateway = system.client().gateway
        spec = msgspec.to_builtins(TaskSpec(payload=Shell(argv=("true",)), target="all"))
        gateway.post("/definitions", {"definition": {"name": "tick", "spec": spec}})
        at_ms = int(time.time() * 1000) + 5_000 + count * REGISTER_MS
        at_ms -= at_ms % 1000
        began = time.perf_counter()
        for number in range(count):
            rule = {"definition": "tick", "kind": "once", "begins_ms": at_ms}
            gateway.put(f"/schedules/s{number:05d}", {"rule": rule})
        registering = time.perf_counter() - began
        if time.time() * 1000 > at_ms - 2_000:
            raise BenchError(f"registering {count} schedules took until their time: {registering:.0f} s")
        first_seq = int(gateway.get("/log", limit=1)["seq"]) + 1
        # Nobody asks anything while they are due: looking would cost what is measured.
        time.sleep(max(0.0, at_ms / 1000 - time.time()) + 5.0)
        stored_ms: dict[str, int] = {}

        def all_fired() -> bool:
            stored_ms.update(_fired(system, first_seq))
            return len(stored_ms) >= count

        until(all_fired, f"{count} ticks are fired", FIRED_SECONDS_MAX)
        late = tuple(float(stored - at_ms) for stored in stored_ms.values())
        return [
            Figure(f"lateness of {count} ticks due at once", "ms", late),
            Figure("schedules registered, one by one", "1/s", (count / registering,)),
        ]


def _fired(system: System, first_seq: int) -> dict[str, int]:
    """Return when the task of each schedule was stored. Raises BenchError: one has two."""
    found: Counter[str] = Counter()
    stored_ms: dict[str, int] = {}
    for record in system.client().read_log(from_seq=first_seq):
        if record.subject != events.REQUEST:
            continue
        event = codec.decode(bytes(record.event), seq=record.seq, subject=record.subject)
        if isinstance(event.data, events.TasksSubmitted):
            for task in event.data.tasks:
                found[task.schedule] += 1
                stored_ms[task.schedule] = codec.parse_rfc3339(record.stored_at)
    twice = [name for name, times in found.items() if times > 1]
    if twice:
        raise BenchError(f"fired twice: {twice[:5]}")
    return stored_ms
