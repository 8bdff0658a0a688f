"""What compares fleetlog with other task queues: what it installs, starts and counts. The peers themselves are not needed here."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path

import pytest
from bench import peers
from bench.peers import producer
from bench.peers.__main__ import PEERS, Peer, figures_of, packages

FOLDER = Path(str(peers.__file__)).parent


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_each_peer_is_installed_and_serves_the_functions_that_are_measured(peer: Peer) -> None:
    source = ast.parse((FOLDER / f"{peer.module}.py").read_text())
    functions = {node.name for node in source.body if isinstance(node, ast.FunctionDef)}
    assert {"one", "many"} <= functions
    assert any(f"bench.peers.{peer.module}" in word for word in peer.command)
    needed = {name.partition(".")[0] for node in source.body if isinstance(node, ast.ImportFrom) for name in [node.module or ""]}
    installed = {line.partition("=")[0].partition("[")[0].replace("-", "_") for line in packages()}
    assert needed - {"bench", "asyncio"} <= installed


def test_a_producer_measures_single_tasks_and_rounds_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    peer = types.ModuleType("some_peer")
    peer.begin, peer.end = lambda: said.append("begin"), lambda: said.append("end")  # type: ignore[attr-defined]
    peer.one, peer.many = lambda: said.append(1), said.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_peer", peer)
    found = producer.measured("some_peer", 50, 3, 4)
    assert said == ["begin", *[1] * (producer.WARM_UP + 4), 50, 50, 50, "end"]
    assert [len(samples) for samples in (found["latency_ms"], found["tasks_per_second"])] == [4, 3]


def test_the_figures_are_those_that_fleetlog_has() -> None:
    p50, p99, rate = figures_of("Other", [float(number) for number in range(100)], [10.0, 30.0, 20.0])
    assert (p50.unit, p99.unit, rate.unit) == ("ms", "ms", "tasks/s")
    assert sorted(rate.samples) == [10.0, 20.0, 30.0]
    assert p99.samples[0] > max(p50.samples)
