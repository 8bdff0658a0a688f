"""The arithmetic of rollouts: sizes of waves, the failure budget, and when the next wave may begin. Pure.

A wave begins when the one before it has ended, its soak time is over, and, where that was asked for, a person has
approved it. Dispatch, the plan that is shown beforehand, `why` and the views all ask here.
"""

from __future__ import annotations

from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import Task
from fleetlog_schemas.spec import Rollout, TaskSpec, share

BAD_OUTCOMES = (Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR, Outcome.LOST)
"""What counts against a failure budget: it ran and went wrong, or may have. What never ran says nothing of the change."""


def hosts_of_share(text: str, hosts: int) -> int:
    """Return how many of *hosts* a count or a percentage is, rounded down; at least 1 unless it is zero itself."""
    size, percent = share("", text)
    found = hosts * size // 100 if percent else size
    return min(max(found, 1 if size else 0), hosts)


def wave_sizes(rollout: Rollout | None, hosts: int, canaries: int = 0) -> tuple[int, ...]:
    """Return the sizes of the waves of a task on *hosts*, the first of which are *canaries*; they add up to *hosts*."""
    if rollout is None:
        return (hosts,) if hosts else ()
    sizes = [canaries] if canaries else []
    done = canaries
    for text in rollout.waves:
        until = hosts_of_share(text, hosts)
        if until > done:
            sizes.append(until - done)
            done = until
    step = hosts_of_share(rollout.batch, hosts) if rollout.batch else hosts
    while done < hosts:
        sizes.append(min(step, hosts - done))
        done += sizes[-1]
    return tuple(sizes)


def failures_max(spec: TaskSpec, hosts: int) -> int | None:
    """Return how many hosts may end badly before the task halts; None is any number.

    A percentage is rounded down, so 5% of 10 hosts allows none.
    """
    if not spec.failures_max:
        return None if spec.rollout is None else 0
    size, percent = share("", spec.failures_max)
    return hosts * size // 100 if percent else size


def failures(task: Task) -> int:
    """Return how many commands have ended badly."""
    return sum(task.counts.get(outcome.value, 0) for outcome in BAD_OUTCOMES)


def over_budget(task: Task) -> bool:
    """Tell whether more commands ended badly, since the task was last resumed, than its budget allows."""
    allowed = failures_max(task.spec, len(task.commands))
    return allowed is not None and failures(task) - task.forgiven > allowed


def needs_approval(task: Task, wave: int) -> bool:
    """Tell whether the wave of this index waits for a person."""
    rollout = task.spec.rollout
    if rollout is None or not rollout.approve or task.approved > wave:
        return False
    return wave + 1 in rollout.approve or (0 in rollout.approve and wave > 0)


def soaks_until_ms(task: Task) -> int:
    """Return when the soak time before the present wave is over; 0 when there is none, or it has begun."""
    rollout = task.spec.rollout
    if rollout is None or not rollout.soak_ms or not 0 < task.wave < len(task.waves) or task.waves[task.wave].begun_ms:
        return 0
    return task.wave_ms + rollout.soak_ms


def wave_gate(task: Task, now_ms: int) -> str:
    """Return why the present wave may not begin: `soak`, `approval`, or empty when it may or has begun."""
    if task.wave >= len(task.waves) or task.waves[task.wave].begun_ms:
        return ""
    if now_ms < soaks_until_ms(task):
        return "soak"
    return "approval" if needs_approval(task, task.wave) else ""
