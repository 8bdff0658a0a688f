"""The holder: parent of all commands of one agent, so small and dull that it outlives every agent.

A process of its own with nothing but a few modules of the standard library (`launch.py` and `process_tree.py` are
the rest of it): it has to stay small. It starts
processes in sessions of their own, writes each exit status to its file before it tells anybody, and ends whole process
trees on request. As a child subreaper it inherits what its commands leave behind, so nothing escapes a kill by
being orphaned; for the same reason it waits on SIGCHLD for any child, not on one pidfd for each.

One agent at a time is connected, on a socket that only its user may open. A new connection ends the old one, and
what that had sent and was not read is dropped: an agent that asks what became of an attempt gets a final answer.
Messages are JSON, one a line; `holder_client.py` is the counterpart.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from fleetlog_agent import launch
from fleetlog_agent.process_tree import boot_ms, boot_ticks, kill_tree, process_stat, signal_tree

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""One message: argv and environment; the kernel takes a quarter of the stack limit (2 MiB) for both."""
NEWS_SECONDS = 0.020
"""While many commands are started one after the other, the agent hears at least this often what became of them."""
SEND_SECONDS_MAX = 5.0
"""An agent that does not read for so long is dropped; it connects again and is told everything."""
IDLE_SECONDS_MAX = 60.0
"""Without an agent and without anything to hold, exit after so long."""
TICK_SECONDS = 5.0
"""Between looks at whether the agent's folder is still there."""
LOG_BYTES_MAX = 1024 * 1024
"""Above it the status file is rewritten with what is still held."""
_PR_SET_CHILD_SUBREAPER = 36


class Holder:
    """The running holder."""

    def __init__(self, folder: str) -> None:
        """Listen in *folder*, the agent's own."""
        self.folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.path = folder
        self.held: dict[str, dict[str, Any]] = {}
        """What is known of each attempt until the agent releases it."""
        self.by_pid: dict[int, str] = {}
        self.launching: dict[int, str] = {}
        """Attempts between fork and exec, by the pipe that carries an error."""
        self.client: socket.socket | None = None
        self.inbox = b""
        self.news: dict[str, dict[str, Any]] = {}
        """What the agent does not know yet, the newest of each attempt."""
        self.news_since = 0.0
        self.unsynced = False
        """Whether an exit status is in the file and may not be on disk."""
        self.retiring = False
        self.idle_since = time.monotonic()
        self.log = os.open("holder.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600, dir_fd=self.folder)
        self.log_is_ours = os.fstat(self.log).st_size == 0
        """Nothing in it is from a holder before us, whose statuses we do not know."""
        self.epoll = select.epoll()
        self.wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.listener = self._listen()
        for descriptor in (self.wake, self.listener.fileno()):
            self.epoll.register(descriptor, select.EPOLLIN)

    def _listen(self) -> socket.socket:
        # By way of the open folder: a socket's path is limited to 108 bytes, a folder's is not.
        path = f"/proc/self/fd/{self.folder}/holder.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            pass
        before = os.umask(0o177)
        listener.bind(path)
        os.umask(before)
        listener.listen(4)
        return listener

    # --- the loop ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until there is nothing left to hold."""
        while not self._done():
            for descriptor, _ in self.epoll.poll(TICK_SECONDS):
                if descriptor == self.wake:
                    os.read(self.wake, 4096)
                elif descriptor == self.listener.fileno():
                    self._accept()
                elif descriptor in self.launching:
                    self._launched(descriptor)
                elif self.client is not None and descriptor == self.client.fileno():
                    self._receive()
            self._reap()
            self._tell()

    def _done(self) -> bool:
        if self.by_pid or self.launching:
            self.idle_since = time.monotonic()
            return False
        try:
            there = os.stat(self.path).st_ino == os.fstat(self.folder).st_ino  # noqa: PTH116
        except OSError:
            there = False
        if not there:
            return True
        if self.client is not None or self.held:
            self.idle_since = time.monotonic()
            return False
        return self.retiring or time.monotonic() - self.idle_since > IDLE_SECONDS_MAX

    # --- the agent -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            client, _ = self.listener.accept()
        except OSError:
            return
        self._drop_client()
        client.settimeout(SEND_SECONDS_MAX)
        self.client, self.retiring = client, False
        self.epoll.register(client.fileno(), select.EPOLLIN)
        self._send([{"news": "hello", "pid": os.getpid(), "held": list(self.held.values())}])

    def _drop_client(self) -> None:
        if self.client is not None:
            self.epoll.unregister(self.client.fileno())
            self.client.close()
            self.client, self.inbox = None, b""
        self.news.clear()

    def _say(self, key: str, what: dict[str, Any]) -> None:
        """Let the agent know, together with what else there is."""
        if not self.news:
            self.news_since = time.monotonic()
        self.news[key] = {"news": "attempt", **what}

    def _tell(self) -> None:
        if self.news:
            news, self.news = self.news, {}
            self._send(list(news.values()))
        if self.unsynced:
            # Beside the agent, which journals what it heard: this copy is for when there is none.
            os.fdatasync(self.log)
            self.unsynced = False

    def _send(self, news: list[dict[str, Any]]) -> None:
        if self.client is None:
            return
        try:
            self.client.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in news))
        except OSError:
            self._drop_client()

    def _receive(self) -> None:
        assert self.client is not None
        try:
            data = self.client.recv(256 * 1024)
        except OSError:
            data = b""
        if not data or len(self.inbox) + len(data) > MESSAGE_BYTES_MAX:
            self._drop_client()
            return
        *lines, self.inbox = (self.inbox + data).split(b"\n")
        for line in lines:
            try:
                self._obey(json.loads(line))
                if self.news and time.monotonic() - self.news_since > NEWS_SECONDS:
                    self._reap()
                    self._tell()
            except (ValueError, KeyError, TypeError) as error:
                sys.stderr.write(f"dropped a connection that sent something else than an order: {error!r}\n")
                self._drop_client()
                return

    def _obey(self, order: dict[str, Any]) -> None:
        key = order.get("key", "")
        match order["order"]:
            case "spawn" if key in self.held:
                self._say(key, self.held[key])
            case "spawn":
                self._spawn(key, order)
            case "terminate" | "kill" as how:
                self._signal(key, how)
            case "release":
                held = self.held.get(key)
                if held is not None and held["state"] == "exited":
                    del self.held[key]
                    self._tidy_log()
            case "retire":
                self.retiring = True
                self._drop_client()

    def _signal(self, key: str, how: str) -> None:
        held = self.held.get(key)
        if held is None or held["state"] != "running":
            return
        held["stopped"] = True
        if how == "terminate":
            signal_tree(held["pid"], held["mark"], signal.SIGTERM)
        else:
            kill_tree(held["pid"], held["mark"])

    # --- processes -----------------------------------------------------------------------------------------

    def _spawn(self, key: str, order: dict[str, Any]) -> None:
        # What follows may be interrupted by a kill: the note comes first, so that nobody concludes "never started".
        if not self._note({"key": key, "state": "spawning", "ms": boot_ms()}):
            self._failed(key, "the disk of the agent's folder is full: nothing can be started safely")
            return
        held: dict[str, Any] = {"key": key, "state": "running", "slot": order.get("slot", 0), "mark": order["mark"]}
        before = boot_ticks()
        try:
            if order.get("launch"):
                pid, pipe = launch.fork(order)
                self.launching[pipe] = key
                self.epoll.register(pipe, select.EPOLLIN)
            else:
                pid = launch.spawn(order)
        except OSError as error:
            self._failed(key, launch.error_text(error, order))
            return
        held |= {
            "pid": pid, "process_start": _start_ticks(pid, before), "started_ms": boot_ms(), "argv0": order["argv"][0],
        }
        self.held[key] = held
        self.by_pid[pid] = key
        if not order.get("launch"):
            self._note(held)
            self._say(key, held)

    def _launched(self, pipe: int) -> None:
        key = self.launching.pop(pipe)
        self.epoll.unregister(pipe)
        error = os.read(pipe, 4096).decode(errors="replace")
        os.close(pipe)
        held = self.held[key]
        if error:
            self.by_pid.pop(held["pid"], None)
            del self.held[key]
            os.waitpid(held["pid"], 0)
            self._failed(key, error)
            return
        self._note(held)
        self._say(key, held)

    def _failed(self, key: str, error: str) -> None:
        self._note({"key": key, "state": "failed", "error": error})
        self._say(key, {"key": key, "state": "failed", "error": error})

    def _reap(self) -> None:
        """Collect every child that ended: commands, and orphans that became ours."""
        news = []
        unsettled = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            key = self.by_pid.get(pid)
            if key is None:
                continue
            if key in self.launching.values():
                unsettled.append((pid, status))
                continue
            news.append(self._exited(key, pid, status))
        for pid, status in unsettled:
            self._ended_while_launching(pid, status, news)
        if news:
            # On a full disk it stays in memory, and in the journal of the agent that hears it.
            self.unsynced = self._note(*news) or self.unsynced
            for one in news:
                self._say(one["key"], one)

    def _ended_while_launching(self, pid: int, status: int, news: list[dict[str, Any]]) -> None:
        """A process between fork and exec is gone: its pipe says whether it ever ran the command."""
        key = self.by_pid.pop(pid)
        pipe = next(pipe for pipe, name in self.launching.items() if name == key)
        del self.launching[pipe]
        self.epoll.unregister(pipe)
        error = os.read(pipe, 4096).decode(errors="replace")
        os.close(pipe)
        if error:
            del self.held[key]
            self._failed(key, error)
        else:
            self._say(key, self.held[key])
            news.append(self._exited(key, pid, status))

    def _exited(self, key: str, pid: int, status: int) -> dict[str, Any]:
        self.by_pid.pop(pid, None)
        held = self.held[key]
        if held.get("stopped"):
            kill_tree(pid, held["mark"])  # what a stopped command leaves behind was meant to end too
        code = os.waitstatus_to_exitcode(status)
        now_ms = boot_ms()
        held |= {
            "state": "exited", "exit_code": code if code >= 0 else None, "signal": -code if code < 0 else None,
            "ended_ms": now_ms, "duration_ms": now_ms - held["started_ms"],
        }
        return held

    # --- the status file -----------------------------------------------------------------------------------

    def _note(self, *records: dict[str, Any]) -> bool:
        """Write records to the status file; False when the disk does not take them."""
        # A line break first: what a full disk cut off must not spoil what follows. Readers pass over empty lines.
        lines = b"\n" + b"".join(json.dumps(record).encode() + b"\n" for record in records)
        try:
            return os.write(self.log, lines) == len(lines)
        except OSError:
            return False

    def _tidy_log(self) -> None:
        if not self.log_is_ours or os.fstat(self.log).st_size < LOG_BYTES_MAX:
            return
        name, old = "holder.log.new", self.log
        self.log = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600, dir_fd=self.folder)
        if not self._note(*self.held.values()):
            os.close(self.log)
            self.log = old
            return
        os.fsync(self.log)
        os.rename(name, "holder.log", src_dir_fd=self.folder, dst_dir_fd=self.folder)
        os.close(old)


def _start_ticks(pid: int, before: int) -> int:
    """Return the start time of a process of ours, started since *before*, as /proc has it."""
    if boot_ticks() == before:
        return before  # nearly always: to ask the kernel takes as long as to start a process
    stat = process_stat(pid)
    return stat[2] if stat else 0


def command(folder: str, *options: str) -> list[str]:
    """Return the command line of a holder: without the site module, so that no other package is even looked for."""
    packages = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    code = f"import sys; sys.path.append({packages!r}); from fleetlog_agent.holder import main; sys.exit(main(sys.argv))"
    return [sys.executable, "-I", "-S", "-c", code, *options, folder]


def main(argv: list[str]) -> int:
    """Run the holder of the agent folder named by the last argument."""
    if "--holding" not in argv:
        import ctypes  # only in this first life: the setting survives exec, the memory does not

        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            sys.stderr.write("the kernel does not let the holder adopt orphans; killed trees may leave some\n")
        words = command(argv[-1], "--holding")
        os.execv(words[0], words)  # noqa: S606
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    lock = os.open(argv[-1] + "/holder.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0  # one holds already
    Holder(argv[-1]).run()
    return 0

