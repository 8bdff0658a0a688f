"""What the soak says of series that grow and of series that do not."""

from __future__ import annotations

import pytest
from bench.soak import POINTS_MIN, SAMPLE_SECONDS, Verdict, slope, verdicts
from bench.system import BenchError

MINUTES = 20


def series_of(**growing: float) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Return series of a run of 20 minutes with 10,000 tasks an hour; each grows by so much an hour, and shakes a little."""
    times = [number * SAMPLE_SECONDS for number in range(round(MINUTES * 60 / SAMPLE_SECONDS))]
    found = {("load", "submitted"): [(at, 10_000 * at / 3600) for at in times]}
    for name, per_hour in growing.items():
        part, _, measure = name.partition("__")
        found[part, measure] = [(at, 40 + per_hour * at / 3600 + number % 3) for number, at in enumerate(times)]
    return found


def growing(**series: float) -> list[str]:
    return [f"{one.part} {one.measure}" for one in verdicts(series_of(**series)) if one.grows]


def test_what_stays_as_it_is_is_flat() -> None:
    assert growing(gateway__fds=0, gateway__memory=1, bus__connections=0, dispatcher__tasks=0) == []


@pytest.mark.parametrize("measure", ["fds", "threads", "tasks"])
def test_one_more_each_minute_is_a_leak(measure: str) -> None:
    assert growing(**{f"gateway__{measure}": 60.0}) == [f"gateway {measure}"]


def test_memory_may_grow_by_what_each_task_is_remembered_with_and_no_more() -> None:
    assert growing(dispatcher__memory=10_000 * 300 / 1024**2) == []
    assert growing(dispatcher__memory=60.0) == ["dispatcher memory"]


def test_files_grow_and_nobody_minds() -> None:
    assert growing(files__reporter=500.0) == []


def test_single_samples_do_not_move_the_line() -> None:
    points = [(float(at), 10.0) for at in range(100)]
    points[99] = (99.0, 10_000.0)
    assert slope(points) == 0


def test_a_short_run_says_that_it_says_nothing() -> None:
    short = {("load", "submitted"): [(float(at), float(at)) for at in range(POINTS_MIN)]}
    with pytest.raises(BenchError, match="run for longer"):
        verdicts(short)


def test_a_line_says_what_grows_by_how_much() -> None:
    line = Verdict("gateway", "fds", 20, 80, 180, 14).line()
    assert "GROWS" in line
    assert "+180.0 an hour" in line
