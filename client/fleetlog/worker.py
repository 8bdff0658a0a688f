"""A worker: `python -m fleetlog.worker`, the process in which task functions of one host run, one call at a time.

An agent starts it with an open folder, a name and the modules to load, and connects to its socket there. The main thread
makes the calls, and reads what comes between them: to have another thread read costs more than a small function. One
thread listens, so that an agent that comes back is answered while a function runs; one looks whether a call takes long,
and gives back what waits behind it. Each call is written to the worker's file before it is made and when it is over (a write, no sync: it must survive this process and the
agent's, not the machine). A new connection ends the old one, and what that had asked for and was not begun is dropped:
so what the agent then hears is final.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from types import FrameType

import msgspec

from fleetlog import tasks
from fleetlog_schemas import workers
from fleetlog_schemas.limits import ERROR_TEXT_BYTES_MAX, FUNCTIONS_PER_HOST_MAX, PROGRESS_NOTE_BYTES_MAX

IDLE_SECONDS_MAX = 60.0
"""Without an agent and without a call, exit after so long."""
LEAVE_SECONDS_MAX = 10.0
"""For threads that functions left behind and for what they asked to be done at exit; then the process ends all the same."""
FILE_BYTES_MAX = 16 * 1024 * 1024
"""Above it no further call is taken: the agent starts another worker, with another file."""
PROGRESS_SECONDS_MIN = 1.0
"""Between two words of progress that are sent."""
SLOW_SECONDS = 0.02
"""A call that runs for longer keeps no other waiting."""
FAR_MAX = 1e300
"""Largest number that is told as progress; what is above, infinity and NaN are not."""
DISK_FULL = "the disk of the agent's folder is full: nothing can be run safely"
_STDOUT, _STDERR = 1, 2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stopped(BaseException):
    """The call is to end: raised inside the function, so that what it opened is closed."""


class Worker:
    """One worker process."""

    def __init__(self, folder: str, name: str, calls_max: int, memory_bytes_max: int) -> None:
        """Listen in *folder*; leave after *calls_max* calls, or when a call is over and more memory is in use."""
        self._pid = os.getpid()
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._calls_left, self._memory_bytes_max = calls_max, memory_bytes_max
        self._file = os.open(f"{name}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600, dir_fd=self._folder)
        self._file_bytes = os.fstat(self._file).st_size
        self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._waiting: deque[workers.Call] = deque()
        self._client: socket.socket | None = None
        self._heard: tuple[socket.socket | None, bytearray] = (None, bytearray())
        """Of which connection the main thread reads, and what is no whole order yet."""
        self._came = threading.Event()
        """There is an agent."""
        self._running = ""
        self._running_since = 0.0
        self._watched = threading.Event()
        """Calls are made, and none of them was said to be slow."""
        self._calls_made = 0
        self._deaf = False
        """Until the agent has noted that what it gave behind a slow call is not begun here."""
        self._leaves = False
        self._errors: list[str] = []
        self._environment: dict[str, str] = {}
        """As it is between calls."""
        self._raw_environment: dict[bytes, bytes] | None = None
        self._progress_said: tuple[str, float, bool] = ("", 0.0, False)
        """Of which call, when, and whether it was at its total."""
        self._listener = self._listen(name)
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """Let a child that a function forks have nothing of the agent's: the connection must end with this process."""
        self._lock = threading.Lock()
        self._listener.close()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _listen(self, name: str) -> socket.socket:
        # By way of the open folder: a socket's path is limited to 108 bytes.
        path = f"/proc/self/fd/{self._folder}/{name}.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        listener.bind(path)
        os.umask(before)
        listener.listen(2)
        return listener

    def load(self, modules: list[str]) -> None:
        """Import the host's modules; one that cannot be imported is said, and keeps nothing else from running."""
        for module in modules:
            # The agent shows it when this process says nothing more: a module may hang, or end it.
            sys.stderr.write(f"importing {module}\n")
            sys.stderr.flush()
            try:
                importlib.import_module(module)
            except BaseException as error:  # noqa: BLE001 - a module may do anything, SystemExit included
                self._errors.append(f"module {module}: {tasks.failure(error, '', 0, 0).error}")
        self._environment = dict(os.environ)
        self._raw_environment = _raw_environment()

    # --- on threads of their own --------------------------------------------------------------------------

    def listen_for_ever(self) -> None:
        """Answer each agent that comes, until the process ends."""
        while True:
            client, _ = self._listener.accept()
            with self._lock:
                former, self._client = self._client, client
                self._waiting.clear()
                self._deaf = False
                self._send(
                    workers.Hello(
                        pid=os.getpid(), functions=tuple(one.offered() for _, one in sorted(tasks.registered().items())[:FUNCTIONS_PER_HOST_MAX]),
                        running=self._running, errors=tuple(self._errors),
                    )
                )
                self._came.set()
            if former is not None:
                with suppress(OSError):
                    former.shutdown(socket.SHUT_RDWR)  # whoever reads from it closes it

    def watch_for_ever(self) -> None:
        """Say of a call that takes long that it does, so that none waits for it: others may be free."""
        calls_made = -1
        while True:
            self._watched.wait()
            time.sleep(SLOW_SECONDS)
            with self._lock:
                if self._running and time.monotonic() - self._running_since > SLOW_SECONDS:
                    self._waiting.clear()
                    self._deaf = True
                    self._send(workers.Slow(self._running))
                    self._watched.clear()
                elif not self._running and self._calls_made == calls_made:
                    self._watched.clear()
                calls_made = self._calls_made

    def _send(self, news: workers.News) -> None:
        if self._client is not None:
            with suppress(OSError):
                self._client.sendall(workers.frame(news))

    # --- calls, on the main thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Make the calls that are asked for, until it is time to leave."""
        while (call := self._next()) is not None:
            began_ms = _boot_ms()
            if self._note(workers.frame(workers.Began(call.key, began_ms))):
                self._finished(self._call(call, began_ms))
            else:
                self._finished(workers.Finished(call.key, began_ms, began_ms, error=DISK_FULL, called=False))

    def _next(self) -> workers.Call | None:
        """Return the next call; None when it is time to leave."""
        while True:
            with self._lock:
                if self._waiting and not self._leaves:
                    call = self._waiting.popleft()
                    self._running, self._running_since = call.key, time.monotonic()
                    self._calls_made += 1
                    self._watched.set()
                    return call
                client = self._client
            if self._leaves or (client is None and not self._came.wait(IDLE_SECONDS_MAX)):
                return None
            if client is not None:
                self._hear(client)

    def _hear(self, client: socket.socket) -> None:
        """Wait for what the agent says."""
        former, buffer = self._heard
        if former is not client:
            if former is not None:
                former.close()
            buffer = bytearray()
            self._heard = (client, buffer)
        try:
            data = client.recv(256 * 1024)
            buffer += data
            orders = workers.take_orders(buffer)
        except (OSError, workers.BadFrame):
            data, orders = b"", []
        with self._lock:
            if client is not self._client:
                return
            if not data:
                self._client = None
                self._came.clear()
                self._waiting.clear()
                return
            for order in orders:
                match order:
                    case workers.Retire():
                        self._leaves = True
                    case workers.Noted():
                        self._deaf = False
                    case workers.Call() if not self._deaf:
                        self._waiting.append(order)

    def _note(self, frame: bytes) -> bool:
        """Write to the file of calls; False when the disk does not take it."""
        try:
            written = os.write(self._file, frame)
        except OSError:
            return False
        self._file_bytes += written
        return written == len(frame)

    def _finished(self, finished: workers.Finished) -> None:
        self._calls_left -= 1
        with self._lock:
            if self._calls_left <= 0 or self._file_bytes > FILE_BYTES_MAX or self._memory_bytes() > self._memory_bytes_max:
                self._leaves = True
                self._waiting.clear()
            frame = workers.frame(msgspec.structs.replace(finished, leaves=self._leaves))
            self._note(frame)  # where the disk is full, the agent that hears it writes it down
            self._running = ""
            if self._client is not None:
                with suppress(OSError):
                    self._client.sendall(frame)

    def _memory_bytes(self) -> int:
        return int(os.pread(self._memory, 128, 0).split()[1]) * _PAGE_BYTES  # after each call: what else there is costs more

    def _call(self, call: workers.Call, began_ms: int) -> workers.Finished:
        declared = tasks.registered().get(call.name)
        if declared is None:
            return self._unknown(call, began_ms)
        given = {name: value for name, value in call.parameters.items() if declared.takes(name) and name not in call.kwargs}
        try:
            bound = declared.check(call.args, {**given, **call.kwargs})
        except tasks.WrongArguments as error:
            return workers.Finished(call.key, began_ms, _boot_ms(), error=tasks.cut(str(error), ERROR_TEXT_BYTES_MAX), called=False)
        os.environ.update(call.environment)
        self._redirect(call.stdout, call.stderr)
        signal.signal(signal.SIGTERM, _stop)
        try:
            value = tasks.call(declared, bound, lambda *how_far: self._progressed(call.key, *how_far))
            return workers.Finished(call.key, began_ms, _boot_ms(), value=value)
        except BaseException as error:  # noqa: BLE001 - whatever a function raises is how its call ended
            return tasks.failure(error, call.key, began_ms, _boot_ms())
        finally:
            if os.getpid() != self._pid:
                os._exit(0)  # a child that the function forked and that came back out of it: the call is its parent's
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._redirect("", "")
            self._restore_environment(call)
            os.chdir("/")

    def _restore_environment(self, call: workers.Call) -> None:
        """Undo what changed, and only that: setting each variable anew costs more than a call."""
        for name in call.environment:
            if name in self._environment:
                os.environ[name] = self._environment[name]
            else:
                os.environ.pop(name, None)
        if self._raw_environment is not None and getattr(os.environ, "_data", None) == self._raw_environment:
            return
        now = dict(os.environ)
        for name in now.keys() - self._environment.keys():
            os.environ.pop(name, None)
        for name, value in self._environment.items():
            if now.get(name) != value:
                os.environ[name] = value

    def _redirect(self, stdout: str, stderr: str) -> None:
        """Let everything that is written to the two outputs go to these files, whoever writes it: Python, C, child processes."""
        for name, descriptor, path in (("stdout", _STDOUT, stdout), ("stderr", _STDERR, stderr)):
            for stream in (getattr(sys, name), getattr(sys, f"__{name}__")):
                with suppress(Exception):  # whatever a function put there
                    stream.flush()
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if path else self._null
            if opened != descriptor:  # it is, where a function closed that one
                os.dup2(opened, descriptor)
                if path:
                    os.close(opened)
            _own_stream(name, descriptor)

    def _unknown(self, call: workers.Call, began_ms: int) -> workers.Finished:
        why = "; ".join(self._errors) or "its modules declare no such function"
        return workers.Finished(call.key, began_ms, _boot_ms(), error=f"this host has no function {call.name!r}: {why}", called=False)

    def _progressed(self, key: str, done: float, total: float | None, note: str) -> None:
        if not all(abs(number) <= FAR_MAX for number in (done, total or 0.0)):
            return  # no number that a report can have: a share of nothing, for one
        now = time.monotonic()
        over = total is not None and done >= total
        last_key, last_time, was_over = self._progress_said
        if key == last_key and now - last_time < PROGRESS_SECONDS_MIN and (was_over or not over):
            return
        self._progress_said = (key, now, over)
        with self._lock:
            self._send(workers.Progressed(key, float(done), None if total is None else float(total), tasks.cut(str(note), PROGRESS_NOTE_BYTES_MAX)))


def _raw_environment() -> dict[bytes, bytes] | None:
    """Return a copy of what `os.environ` keeps: to compare it takes a microsecond, and to read it by name thirty."""
    found = getattr(os.environ, "_data", None)
    return found.copy() if isinstance(found, dict) else None


def _own_stream(name: str, descriptor: int) -> None:
    """Let `sys.stdout` or `sys.stderr` be one that writes each line at once: it is seen while the function runs, or is killed."""
    stream = getattr(sys, f"__{name}__")
    if stream is None or stream.closed or not stream.line_buffering:
        stream = open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, f"__{name}__", stream)
    setattr(sys, name, stream)  # a function may have put another one there, or closed it


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped("the call was told to end")


def _leave_at_last() -> None:
    time.sleep(LEAVE_SECONDS_MAX)
    os._exit(0)


def _boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def main(argv: list[str] | None = None) -> int:
    """Run a worker until it is told to leave."""
    parser = argparse.ArgumentParser(prog="python -m fleetlog.worker", description="Runs task functions for the agent of this host.")
    parser.add_argument("--folder", required=True, help="where its socket and its file of calls are")
    parser.add_argument("--name", required=True)
    parser.add_argument("--calls-max", type=int, required=True)
    parser.add_argument("--memory-bytes-max", type=int, required=True)
    parser.add_argument("--path", action="append", default=[], help="folder of modules")
    parser.add_argument("modules", nargs="*")
    options = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ[tasks.IN_WORKER] = "1"
    _own_stream("stdout", _STDOUT)
    _own_stream("stderr", _STDERR)
    sys.path[:0] = options.path
    worker = Worker(options.folder, options.name, options.calls_max, options.memory_bytes_max)
    worker.load(options.modules)
    os.chdir("/")
    gc.collect()
    gc.freeze()
    for work in (worker.listen_for_ever, worker.watch_for_ever):
        threading.Thread(target=work, daemon=True).start()
    worker.run()
    threading.Thread(target=_leave_at_last, daemon=True).start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
