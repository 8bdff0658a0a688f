"""The arithmetic of waves and failure budgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas.rollout import failures_max, hosts_of_share, wave_sizes
from fleetlog_schemas.spec import Choose, Rollout, Shell, SpecError, TaskSpec, check_spec


def spec(**fields: object) -> TaskSpec:
    return TaskSpec(payload=Shell(argv=("true",)), target="all", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rollout", "hosts", "sizes"),
    [
        (Rollout(waves=("1", "5%", "25%", "100%")), 100, (1, 4, 20, 75)),
        (Rollout(waves=("1", "5%", "25%", "100%")), 10, (1, 1, 8)),
        (Rollout(waves=("1",)), 4, (1, 3)),
        (Rollout(batch="3"), 8, (3, 3, 2)),
        (Rollout(batch="50%"), 5, (2, 2, 1)),
        (Rollout(batch="1%"), 3, (1, 1, 1)),
        (Rollout(waves=("2",), batch="3"), 8, (2, 3, 3)),
        (Rollout(waves=("500",)), 3, (3,)),
        (None, 3, (3,)),
    ],
)
def test_waves_are_laid_out(rollout: Rollout | None, hosts: int, sizes: tuple[int, ...]) -> None:
    assert wave_sizes(rollout, hosts) == sizes


def test_canaries_are_a_wave_of_their_own() -> None:
    assert wave_sizes(Rollout(canary="x", waves=("50%",)), 10, 2) == (2, 3, 5)


SHARES = st.one_of(st.integers(1, 200).map(str), st.integers(1, 100).map(lambda n: f"{n}%"))


@given(st.lists(SHARES, max_size=6), st.one_of(st.just(""), SHARES), st.integers(1, 500), st.data())
def test_waves_always_add_up_and_none_is_empty(waves: list[str], batch: str, hosts: int, data: st.DataObject) -> None:
    canaries = data.draw(st.integers(0, hosts))
    sizes = wave_sizes(Rollout(waves=tuple(waves), batch=batch), hosts, canaries)
    assert sum(sizes) == hosts
    assert all(size > 0 for size in sizes)


def test_a_share_of_hosts_is_at_least_one_and_never_more_than_all() -> None:
    assert [hosts_of_share(text, 10) for text in ("1%", "15%", "100%", "3", "30", "0")] == [1, 1, 10, 3, 10, 0]


@pytest.mark.parametrize(
    ("fields", "hosts", "allowed"),
    [
        ({}, 10, None), ({"rollout": Rollout(batch="1")}, 10, 0), ({"failures_max": "2"}, 10, 2),
        ({"failures_max": "5%"}, 10, 0), ({"failures_max": "5%"}, 100, 5), ({"failures_max": "0"}, 10, 0),
    ],
)
def test_how_many_hosts_may_fail(fields: dict[str, object], hosts: int, allowed: int | None) -> None:
    assert failures_max(spec(**fields), hosts) == allowed


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"priority": 0}, "/priority"),
        ({"priority": 11}, "/priority"),
        ({"queue": ""}, "/queue"),
        ({"queue": "no spaces"}, "/queue"),
        ({"single_run": "queue"}, "/key"),
        ({"key_parallel": 2}, "/key"),
        ({"key": "-x"}, "/key"),
        ({"choose": Choose(count=0)}, "/choose/count"),
        ({"choose": Choose(by="each")}, "/choose/label"),
        ({"rollout": Rollout()}, "/rollout"),
        ({"rollout": Rollout(waves=("101%",))}, "/rollout/waves/0"),
        ({"rollout": Rollout(waves=("5%", "many"))}, "/rollout/waves/1"),
        ({"rollout": Rollout(waves=("5", "5"))}, "/rollout/waves/1"),
        ({"rollout": Rollout(waves=("50%", "10%"))}, "/rollout/waves/1"),
        ({"rollout": Rollout(batch="0")}, "/rollout/batch"),
        ({"rollout": Rollout(batch="1", soak_ms=-1)}, "/rollout/soak_ms"),
        ({"rollout": Rollout(batch="1", approve=(-1,))}, "/rollout/approve/0"),
        ({"failures_max": "5.5%"}, "/failures_max"),
    ],
)
def test_what_cannot_be_points_at_its_field(fields: dict[str, object], pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_spec(spec(**fields))
    assert caught.value.pointer == pointer


def test_exact_hosts_leave_nothing_to_choose() -> None:
    with pytest.raises(SpecError) as caught:
        check_spec(TaskSpec(payload=Shell(argv=("true",)), host_ids=("h-1",), choose=Choose()))
    assert caught.value.pointer == "/choose"


def test_counts_and_percentages_may_be_mixed_for_only_the_fleet_tells_which_is_more() -> None:
    check_spec(spec(rollout=Rollout(waves=("10", "5%", "20", "100%"))))
