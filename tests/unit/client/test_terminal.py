"""On a real terminal: the line that is redrawn, the count that is typed, Ctrl-C."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from fleetlog.render.live import FAILURES_SHOWN_MAX, PLAIN_EVERY_MS, Progress, eta_seconds, status_line
from fleetlog.render.text import Style
from fleetlog_schemas.outcomes import Outcome
from fleetlog_testing.history import History

PLAIN = Style(colour=False, unicode=False)


class Terminal:
    """The command line on a pseudo-terminal."""

    def __init__(self, cli, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = dict(os.environ, FLEETLOG_URL=cli.url, TERM="xterm", COLUMNS="100")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fleetlog.main", *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
            env=environment, start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, pattern: str, seconds: float = 10.0) -> None:
        """Read until a pattern was seen."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            try:
                piece = os.read(self._ours, 4096)
            except OSError:
                piece = b""  # the other end is closed
            assert piece, f"{pattern!r} was not seen in {self.seen!r}"
            self.seen += piece.decode()

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        try:
            code = self.process.wait(10)
            while piece := os.read(self._ours, 4096):
                self.seen += piece.decode()
        except OSError:
            pass
        finally:
            self.process.kill()
            os.close(self._ours)
        return code


@pytest.mark.parametrize(("typed", "code"), [("51", 0), ("50", 2), ("", 2), ("y", 2)])
def test_above_fifty_hosts_the_count_is_typed(cli, recorded, typed, code):
    recorded.hosts = [f"web{number:02d}" for number in range(51)]
    terminal = Terminal(cli, "exec", "-t", "web*", "--", "true")
    terminal.until("type the number")

    terminal.type(typed + "\n")

    assert terminal.end() == code, terminal.seen
    submitted = [body for method, path, body in recorded.requests if (method, path) == ("POST", "/api/v1/tasks")]
    assert [body["plan_hash"] for body in submitted] == (["hash"] if code == 0 else [])


def test_ctrl_c_leaves_the_task_alone_and_says_how_to_come_back(cli, recorded):
    recorded.story = lambda r, task_id: (r.plan(task_id, ["web01", "web02"]), r.dispatch(task_id, ["web01"]))[1]
    terminal = Terminal(cli, "exec", "-t", "web*", "--", "sleep", "60")
    terminal.until("0/2 ended")

    terminal.process.send_signal(signal.SIGINT)

    assert terminal.end() == 130
    task_id = next(iter(recorded.history.tasks.by_id))
    assert f"fleetlog watch {task_id[-8:]}" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert not [path for _, path, _ in recorded.requests if path.endswith("/cancel")]


def test_the_status_line_goes_before_anything_else_is_printed(cli, recorded):
    recorded.story = lambda r, task_id: r.run(task_id, {"web01": Outcome.SUCCESS, "web02": Outcome.FAILURE})
    terminal = Terminal(cli, "exec", "-t", "web*", "--", "true")
    assert terminal.end() == 3
    assert terminal.seen.rstrip().splitlines()[-1].startswith("failed: web02")
    shown = next(line for line in terminal.seen.split("\r\n") if "web02  failure" in line)
    assert "ended" not in shown.rpartition("\x1b[K")[2]


def _task(hosts: int, ended: int) -> tuple[History, object]:
    history = History()
    names = [f"web{number:02d}" for number in range(hosts)]
    task = history.planned(*names)
    for name in names:
        history.dispatched(task, name)
    history.wait(10_000)
    for name in names[:ended]:
        history.ended(task, name, Outcome.SUCCESS)
    return history, task


def test_time_left_follows_from_the_pace_so_far():
    history, task = _task(4, 1)
    assert eta_seconds(task, history.now_ms) == pytest.approx(30.0)
    assert "1/4 ended" in status_line(task, history.now_ms, PLAIN)
    assert "about 30s left" in status_line(task, history.now_ms, PLAIN)
    assert eta_seconds(_task(4, 0)[1], history.now_ms) is None
    assert eta_seconds(_task(4, 4)[1], history.now_ms) is None


def test_without_a_terminal_a_line_comes_now_and_then_and_none_at_once():
    history, task = _task(4, 1)
    stream = io.StringIO()
    progress = Progress(stream, PLAIN, animated=False)
    for step_ms in range(0, 2 * PLAIN_EVERY_MS + 1, 250):
        progress.status(task, history.now_ms + step_ms)
    assert stream.getvalue().count("1/4 ended") == 2
    assert "\r" not in stream.getvalue()


def test_only_so_many_failures_are_shown_one_by_one():
    history = History()
    names = [f"web{number:03d}" for number in range(FAILURES_SHOWN_MAX + 30)]
    task = history.planned(*names)
    stream = io.StringIO()
    progress = Progress(stream, PLAIN, animated=False)
    for name in names:
        history.dispatched(task, name)
        progress.changed(history.ended(task, name, Outcome.FAILURE, exit_code=1))
    lines = stream.getvalue().splitlines()
    assert len(lines) == FAILURES_SHOWN_MAX + 1
    assert "only counted here" in lines[-1]
