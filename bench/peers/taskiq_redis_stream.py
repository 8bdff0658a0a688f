# mypy: ignore-errors
"""Taskiq on a stream of Redis, for tasks, and on Redis for results, which has each on disk before it says so."""

import asyncio

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.peers import producer

SERVER = f"redis://127.0.0.1:{producer.PORT}"
broker = RedisStreamBroker(SERVER).with_result_backend(RedisAsyncResultBackend(SERVER))


@broker.task(task_name="noop")
async def noop():
    """Return at once."""


async def _many(count):
    for sent in [await noop.kiq() for _ in range(count)]:
        await sent.wait_result(check_interval=0.001, timeout=120)


def begin():
    """Connect, on an event loop that the other functions share."""
    global _runner  # noqa: PLW0603 - one process, one loop
    _runner = asyncio.Runner()
    _runner.run(broker.startup())


def one():
    """Run one, and wait for its result."""
    _runner.run(_many(1))


def many(count):
    """Submit so many, and wait for all results."""
    _runner.run(_many(count))


def end():
    """Disconnect."""
    _runner.run(broker.shutdown())
    _runner.close()
