"""`progress`: how far a task is and when it will be done, from memory while it runs.

The estimate: what still waits takes the typical duration, as many at once as are in flight (or as the task allows);
what runs takes the rest of a typical duration. Waves go one after the other, each no wider than it has hosts, with
their soak times between them. Typical is the median of the commands that ended so far, or else of earlier commands
that ran the same; without either there is no estimate, nor while the task is on hold or has a wave ahead that waits for a
person: nobody knows how long that takes.
"""

from __future__ import annotations

import statistics
from itertools import islice

from fleetlog_reporter.answers import find
from fleetlog_reporter.answers.desk import Desk
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.rows import payload_key
from fleetlog_schemas import questions
from fleetlog_schemas.records import Command, CommandState, Task, TaskState
from fleetlog_schemas.rollout import needs_approval, soaks_until_ms

SAMPLE_MAX = 2_000
"""Commands looked at for an estimate, so that it costs the same for a task on any number of hosts."""
MEDIANS_MAX = 1_000
"""Tasks whose earlier median is remembered; all are forgotten when there are more."""


async def progress(desk: Desk, question: questions.TaskQuestion) -> tuple[int, questions.Progress]:
    """Answer how far a task is."""
    at = await find.find(desk, question.task_id, question)
    task = None if at.is_past else desk.projector.find(at.task_id)
    if task is None:
        return await find.with_task(desk, at, lambda found: progress_of(found, None))
    if task.state is not TaskState.PLANNED or task.parts:
        return desk.projector.position, progress_of(task, None)
    median = median_seconds(task)
    if median is None:
        median = await _earlier_median(desk, task)
    # The task may have moved on meanwhile: what is answered is its state now.
    return desk.projector.position, progress_of(task, eta_seconds(task, median, desk.now_ms()))


def progress_of(task: Task, eta: float | None) -> questions.Progress:
    """Return the progress of a task."""
    over = task.state in (TaskState.ENDED, TaskState.REFUSED)
    hosts = len(task.commands)
    of = len(task.parts) or hosts
    ended = sum(count for name, count in task.counts.items() if name not in _OPEN)
    return questions.Progress(
        task_id=task.task_id, state=task.state.value, outcome=task.outcome.value if task.outcome else None, hosts=hosts,
        ended=ended, counts=dict(sorted(task.counts.items())),
        percent=100.0 if over else round(100 * ended / of, 1) if of else 0.0, eta_seconds=0.0 if over else eta,
    )


_OPEN = (CommandState.WAITING.value, CommandState.DISPATCHED.value, CommandState.RUNNING.value)


def median_seconds(task: Task) -> float | None:
    """Return the median duration of the commands that have ended, or None when none has."""
    durations = [
        last.end.duration_ms / 1000
        for command in islice(task.commands.values(), SAMPLE_MAX)
        if command.state is CommandState.ENDED and (last := command.last) and last.end and last.end.duration_ms is not None
    ]
    return statistics.median(durations) if durations else None


def eta_seconds(task: Task, median: float | None, now_ms: int) -> float | None:
    """Return in how many seconds the task will have ended, as far as can be told from a typical duration."""
    if median is None or _waits_for_a_person(task):
        return None
    in_flight = sum(task.counts.get(state, 0) for state in _OPEN[1:])
    running = islice((command for command in task.commands.values() if command.state.value in _OPEN[1:]), SAMPLE_MAX)
    rest = max((max(median - _elapsed_seconds(command, now_ms), 0.0) for command in running), default=0.0)
    return round(rest + _rounds(task, in_flight) * median + _soak_seconds(task, now_ms), 1)


def _waits_for_a_person(task: Task) -> bool:
    ahead = range(task.wave, len(task.waves))
    return task.hold is not None or any(not task.waves[one].begun_ms and needs_approval(task, one) for one in ahead)


def _rounds(task: Task, in_flight: int) -> int:
    """Return how many typical durations one after the other it takes until what waits has run."""
    rounds, alone = 0, len(task.waves) == 1
    for wave in task.waves[task.wave :]:
        # What is in flight is of the present wave: the one before has ended, and the next has not begun.
        waiting = wave.open - in_flight
        width = task.spec.parallel or in_flight or (1 if alone else wave.hosts)
        rounds += -(-waiting // max(width, 1))
        in_flight = 0
    return rounds


def _soak_seconds(task: Task, now_ms: int) -> float:
    """Return how long the waves that have not begun still soak, all together."""
    rollout = task.spec.rollout
    if rollout is None:
        return 0.0
    after_this = max(len(task.waves) - task.wave - 1, 0)
    return (max(soaks_until_ms(task) - now_ms, 0) + after_this * rollout.soak_ms) / 1000


def _elapsed_seconds(command: Command, now_ms: int) -> float:
    last = command.last
    dispatched_ms = last.dispatched_ms if last else None
    return max(now_ms - dispatched_ms, 0) / 1000 if dispatched_ms else 0.0


async def _earlier_median(desk: Desk, task: Task) -> float | None:
    if task.task_id not in desk.medians:
        if len(desk.medians) >= MEDIANS_MAX:
            desk.medians.clear()
        query, key = question_sql("progress_earlier.sql"), payload_key(task.spec.payload)
        found = await desk.run(lambda db: db.execute(query, [key]).fetchone())
        desk.medians[task.task_id] = found[0] if found else None
    return desk.medians[task.task_id]
