"""The same for alerts and webhooks: each way to lose or repeat one is planted once, and an invariant must notice it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fleetlog_keeper import outbox, troubles, watch, watching, works
from fleetlog_keeper.live import Live
from fleetlog_keeper.state import State
from fleetlog_keeper.unit import Keeper
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.scenario import simulate

SEEDS_MAX = 400
"""Seeds tried before a planted bug counts as unnoticed."""


def forget_the_fence_of_alerts(patch: pytest.MonkeyPatch) -> None:
    """Let a keeper that was deposed store alerts too."""
    patch.setattr(Keeper, "fences", ())


def forget_what_is_owed_with_a_takeover(patch: pytest.MonkeyPatch) -> None:
    """Keep the messages that wait in memory only."""
    original = Keeper.awaken

    def awaken(self: Keeper, state: State, now_ms: int) -> Live:
        for one in state.watch.outboxes.values():
            one.waiting.clear()
        return original(self, state, now_ms)

    patch.setattr(Keeper, "awaken", awaken)


def make_a_new_body_for_each_try(patch: pytest.MonkeyPatch) -> None:
    """Say something else with each try."""
    original, numbers = watching._post, itertools.count()

    def post(*given: Any) -> works.Post:
        made = original(*given)
        return msgspec.structs.replace(made, body=made.body.replace("}}", f'}},"try":{next(numbers)}}}'))

    patch.setattr(watching, "_post", post)


def give_up_after_the_first_try(patch: pytest.MonkeyPatch) -> None:
    """Never try a message again."""
    patch.setattr(watching, "RETRY_STEPS", ())


def say_it_is_delivered_before_it_is(patch: pytest.MonkeyPatch) -> None:
    """Take any answer for a good one."""
    original = watching.done

    def done(live: watching.Watching, post: works.Post, posted: works.Posted) -> None:
        original(live, post, works.Posted(204))

    patch.setattr(watching, "done", done)


def forget_a_failure(patch: pytest.MonkeyPatch) -> None:
    """Overlook what ended badly by the dispatcher's own decision."""
    original = watch._task_over

    def task_over(state: watch.Watch, event: Any, task: Any) -> None:
        if task.stop:
            return
        original(state, event, task)

    patch.setattr(watch, "_task_over", task_over)


def keep_a_host_gone_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Never take back that a host is gone."""
    original = troubles.Troubles.clear

    def clear(self: troubles.Troubles, kind: Any, subject: str) -> None:
        if kind != "host-gone":
            original(self, kind, subject)

    patch.setattr(troubles.Troubles, "clear", clear)


def keep_an_end_of_an_alert_to_itself(patch: pytest.MonkeyPatch) -> None:
    """Tell nobody of alerts that are resolved."""
    original = outbox.wants
    patch.setattr(outbox, "wants", lambda known, hosts, notice: notice.type != "alert.resolved" and original(known, hosts, notice))


@pytest.mark.parametrize(
    ("bug", "says"),
    [
        (forget_the_fence_of_alerts, "raised twice|two alerts are open|was not open|after it was over"),
        (forget_what_is_owed_with_a_takeover, "owed and not taken"),
        (make_a_new_body_for_each_try, "two bodies"),
        (give_up_after_the_first_try, "owed and not taken"),
        (say_it_is_delivered_before_it_is, "owed and not taken"),
        (forget_a_failure, "owed and not taken|alerts say that"),
        (keep_a_host_gone_for_ever, "alerts are open"),
        (keep_an_end_of_an_alert_to_itself, "owed and not taken"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_planted_bug_is_noticed(bug: Callable[[pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    for seed in range(SEEDS_MAX):
        try:
            simulate(seed)
        except Violation as violation:
            if re.search(says, str(violation)):
                return
    pytest.fail(f"{SEEDS_MAX} seeds did not notice: {bug.__doc__}")
