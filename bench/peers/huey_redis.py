# mypy: ignore-errors
"""Huey on Redis, which has each task and each result on disk before it says so; its workers wait for tasks without looking."""

from huey import RedisHuey

from bench.peers import producer

huey = RedisHuey("peers", port=producer.PORT, blocking=True)


@huey.task()
def noop():
    """Return something at once, for Huey keeps no result that is nothing."""
    return 1


def one():
    """Run one, and wait for its result."""
    noop().get(blocking=True, timeout=60, backoff=1.0, max_delay=0.001)


def many(count):
    """Submit so many, and wait for all results."""
    for result in [noop() for _ in range(count)]:
        result.get(blocking=True, timeout=120, backoff=1.0, max_delay=0.005)
