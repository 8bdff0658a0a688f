"""The demonstration: eight steps on five agents of this machine, each printing the command it types.

`python -m fleetlog.demo` works in a folder of its own, checks exit code and facts of every step, leaves no process
behind and ends with 0 only if all of it held. Every command is the real command line in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

AGENTS = {
    "web01": ("env=prod", "role=web"), "web02": ("env=prod", "role=web"), "web03": ("env=prod", "role=web"),
    "db01": ("env=prod", "role=db"), "lab01": ("env=test", "role=web"),
}
READY_S_MAX = 30.0
"""Start-up of bus and services on a slow machine."""
STEP_S_MAX = 30.0
"""Longest wait for one fact: a killed agent counts as silent for a while before anybody gives it up."""
TYPE_S_MAX = 60.0
"""Longest run of one command line."""
STOP_S_MAX = 20.0
POLL_S = 0.1
SLEEP_MARK = "86399.125"
"""An argument of sleep that nothing else on the machine uses, so that `ps` finds ours and only ours."""


class DemoError(Exception):
    """A step did not do what it shows."""


class Typed:
    """What one command line printed, and how it ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def text(self) -> str:
        """Everything that a person saw."""
        return self.out + self.err


class Demo:
    """One run: its folder, the processes it started, and the steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "server"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("FLEETLOG_")
        } | {"FLEETLOG_DATA": str(self.data)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.failing_task = ""

    # --- typing -------------------------------------------------------------------------------------------

    def type(self, line: str, *, expect: int | None = 0, quiet: bool = False) -> Typed:
        """Print a command line, run it, print what it printed, and check its exit code."""
        if not quiet:
            print(f"\n$ {line}", flush=True)
        done = Typed(
            subprocess.run(
                [sys.executable, "-m", "fleetlog.main", *shlex.split(line)[1:]], check=False, capture_output=True,
                text=True, env=self.environment, timeout=TYPE_S_MAX, stdin=subprocess.DEVNULL,
            )
        )
        if not quiet:
            print(done.text.rstrip("\n"), flush=True)
        if expect is not None and done.code != expect:
            raise DemoError(f"`{line}` ended with {done.code}, not {expect}:\n{done.text}")
        return done

    def ask(self, line: str) -> Any:
        """Return the JSON answer of a command line that a person would not have to type."""
        return json.loads(self.type(f"{line} -o json", quiet=True).out)

    def start(self, name: str, line: str) -> None:
        """Start a command line that stays."""
        print(f"\n$ {line} &", flush=True)
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "fleetlog.main", *shlex.split(line)[1:]], env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )

    def start_agent(self, name: str) -> None:
        """Start the agent of one host."""
        self.start(name, f"fleetlog agent run --data {self.folder / name}")

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process that this demonstration started, and wait for its end."""
        process = self._processes.pop(name)
        print(f"\n$ kill -{number.name.removeprefix('SIG')} {process.pid}   # {name}", flush=True)
        process.send_signal(number)
        process.wait(STOP_S_MAX)

    def service_pid(self, name: str) -> int:
        """Return the process id of a service that `up --processes` started."""
        return int((self.data / "run" / f"{name}.pid").read_text())

    def until(self, what: str, holds: Callable[[], bool], seconds_max: float = STEP_S_MAX) -> None:
        """Wait until something holds, or fail saying what did not."""
        deadline = time.monotonic() + seconds_max
        while not holds():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise DemoError(f"{name} ended with {process.returncode}:\n{self._log_of(name)}")
            if time.monotonic() > deadline:
                raise DemoError(f"not within {seconds_max:.0f} s: {what}")
            time.sleep(POLL_S)

    def presence(self) -> dict[str, str]:
        """Return which host is online."""
        return {host["name"]: host["presence"] for host in self.ask("fleetlog host ls")["items"]}

    def _log_of(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-20:]) if path.exists() else ""

    # --- setting up and taking down -----------------------------------------------------------------------

    def set_up(self) -> None:
        """Start the services, and join five agents."""
        title("Set up: the services as separate processes, and five agents of one machine")
        self.start("up", f"fleetlog up --data {self.data} --processes --no-agent --port 0")
        self.until("the system is ready", lambda: "ready" in self._log_of("up"), READY_S_MAX)
        for name, labels in AGENTS.items():
            chosen = " ".join(f"--label {label}" for label in labels)
            added = self.type(f"fleetlog host add {name} {chosen}")
            self.start(name, f"{added.out.strip()} --data {self.folder / name}")
        self.until("five hosts are online", lambda: set(self.presence().values()) == {"online"})
        self.type("fleetlog host ls")

    def take_down(self) -> list[int]:
        """Stop everything and return the processes that are left of it."""
        title("Stop")
        for name in [*AGENTS, "up"]:
            if name in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.send(name, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S_MAX
        while (left := self.own_processes()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def own_processes(self) -> list[int]:
        """Return the processes whose command line names this run's folder, or a sleep of ours."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if str(self.folder).encode() in command or SLEEP_MARK.encode() in command:
                found.append(int(entry.name))
        return found

    # --- the eight steps ----------------------------------------------------------------------------------

    def step_1(self) -> None:
        """Real facts and disk use from all hosts."""
        self.until(
            "every host has told its facts",
            lambda: all(host["facts"] for host in self.ask("fleetlog host ls")["items"]),
        )
        self.type("fleetlog host show web01")
        done = self.type("fleetlog exec -t all -- df -h /")
        expect("5 success" in done.err, "disk use comes from five hosts", done.text)
        expect("%" in done.out, "the output of df is printed", done.text)

    def step_2(self) -> None:
        """One agent says goodbye: its host is unreached, the others are not."""
        self.send("lab01", signal.SIGTERM)
        self.until("lab01 is offline", lambda: self.presence()["lab01"] == "offline", 5.0)
        done = self.type("fleetlog exec -t all -- uptime", expect=9)
        expect("4 success" in done.err and "1 unreached" in done.err, "four answered, one is unreached", done.text)
        self.start_agent("lab01")
        self.until("lab01 is online again", lambda: self.presence()["lab01"] == "online")

    def step_3(self) -> None:
        """A script that fails on one host: why says where and with which last line."""
        script = self.folder / "upgrade.sh"
        script.write_text(
            "#!/bin/sh\n"
            "# Whoever comes first finds the package database taken.\n"
            'if mkdir "$1" 2>/dev/null; then\n'
            '    echo "E: could not get the lock of the package database" >&2\n'
            "    exit 100\n"
            "fi\n"
            "echo upgraded\n"
        )
        done = self.type(f"fleetlog run {script} -t 'env=prod' -- {self.folder / 'lock'}", expect=3)
        expect("3 success" in done.err and "1 failure" in done.err, "it failed on one of four hosts", done.text)
        why = self.type("fleetlog why last")
        expect("exit 100" in why.out and "could not get the lock" in why.out, "why names the last line", why.text)
        self.failing_task = self.ask("fleetlog show last")["task_id"]

    def step_4(self) -> None:
        """The dispatcher and one agent are killed while a command runs; it still runs exactly once per host."""
        judge = self.folder / "judge"
        text = f"sleep 2; echo $FLEETLOG_HOST_ID attempt $FLEETLOG_ATTEMPT >> {judge}; sleep 1"
        task_id = self.type(f"fleetlog exec -t all --detach -c {shlex.quote(text)}").out.strip()
        self.until("it runs on five hosts", lambda: self._running(task_id) == len(AGENTS))
        pid = self.service_pid("dispatcher")
        print(f"\n$ kill -KILL {pid}   # dispatcher; it is started again", flush=True)
        os.kill(pid, signal.SIGKILL)
        self.send("web02", signal.SIGKILL)
        self.start_agent("web02")
        done = self.type(f"fleetlog watch {task_id[-8:]}")
        expect("5 success" in done.err, "it succeeded on five hosts", done.text)
        lines = judge.read_text().splitlines()
        print(f"\n$ cat {judge}\n" + "\n".join(lines), flush=True)
        hosts = {line.split()[0] for line in lines}
        once = len(lines) == len(hosts) == len(AGENTS)
        expect(once, "the file has exactly one line for each host", "\n".join(lines))

    def _running(self, task_id: str) -> int:
        counts = self.ask(f"fleetlog show {task_id}")["counts"]
        return int(counts.get("running", 0))

    def step_5(self) -> None:
        """A tree of sleeps is cancelled; every host confirms, and nothing of it is alive."""
        text = f"sleep {SLEEP_MARK} & sleep {SLEEP_MARK} & wait"
        task_id = self.type(f"fleetlog exec -t all --detach -c {shlex.quote(text)}").out.strip()
        self.until("it runs on five hosts", lambda: self._running(task_id) == len(AGENTS))
        done = self.type(f"fleetlog cancel {task_id[-8:]} --reason demonstration")
        expect("5 cancelled" in done.err, "each host confirms", done.text)
        left = [pid for pid in self.own_processes() if SLEEP_MARK in _command_line(pid)]
        print(f"\n$ ps ax | grep -c '[s]leep {SLEEP_MARK}'\n{len(left)}", flush=True)
        expect(not left, "no sleep is alive", str(left))

    def step_6(self) -> None:
        """Only where step 3 failed it is run again."""
        done = self.type(f"fleetlog rerun {self.failing_task[-8:]} --failed")
        expect("1 host: " in done.err and "1 success" in done.err, "one host, and now it succeeds", done.text)

    def step_7(self) -> None:
        """The projection is deleted: it comes back from the log with the same statistics."""
        before = self.type("fleetlog stats --by host -o json", quiet=True).out
        self.type("fleetlog stats --by host")
        pid = self.service_pid("reporter")
        files = self.data / "reporter" / "projection-v1.duckdb*"
        print(f"\n$ rm {files}; kill -KILL {pid}   # reporter; it is started again", flush=True)
        for path in files.parent.glob(files.name):
            path.unlink()
        os.kill(pid, signal.SIGKILL)
        after = ""

        def same() -> bool:
            nonlocal after
            if self.service_pid("reporter") == pid:
                return False
            done = self.type("fleetlog stats --by host -o json", expect=None, quiet=True)
            after = done.out if done.code == 0 else after
            return after == before

        self.until("the same statistics come back", same)
        self.type("fleetlog stats --by host")
        self.type("fleetlog verify projection")

    def step_8(self) -> None:
        """Replaying the log gives, byte for byte, what was shown."""
        for item in self.ask("fleetlog ls --limit 100")["items"]:
            short = item["task_id"][-8:]
            shown = self.type(f"fleetlog show {short} -o json", quiet=True).out
            replayed = self.type(f"fleetlog replay {item['task_id']} -o json", quiet=True).out
            print(f"$ cmp <(fleetlog show {short} -o json) <(fleetlog replay {short} -o json)", flush=True)
            expect(shown == replayed, f"replay equals show for {short}", _difference(shown, replayed))
        print("equal", flush=True)

    def run(self) -> None:
        """Set up, and take the eight steps."""
        self.set_up()
        for number, step in enumerate(
            (self.step_1, self.step_2, self.step_3, self.step_4, self.step_5, self.step_6, self.step_7, self.step_8), 1
        ):
            title(f"{number}. {(step.__doc__ or '').strip()}")
            step()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _difference(one: str, other: str) -> str:
    pairs = zip(one.splitlines(), other.splitlines(), strict=False)
    return "\n".join(f"- {left}\n+ {right}" for left, right in pairs if left != right)[:2_000]


def expect(holds: bool, what: str, found: str) -> None:
    """Fail, saying what was to be and what was found."""
    if not holds:
        raise DemoError(f"expected: {what}; found:\n{found}")


def title(text: str) -> None:
    """Print the head of a step."""
    print(f"\n=== {text}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the demonstration and return 0 if every step held."""
    parser = argparse.ArgumentParser(prog="python -m fleetlog.demo", description="Eight steps on five agents.")
    parser.add_argument("--keep", action="store_true", help="keep the folder, to look at what was written")
    options = parser.parse_args(argv)
    began = time.monotonic()
    # A short path: it may hold sockets, whose names have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="fleetlog-demo-"))
    demo, failed = Demo(folder), ""
    try:
        demo.run()
    except (DemoError, subprocess.TimeoutExpired, OSError, ValueError) as error:
        failed = str(error)
    except KeyboardInterrupt:
        failed = "interrupted"
    left = demo.take_down()
    if left and not failed:
        failed = f"processes were left: {left}"
    if options.keep or failed:
        print(f"\nthe folder is kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        print(f"\nthe demonstration failed: {failed}", file=sys.stderr)
        return 1
    print(
        f"\nAll eight steps held, in {time.monotonic() - began:.0f} s; no process is left.\n"
        "To go on:\n"
        "  ./run up                               keeps the system running, with an agent on this machine\n"
        "  fleetlog exec -t all -- uptime         runs a program on every host\n"
        "  fleetlog host add NAME                 prints the line that joins another machine\n"
        "  fleetlog doctor                        checks everything and says what to do"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
