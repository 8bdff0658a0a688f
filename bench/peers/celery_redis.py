# mypy: ignore-errors
"""Celery on Redis, for tasks and for results, which has each on disk before it says so."""

from celery import Celery

from bench.peers import producer

SERVER = f"redis://127.0.0.1:{producer.PORT}"
app = Celery("peers", broker=f"{SERVER}/0", backend=f"{SERVER}/1")
app.conf.update(worker_prefetch_multiplier=16, broker_connection_retry_on_startup=True)


@app.task(name="noop")
def noop():
    """Return at once."""


def one():
    """Run one, and wait for its result."""
    noop.delay().get(timeout=60, interval=0.001)


def many(count):
    """Submit so many, and wait for all results."""
    for result in [noop.delay() for _ in range(count)]:
        result.get(timeout=120, interval=0.001)
