"""Settings of every suite: Hypothesis, and how tests are shared out when all of them run.

Hypothesis has no deadline: on a busy machine a slow example is no failure. In continuous integration its examples follow
from the code alone, so that a red run says something about the change; everywhere else they are new each time, and what
they find becomes a test.

Whoever names tests runs them in this process, one after the other. All of them are shared out among workers: the tests of a
file stay together, for they share a system, and simulations share nothing. Files that start three nodes never run beside one
another. What takes longest begins first, so that no worker is left with it at the end.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("fleetlog", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("fleetlog")

WORKERS = 3
"""On two processors: what starts real systems waits most of the time."""
TESTS = Path(__file__).parent
ORDER = ("integration", "simulation")
"""Folders whose tests begin before all others."""
THREE_NODES = ("test_checker.py", "test_cluster.py", "test_cluster_growing.py", "test_cluster_partition.py")


class ByFile(LoadScopeScheduling):
    """Gives a worker the next file when it has nearly done what it has."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path.rpartition("/")[2] in THREE_NODES:
            return "three nodes"
        return nodeid if path.startswith("tests/simulation/") else path


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many workers `-n auto` stands for: none where tests are named."""
    return 0 if config.option.file_or_dir or config.option.keyword else WORKERS


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Return who shares tests out."""
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let begin first what takes longest; among equals, the order stays random."""

    def rank(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.relative_to(TESTS).parts[0]
        return item.path.name not in THREE_NODES, ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=rank)
