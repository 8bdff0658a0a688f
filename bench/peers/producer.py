"""What is measured of every peer, in a process of its own: no-op tasks in batches, and one after the other on an idle system.

Run as `python -m bench.peers.producer MODULE TASKS ROUNDS SAMPLES`. The module is imported, never run itself: a peer names its tasks
after the module they are in, and its workers must know them by the same name.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

PORT = int(os.environ.get("FLEETLOG_BENCH_PORT", "0"))
"""Where the peer's server listens, on this machine."""
WARM_UP = 20


def measured(module: str, tasks: int, rounds: int, samples: int) -> dict[str, list[float]]:
    """Return the milliseconds of single tasks, and how many a second each round made, of the peer in *module*.

    Its `one` submits a task and returns when its result is there; its `many` does so with a number of tasks, all submitted before
    any result is asked for.
    """
    peer = importlib.import_module(module)
    getattr(peer, "begin", lambda: None)()
    for _ in range(WARM_UP):
        peer.one()
    waits = []
    for _ in range(samples):
        began = time.perf_counter()
        peer.one()
        waits.append(1000 * (time.perf_counter() - began))
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        peer.many(tasks)
        rates.append(tasks / (time.perf_counter() - began))
    getattr(peer, "end", lambda: None)()
    return {"latency_ms": waits, "tasks_per_second": rates}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(sys.argv[1], *(int(word) for word in sys.argv[2:5]))) + "\n")
