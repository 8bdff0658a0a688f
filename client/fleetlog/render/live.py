"""Progress of a running task: one line redrawn on a terminal, a plain line now and then without one.

Failures appear as they happen, at most FAILURES_SHOWN_MAX of them; the rest is counted and `why` groups it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import TextIO

from fleetlog.render.rollout import gate_lines, hold_lines, in_waves, progress_text, standing_text
from fleetlog.render.task import counts_text
from fleetlog.render.text import Style, count_of, shorten, whole_seconds, width
from fleetlog.render.workflow import PartLines
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import Change, Command, CommandState, Task, TaskState
from fleetlog_schemas.rollout import wave_gate
from fleetlog_schemas.view import last_line

FAILURES_SHOWN_MAX = 20
PLAIN_EVERY_MS = 5_000
"""Without a terminal: how often a line says how far it is."""
_QUIET = (Outcome.SUCCESS, Outcome.SKIPPED)


def eta_seconds(task: Task, now_ms: int) -> float | None:
    """Return how long the rest will take by the pace so far, or None before the first command, or wave, has ended.

    Waves differ in size and take about as long: there the pace is waves, not hosts.
    """
    if task.parts:
        return None  # parts differ too much
    ended, left = len(task.commands) - task.open, task.open
    if in_waves(task):
        ended, left = task.wave, len(task.waves) - task.wave
    if not ended or not left or not task.planned_ms:
        return None
    return max(now_ms - task.planned_ms, 0) / 1000 / ended * left


def status_line(task: Task | None, now_ms: int, style: Style) -> str:
    """Return how far a task is: ended of all or its wave, counts by state, elapsed time, time left or why it stands."""
    if task is None or task.state is TaskState.SUBMITTED:
        return "waiting for the plan"
    parts = [progress_text(task), counts_text(task.counts, style)]
    parts.append(whole_seconds(max(now_ms - task.submitted_ms, 0) // 1000))
    standing = standing_text(task, now_ms, style)
    eta = eta_seconds(task, now_ms)
    if eta is not None and not standing:
        parts.append(f"about {whole_seconds(round(eta))} left")
    if standing:
        parts.append(style.paint(standing, "yellow"))
    return "  ".join(parts)


def failure_line(command: Command, style: Style) -> str:
    """Return the line of one command that has ended badly."""
    last, outcome = command.last, command.outcome
    assert last is not None
    assert last.end is not None
    assert outcome is not None
    code = f"  exit {last.end.exit_code}" if last.end.exit_code is not None else ""
    said = shorten(style.line(last_line(last.end)), 120)
    name = style.paint(style.line(command.host_name), "bold")
    return f"{style.glyph(outcome)} {name}  {outcome.value}{code}" + (f"  {said}" if said else "")


class Progress:
    """Shows a task as it goes on, on *stream*."""

    def __init__(self, stream: TextIO, style: Style, *, animated: bool) -> None:
        self._stream, self._style, self._animated = stream, style, animated
        self._drawn = False
        self._shown_ms = 0
        self._failures = 0
        self._away = False
        self._status = ""
        self._wave = 0
        """The last wave (from 1) whose beginning was shown."""
        self._parts = PartLines(style)
        self._gate: list[str] = []
        """What the next wave waited for when it was last said."""

    def changed(self, changes: Iterable[Change]) -> None:
        """Show what is worth a line of its own."""
        self._away = False
        for change in changes:
            command = change.command
            if change.task.parts:
                for line in self._parts.of(change.task):
                    self.note(line)
            if change.what == "planned" and not change.task.parts:
                if self._animated:
                    continue  # the status line says so
                self.note(f"planned on {count_of(len(change.task.commands), 'host')}  task {change.task.task_id}")
            elif change.what == "late" and command is not None:
                self.note(f"{self._style.line(command.host_name)}: a later end was reported and changes nothing")
            elif change.what == "ended" and command is not None:
                self._command_ended(command)
            elif change.what == "stop" and command is None:
                self.note(f"stopping: {self._style.line(change.task.stop_reason) or change.task.stop}")
            elif change.what == "dispatched" and command is not None:
                self._wave_begins(change.task, command.wave + 1)
            elif change.what == "held":
                self.note("\n".join(hold_lines(change.task, self._style)))
            elif change.what == "resumed":
                self.note("resumed: it goes on")
            elif change.what == "approved":
                self.note(f"approved: waves up to {change.task.approved} may begin")

    def _wave_begins(self, task: Task, wave: int) -> None:
        if wave <= self._wave or not in_waves(task):
            return
        self._wave = wave
        self.note(f"wave {wave} of {len(task.waves)} begins: {count_of(task.waves[wave - 1].hosts, 'host')}")

    def _say_gate(self, task: Task, now_ms: int) -> None:
        """Say once what the next wave waits for."""
        if task.hold is not None or task.stop:
            return
        lines = gate_lines(task, now_ms, self._style)
        known = [str(task.wave), wave_gate(task, now_ms)] if lines else []
        if known != self._gate:
            self._gate = known
            if lines:
                self.note("\n".join(lines))

    def _command_ended(self, command: Command) -> None:
        last = command.last
        if command.state is not CommandState.ENDED:
            if last is not None and last.end is not None:
                self.note(f"{self._style.line(command.host_name)}: attempt {last.number} {last.end.outcome}, will retry")
            return
        if command.outcome in _QUIET:
            return
        self._failures += 1
        if self._failures <= FAILURES_SHOWN_MAX:
            self.note(failure_line(command, self._style))
        elif self._failures == FAILURES_SHOWN_MAX + 1:
            self.note("… more failures are only counted here; `fleetlog why` groups them")

    def status(self, task: Task | None, now_ms: int) -> None:
        """Redraw the line that says how far it is, below what the next wave waits for."""
        if task is not None:
            self._say_gate(task, now_ms)
        if not self._animated:
            if self._shown_ms and now_ms - self._shown_ms >= PLAIN_EVERY_MS:
                self._stream.write(status_line(task, now_ms, self._style) + "\n")
                self._stream.flush()
                self._shown_ms = now_ms
            self._shown_ms = self._shown_ms or now_ms
            return
        line = status_line(task, now_ms, self._style)
        columns = shutil.get_terminal_size().columns
        if width(line) >= columns:
            line = shorten(status_line(task, now_ms, Style(colour=False, unicode=self._style.unicode)), columns - 1)
        if line != self._status or not self._drawn:
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()
            self._status, self._drawn = line, True

    def away(self, why: str) -> None:
        """Say once that nothing comes, until something comes again."""
        if not self._away:
            self._away = True
            self.note(f"the live feed broke off ({self._style.line(why)}); the task goes on, connecting again")

    def note(self, text: str) -> None:
        """Print a line above the status line."""
        self.clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the status line away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False
