"""Whatever the order of pushes, exits and crashes: nothing runs twice, and no command in two attempts at once."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleetlog_agent import messages as m
from fleetlog_agent.journal_records import Key
from fleetlog_schemas import pushes
from fleetlog_schemas.outcomes import Ran
from fleetlog_testing.agent_rig import TASK, Rig, ends, start_of

TASKS = [TASK, TASK[:-1] + "2"]
keys = st.builds(Key, st.sampled_from(TASKS), st.integers(1, 3))


class Host(RuleBasedStateMachine):
    """A host whose disk, holder, bus and dispatcher act in any order; the dispatcher says anything at all."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.rig.auto = False
        self.asked = ""
        self.copies: list[bytes] = []
        self.to_spawn: list[Key] = []
        self.never: set[Key] = set()
        self.connected = False

    def _step(self) -> None:
        for effect in self.rig.core.step(self.rig.now_ms):
            match effect:
                case m.WriteJournal(commit=commit):
                    assert self.rig.unwritten is None, "one commit at a time"
                    self.rig.unwritten = commit
                case m.Spawn(key=key):
                    on_disk = {record.key for commit in self.rig.disk for record in commit.records if hasattr(record, "key")}
                    assert key in on_disk, "nothing starts before it is journaled"
                    self.to_spawn.append(key)
                case m.Adopt(key=key):
                    self.rig.adopt(key)
                case m.AskSession(request=request):
                    self.asked = request.nonce
                case m.SendReport():
                    self.never |= {Key(e.task_id, e.attempt) for e in ends([effect]) if e.ran is Ran.NO}
                case _:
                    pass

    @rule()
    def connect(self) -> None:
        self.connected = not self.connected
        self.rig.core.observe(m.Connected(connected=self.connected), self.rig.now_ms)
        self._step()

    @precondition(lambda self: self.asked)
    @rule()
    def grant(self) -> None:
        self.rig.grant(self.asked)
        self._step()

    @rule(key=keys, what=st.sampled_from(["start", "start", "start", "cancel", "forget"]), back=st.integers(0, 2))
    def push(self, key: Key, what: str, back: int) -> None:
        named = pushes.NamedAttempt(task_id=key.task_id, attempt=key.attempt, token="t", token_key_id="k", reason="cancelled")
        entry = self.rig.core.state.entries.get(key)
        if what == "start":
            if key in self.rig.executed and key not in self.rig.core.state.entries:
                return  # an honest dispatcher starts nothing whose end it has had forgotten
            if key in self.never and key not in self.rig.core.state.entries:
                return
            body = self.rig.push(pushes.StartPush, [start_of(key.task_id, key.attempt)])
        elif what == "cancel":
            body = self.rig.push(pushes.CancelPush, [named])
        elif entry is None or entry.end is not None or self.rig.random.random() < 0.5:
            body = self.rig.push(pushes.ForgetPush, [named])
        else:
            return
        self.copies.append(body)
        self.rig.core.observe(m.Push(self.copies[-1 - min(back, len(self.copies) - 1)]), self.rig.now_ms)
        self._step()

    @rule(data=st.data())
    def deliver_an_old_copy(self, data: st.DataObject) -> None:
        if self.copies:
            self.rig.core.observe(m.Push(data.draw(st.sampled_from(self.copies))), self.rig.now_ms)
            self._step()

    @rule()
    def disk(self) -> None:
        self.rig.write()
        self._step()

    @rule()
    def holder_starts_something(self) -> None:
        if self.to_spawn:
            key = self.to_spawn.pop(0)
            running = [other for other, state in self.rig.processes.items() if state == "running" and other != key]
            assert all(other.task_id != key.task_id for other in running), "two attempts of a command at once"
            assert key not in self.never, "what was reported as never started must not start"
            assert key not in self.rig.processes, "asked to start twice"
            self.rig.spawn(key)
            self._step()

    @rule(key=keys)
    def process_ends(self, key: Key) -> None:
        if self.rig.processes.get(key) == "running":
            self.rig.exit(key)
            self._step()

    @rule(written=st.booleans(), holder_has_it=st.booleans())
    def agent_is_killed(self, written: bool, holder_has_it: bool) -> None:
        if holder_has_it and self.to_spawn:
            self.rig.spawn(self.to_spawn[0])
        self.to_spawn.clear()
        self.rig.crash(written=written)
        self.asked, self.connected = "", False
        self._step()

    @rule(ms=st.sampled_from([50, 300, 3_000, 40_000]))
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
                assert key in self.rig.core.state.entries


Host.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestHost = Host.TestCase
