"""The hosts in the simulated world: the real agent core on machines with a disk, processes and a boot clock.

The shell's part is played strictly: every `Spawn` that is performed starts a process, also a second one of the same
attempt, so that what must not happen is seen when it happens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from fleetlog_agent import messages as m
from fleetlog_agent.core import Core
from fleetlog_agent.journal_records import Commit, Key, compacted, replay
from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.pure.settings import AgentSettings
from fleetlog_schemas import subjects, wire
from fleetlog_schemas.reports import Load
from fleetlog_simulation.world import Execution, Subscription, World

COMMITS_MAX = 500
"""Commits in a journal until it is compacted: minutes never come to it, a year does again and again."""


@dataclass(frozen=True)
class Course:
    """What becomes of a process that is left alone, and whether it heeds who wants it to end."""

    lasts_ms: int
    exit_code: int = 0
    stubborn: bool = False
    """It goes on after SIGTERM; only SIGKILL ends it."""

    @staticmethod
    def by_chance(chance: random.Random, timeout_ms: int) -> Course:
        """Return any course: short or beyond its time, good or bad."""
        return Course(
            stubborn=chance.random() < 0.2, exit_code=chance.choice((0, 0, 0, 1)),
            lasts_ms=chance.choice((5, 300, 5_000, 40_000, timeout_ms * 2)),
        )


Courses = dict[str, tuple[Course, ...]]
"""By task id: the course of each attempt in turn, the last one also of all later ones."""


@dataclass
class Process:
    """One process of an attempt."""

    execution: Execution
    pid: int
    course: Course
    exited: m.Exited | None = None


@dataclass
class Machine:
    """What survives the agent: a disk, a clock, processes and their exit statuses."""

    name: str
    host_id: str
    boot_id: str
    boot_ms: int
    disk: list[Commit] = field(default_factory=list)
    processes: dict[Key, list[Process]] = field(default_factory=dict)
    holder_sure: bool = True
    """The holder has lived since the boot, so it can say what was never started."""
    stale: bool = False
    """A copy or a restored state that the log has moved beyond: it must run nothing."""


def _load(load_1m: float) -> Load:
    return Load(cpu_ratio=0.1, memory_ratio=0.1, disk_ratio=0.1, load_1m=load_1m)


class SimHost:
    """An agent on a machine."""

    def __init__(
        self, world: World, machine: Machine, pinned: dict[str, str], settings: AgentSettings | None = None,
        courses: Courses | None = None,
    ) -> None:
        """Make it; `start` brings the agent to life. Processes of tasks that are not in *courses* go by chance."""
        self.world, self.machine, self.pinned = world, machine, pinned
        self.courses = {} if courses is None else courses
        self.settings = settings or AgentSettings()
        self.alive = False
        self.destroyed = False
        """Taken away for good: what is still on its way to start it does nothing."""
        self.connected = False
        self.life = 0
        self.load = _load(0.1)
        self.alarms: list[str] = []
        self.version = "1.0"
        self.core = self._new_core()
        self._subscriptions: list[Subscription] = []
        self._woken_for = 0
        self._next_pid = 100

    @property
    def boot_clock_ms(self) -> int:
        """The machine's own clock."""
        return self.world.now_ms - self.machine.boot_ms

    def _new_core(self) -> Core:
        return Core(
            self.machine.host_id, self.machine.boot_id, self.version, self.world.entropy, self.pinned, self.settings,
            state=replay(self.machine.disk),
        )

    # --- life ---

    def start(self) -> None:
        """Start the agent from its journal."""
        if self.alive or self.destroyed:
            return
        self.alive = True
        self.life += 1
        self._woken_for = 0
        self.core = self._new_core()
        self._observe(m.LoadMeasured(self.load))
        self.connect()

    def kill(self) -> None:
        """Kill the agent: its processes go on under the holder."""
        self.alive = False
        self.disconnect()

    def stop(self) -> None:
        """Ask the agent to end, as SIGTERM does."""
        if self.alive:
            self._observe(m.Stop())

    def reboot(self) -> None:
        """Restart the machine: processes are gone, the disk is not."""
        self.kill()
        machine = self.machine
        for processes in machine.processes.values():
            for process in processes:
                if process.execution.ended_ms is None:
                    process.execution.ended_ms = self.world.now_ms
        machine.processes = {}
        machine.holder_sure = False
        machine.boot_id = self.world.new_id()
        machine.boot_ms = self.world.now_ms

    def connect(self) -> None:
        """Reach the bus."""
        if not self.alive or self.connected or self.world.bus_down:
            return
        self.connected = True
        host_id = self.machine.host_id
        self._subscriptions = [
            self.world.subscribe(subjects.push(host_id), lambda _s, body, _r: self._observe(m.Push(body))),
            self.world.subscribe(
                f"_INBOX_{host_id}.{self.machine.name}.>", lambda _s, body, _r: self._observe(m.SessionAnswered(body))
            ),
        ]
        self._observe(m.Connected(True))

    def disconnect(self) -> None:
        """Lose the bus."""
        for subscription in self._subscriptions:
            subscription.active = False
        self._subscriptions = []
        if self.connected:
            self.connected = False
            if self.alive:
                self._observe(m.Connected(False))

    def be_busy(self, load_1m: float) -> None:
        """Let the machine have this load from now on."""
        self.load = _load(load_1m)
        self._observe(m.LoadMeasured(self.load))

    # --- driving the core ---

    def _observe(self, observation: m.Observation) -> None:
        if self.alive:
            self.core.observe(observation, self.boot_clock_ms)
            self._step()

    def _step(self) -> None:
        life = self.life
        for effect in self.core.step(self.boot_clock_ms):
            if not self.alive or life != self.life:
                return
            if self.world.chance(self.world.faults.kill_at_effect):
                self.kill()
                self.world.after(self.world.random.randint(50, 15_000), self.start)
                return
            self._perform(effect, life)

    def _alive_in(self, life: int) -> bool:
        return self.alive and life == self.life

    def _perform(self, effect: m.Effect, life: int) -> None:
        match effect:
            case m.WriteJournal(commit=commit):
                self.world.after(self.world.random.randint(1, 8), lambda: self._write(commit, life))
            case m.Spawn(key=key, start=start):
                self.world.after(self.world.random.randint(0, 5), lambda: self._spawn(key, start.timeout_ms, life))
            case m.Adopt(key=key):
                self.world.after(self.world.random.randint(0, 5), lambda: self._adopt(key, life))
            case m.Terminate(key=key):
                self._signal(key, kill=False)
            case m.Kill(key=key):
                self._signal(key, kill=True)
            case m.SendReport(report=report, body=body):
                draft = Draft(subject=subjects.report(self.machine.host_id), body=body)
                batch = Batch(drafts=(draft,), message_id=report.report_id)
                if self.connected:
                    self.world.append(batch, lambda answer: self._stored(report.report_id, answer, life))
            case m.SendHeartbeat(heartbeat=heartbeat):
                if self.connected:
                    self.world.publish(subjects.heartbeat(self.machine.host_id), wire.encode(heartbeat))
            case m.AskSession(request=request):
                reply = f"_INBOX_{self.machine.host_id}.{self.machine.name}.{request.nonce}"
                self.world.publish(subjects.session(self.machine.host_id), wire.encode(request), reply)
            case m.WakeAt(at_ms=at_ms):
                self._wake_at(at_ms, life)
            case m.Alarm(text=text):
                self.alarms.append(text)
            case m.Stopped():
                self.kill()

    def _wake_at(self, at_ms: int, life: int) -> None:
        at_ms += self.machine.boot_ms
        if self.core.session.is_open and not self.core.state.entries:
            at_ms = max(at_ms, self.world.now_ms + self.world.pace.idle_ms)
        if not self.world.now_ms < self._woken_for <= at_ms:
            self._woken_for = at_ms
            self.world.after(at_ms - self.world.now_ms, lambda: self._wake(life, at_ms))

    def _wake(self, life: int, at_ms: int) -> None:
        if self._alive_in(life) and self._woken_for == at_ms:
            self._woken_for = 0
            self._step()

    def _write(self, commit: Commit, life: int) -> None:
        if self._alive_in(life):
            self.machine.disk.append(commit)
            self.core.journal_written()
            if len(self.machine.disk) > COMMITS_MAX:
                self.machine.disk = [compacted(self.core.state)]
            self._step()

    def _stored(self, report_id: str, answer: int | Exception, life: int) -> None:
        if self._alive_in(life) and isinstance(answer, int):
            self._observe(m.ReportStored(report_id))

    # --- processes ---

    def _spawn(self, key: Key, timeout_ms: int, life: int) -> None:
        if not self._alive_in(life):
            return
        self._next_pid += 1
        execution = Execution(
            host_id=self.machine.host_id, machine=self.machine.name, task_id=key.task_id, attempt=key.attempt,
            started_ms=self.world.now_ms,
        )
        self.world.executions.append(execution)
        course = self._course(key, timeout_ms)
        process = Process(execution, self._next_pid, course)
        self.machine.processes.setdefault(key, []).append(process)
        self.world.after(course.lasts_ms, lambda: self._exit(key, process, course.exit_code, None))
        self._observe(m.Spawned(key, process.pid, self.boot_clock_ms))

    def _course(self, key: Key, timeout_ms: int) -> Course:
        chosen = self.courses.get(key.task_id)
        if not chosen:
            return Course.by_chance(self.world.random, timeout_ms)
        return chosen[min(key.attempt, len(chosen)) - 1]

    def _adopt(self, key: Key, life: int) -> None:
        if not self._alive_in(life):
            return
        processes = self.machine.processes.get(key)
        if not processes:
            sure = self.machine.holder_sure and not self.machine.stale
            self._observe(m.NeverSpawned(key) if sure else m.LostProcess(key))
        elif processes[-1].exited is not None:
            self._observe(processes[-1].exited)
        else:
            # As the holder does, which noted the start by the boot clock: its deadline does not begin anew.
            started_ms = processes[-1].execution.started_ms - self.machine.boot_ms
            self._observe(m.Spawned(key, processes[-1].pid, process_start=processes[-1].pid, started_ms=started_ms))

    def _signal(self, key: Key, *, kill: bool) -> None:
        for process in self.machine.processes.get(key, ()):
            if process.exited is None and (kill or not process.course.stubborn):
                self.world.after(20, lambda process=process: self._exit(key, process, None, 9 if kill else 15))  # type: ignore[misc]

    def _exit(self, key: Key, process: Process, exit_code: int | None, signal: int | None) -> None:
        if process.exited is not None or process.execution.ended_ms is not None:
            return
        now_ms = self.world.now_ms
        process.execution.ended_ms = now_ms
        process.exited = m.Exited(
            key, exit_code=exit_code, signal=signal, duration_ms=now_ms - process.execution.started_ms,
            tail="the last line\n",
        )
        self._observe(process.exited)
