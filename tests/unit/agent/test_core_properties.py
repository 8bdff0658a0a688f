"""Whatever the order of pushes, exits and crashes: nothing runs twice, and no command in two attempts at once."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleetlog_agent import messages as m
from fleetlog_agent.journal_records import Key, replay
from fleetlog_schemas import pushes
from fleetlog_schemas.outcomes import Ran
from fleetlog_testing.agent_rig import TASK, Rig, ends, start_of

TASKS = [TASK, TASK[:-1] + "2"]
keys = st.builds(Key, st.sampled_from(TASKS), st.integers(1, 3))


class Host(RuleBasedStateMachine):
    """A host whose disk, holder and bus are slow and fail; its dispatcher is honest but repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.rig.auto = False
        self.asked = ""
        self.copies: list[bytes] = []
        self.to_spawn: list[Key] = []
        self.never: set[Key] = set()
        self.absent: set[Key] = set()
        """What the last request for a session did not hold and nobody has sent since: taken as never run."""
        self.dispatched: dict[str, int] = {}
        self.connected = False
        self.connection_changes()
        self.dispatcher_grants()
        self.disk()

    def _step(self) -> None:
        for effect in self.rig.core.step(self.rig.now_ms):
            match effect:
                case m.WriteJournal(commit=commit):
                    assert self.rig.unwritten is None, "one commit at a time"
                    self.rig.unwritten = commit
                case m.Spawn(key=key):
                    assert key in replay(self.rig.disk).entries, "nothing starts before it is journaled"
                    self.to_spawn.append(key)
                case m.Adopt(key=key):
                    self.rig.adopt(key)
                case m.AskSession(request=request):
                    self.asked = request.nonce
                    held = {Key(one.task_id, one.attempt) for one in request.held}
                    self.absent = {Key(task, number) for task in TASKS for number in (1, 2, 3)} - held
                case m.SendReport():
                    self.never |= {Key(e.task_id, e.attempt) for e in ends([effect]) if e.ran is Ran.NO}
                case _:
                    pass

    @rule()
    def connection_changes(self) -> None:
        self.connected = not self.connected
        self.rig.core.observe(m.Connected(connected=self.connected), self.rig.now_ms)
        self._step()

    @precondition(lambda self: self.asked)
    @rule()
    def dispatcher_grants(self) -> None:
        self.rig.grant(self.asked)
        self._step()
        self.disk()

    def _deliver(self, kind: type, attempt: object) -> None:
        self.copies.append(self.rig.push(kind, [attempt]))
        self.rig.core.observe(m.Push(self.copies[-1]), self.rig.now_ms)
        self._step()

    @rule(task=st.sampled_from(TASKS), further=st.booleans())
    def dispatcher_starts(self, task: str, further: bool) -> None:
        """The newest attempt again, or one more (as after a decision that the last one is lost)."""
        number = min(self.dispatched.get(task, 0) + further, 3) or 1
        key, entries = Key(task, number), self.rig.core.state.entries
        settled = key in self.rig.executed or key in self.never or key in self.absent
        if key not in entries and settled and number <= self.dispatched.get(task, 0):
            return  # its end is known or decided: an honest dispatcher does not send it again
        self.dispatched[task] = number
        self.absent.discard(key)
        self._deliver(pushes.StartPush, start_of(task, number))

    @rule(key=keys)
    def dispatcher_cancels(self, key: Key) -> None:
        if key.attempt <= self.dispatched.get(key.task_id, 0):
            named = pushes.NamedAttempt(*key, token="t", token_key_id="k", reason="cancelled")
            self._deliver(pushes.CancelPush, named)

    @rule(key=keys)
    def dispatcher_says_forget(self, key: Key) -> None:
        self._deliver(pushes.ForgetPush, pushes.NamedAttempt(*key))

    @rule(data=st.data())
    def an_old_copy_arrives(self, data: st.DataObject) -> None:
        if self.copies:
            self.rig.core.observe(m.Push(data.draw(st.sampled_from(self.copies))), self.rig.now_ms)
            self._step()

    @rule()
    def disk(self) -> None:
        self.rig.write()
        self._step()

    @rule()
    def holder_starts_something(self) -> None:
        self.disk()
        if self.to_spawn:
            key = self.to_spawn.pop(0)
            self._check_start(key)
            self.rig.spawn(key)
            self._step()

    def _check_start(self, key: Key) -> None:
        running = [other for other, state in self.rig.processes.items() if state == "running"]
        assert all(other.task_id != key.task_id for other in running), "two attempts of a command at once"
        assert key not in self.never, "what was reported as never started starts"
        assert key not in self.rig.processes, "started twice"
        assert key not in self.absent, "what a request for a session did not hold starts"

    @rule(key=keys)
    def process_ends(self, key: Key) -> None:
        if self.rig.processes.get(key) == "running":
            self.rig.exit(key)
            self._step()

    @rule(written=st.booleans(), started=st.booleans())
    def agent_is_killed(self, written: bool, started: bool) -> None:
        if started and self.to_spawn:
            self._check_start(self.to_spawn[0])
            self.rig.spawn(self.to_spawn[0])
        self.to_spawn.clear()
        self.rig.crash(written=written)
        self.asked, self.connected = "", False
        self._step()

    @rule(ms=st.sampled_from([50, 300, 3_000, 12_000, 40_000]))
    def time_passes(self, ms: int) -> None:
        self.rig.now_ms += ms
        self._step()

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert all(count == 1 for count in self.rig.executed.values())

    @invariant()
    def a_running_process_is_held(self) -> None:
        for key, state in self.rig.processes.items():
            if state == "running":
                assert key in self.rig.core.state.entries, "a running attempt was forgotten"


Host.TestCase.settings = settings(
    max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestHost = Host.TestCase
