"""A command's state, derived from its attempts: whether another one is due, and since when it has ended.

Called by `lifecycle.py`, and by `steering.py` for what stops a command. The task's counts, its waves and how many of its
commands are open are kept in step here, so that nothing has to count them.
"""

from __future__ import annotations

import zlib

from fleetlog_schemas.records import AttemptState, Command, CommandState, Task, Wave

_STATES = {
    AttemptState.DISPATCHED: CommandState.DISPATCHED,
    AttemptState.RUNNING: CommandState.RUNNING,
}


def retry_due_ms(task: Task, command: Command) -> int | None:
    """Return the time of the log from which the next attempt may be dispatched, or None when none is due.

    Backoff doubles from `backoff_ms` to `backoff_ms_max`; the half below it is jitter from the ids, so that every
    reader computes the same time.
    """
    last = command.last
    if last is None or last.end is None or task.stop or command.stop:
        return None
    retry = task.spec.retry
    if last.number >= retry.attempts_max or last.end.outcome not in retry.on:
        return None
    backoff = min(retry.backoff_ms << min(last.number - 1, 40), retry.backoff_ms_max)
    seed = zlib.crc32(f"{task.task_id}/{command.host_id}/{last.number}".encode())
    return last.end_ms + backoff // 2 + backoff * seed // (2 * 0xFFFF_FFFF)


def move(task: Task, command: Command, now_ms: int) -> None:
    """Derive the command's state from its attempts, and keep the task's counts and waves in step."""
    before = _count_key(command)
    last = command.attempts[-1]
    if last.end is None:
        command.state = _STATES[last.state]
    else:
        due_ms = retry_due_ms(task, command)
        command.state = CommandState.ENDED if due_ms is None else CommandState.WAITING
        command.due_ms = due_ms or 0
    after = _count_key(command)
    if after == before:
        return
    task.counts[before] -= 1
    if not task.counts[before]:
        del task.counts[before]
    task.counts[after] = task.counts.get(after, 0) + 1
    if command.wait is not None and command.state is not CommandState.WAITING:
        command.waits[-1].until_ms = now_ms
    if command.state is CommandState.ENDED:
        task.open -= 1
        _leave_wave(task, task.waves[command.wave], now_ms)


def _leave_wave(task: Task, wave: Wave, now_ms: int) -> None:
    wave.open -= 1
    if not wave.open:
        wave.ended_ms = now_ms
    while task.wave < len(task.waves) and not task.waves[task.wave].open:
        task.wave += 1
        task.wave_ms = now_ms


def _count_key(command: Command) -> str:
    end = command.attempts[-1].end if command.state is CommandState.ENDED else None
    return command.state.value if end is None else end.outcome.value
