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

import msgspec
import pytest

from fleetlog.render.live import FAILURES_SHOWN_MAX, PLAIN_EVERY_MS, Progress, eta_seconds, status_line
from fleetlog.render.proof import ROWS_MAX, proof_lines
from fleetlog.render.text import Style
from fleetlog_schemas import control_events, events, records
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Rollout
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


def test_time_left_of_a_rollout_follows_from_its_waves_and_a_soak_counts_down_to_its_last_second():
    history = History()
    names = [f"web{number:02d}" for number in range(8)]
    task = history.planned(*names, rollout=Rollout(waves=("1", "50%"), soak_ms=2_000))
    history.dispatched(task, "web00")
    history.wait(10_000)
    history.ended(task, "web00", Outcome.SUCCESS)
    assert eta_seconds(task, history.now_ms) == pytest.approx(20.0), "two waves like the first"
    line = status_line(task, history.now_ms + 1_500, PLAIN)
    assert "wave 2/3, 1 of 8 hosts" in line
    assert "wave 2 begins in 1s" in line
    assert "left" not in line


def test_without_a_terminal_a_line_comes_now_and_then_and_none_at_once():
    history, task = _task(4, 1)
    stream = io.StringIO()
    progress = Progress(stream, PLAIN, animated=False)
    for step_ms in range(0, 2 * PLAIN_EVERY_MS + 1, 250):
        progress.status(task, history.now_ms + step_ms)
    assert stream.getvalue().count("1/4 ended") == 2
    assert "\r" not in stream.getvalue()


def _waves(soak_ms: int = 0) -> tuple[History, records.Task]:
    history = History()
    task = history.submitted()
    task.spec = msgspec.structs.replace(task.spec, rollout=Rollout(waves=("1",), soak_ms=soak_ms, approve=(3,)))
    hosts = tuple(events.PlannedHost(name, name) for name in ("web01", "web02", "web03", "web04"))
    history.add(events.TasksPlanned(plans=(events.Plan(task.task_id, hosts, "hash", waves=(1, 2, 1)),)))
    history.dispatched(task, "web01")
    history.ended(task, "web01", Outcome.SUCCESS)
    return history, task


def test_the_status_line_counts_waves_and_says_why_the_task_stands():
    history, task = _waves(soak_ms=250_000)
    assert status_line(task, history.now_ms, PLAIN).startswith("wave 2/3, 1 of 4 hosts  ")
    assert status_line(task, history.now_ms, PLAIN).endswith("wave 2 begins in 4m10s")
    assert "left" in status_line(task, history.now_ms + 250_000, PLAIN)
    history.add(control_events.PauseRequested(task_id=task.task_id, reason="lunch"), authid="ann")
    assert status_line(task, history.now_ms, PLAIN).endswith("paused: lunch")
    history.add(control_events.AbortRequested(task_id=task.task_id))
    assert status_line(task, history.now_ms, PLAIN).endswith("aborting: what runs goes on")


@pytest.mark.parametrize("animated", [True, False])
def test_what_the_next_wave_waits_for_is_said_once_and_again_for_the_next(animated):
    history, task = _waves(soak_ms=60_000)
    stream = io.StringIO()
    progress = Progress(stream, PLAIN, animated=animated)
    for _ in range(3):
        progress.status(task, history.now_ms)
    assert stream.getvalue().count("wave 1 has ended; wave 2 begins after the soak time, in 1m00s") == 1
    history.wait(60_000)
    for name in ("web02", "web03"):
        progress.changed(history.dispatched(task, name))
        progress.changed(history.ended(task, name, Outcome.SUCCESS))
    history.wait(60_000)
    for _ in range(3):
        progress.status(task, history.now_ms)
    text = stream.getvalue()
    assert text.count("wave 2 of 3 begins: 2 hosts") == 1
    assert text.count(f"fleetlog approve {task.task_id[-8:]}") == 1


def test_a_halt_names_what_is_in_flight_and_what_would_be_next():
    history, task = _waves()
    history.dispatched(task, "web02")
    stream = io.StringIO()
    Progress(stream, PLAIN, animated=True).changed(
        history.add(events.TasksHalted(halts=(events.Halt(task.task_id, 1, 0, 2),)))
    )
    lines = stream.getvalue().splitlines()
    assert lines[1:3] == ["  1 host in flight: they go on to their end", "  next: wave 2 of 3, 1 host: web03"]


def test_the_proof_of_many_hosts_is_folded():
    history, task = _task(ROWS_MAX + 10, 0)
    names = list(task.commands)
    history.add(control_events.CancelRequested(task_id=task.task_id))
    for name in names[2:]:
        history.ended(task, name, Outcome.CANCELLED)
    lines = proof_lines(task.commands.values(), {names[0]}, PLAIN)
    assert lines == [
        f"  > 1 host: {names[0]}  cannot be reached: it will be told when it returns",
        f"  > 1 host: {names[1]}  has been told, and has not confirmed yet",
        f"  c 28 hosts: web[02-{len(names) - 1}]  confirmed by the host: cancelled",
    ]


def test_the_proof_tells_what_never_started_from_what_may_have_run():
    history = History()
    task = history.planned("web01", "web02", "web03")
    history.dispatched(task, "web02")
    history.ended(task, "web01", Outcome.CANCELLED, decided=True, ran=Ran.NO)
    history.ended(task, "web02", Outcome.LOST, decided=True, ran=Ran.UNKNOWN)
    lines = proof_lines(task.commands.values(), (), PLAIN)
    for line, proof in zip(lines, ("never started at ", "may have run, and cannot confirm", "has not started, and will not"), strict=True):
        assert proof in line


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
