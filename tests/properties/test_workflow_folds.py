"""Any order of any events about a workflow, sensible or not, leaves it in a state that keeps its own rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas import control_events, events, ids, lifecycle, records
from fleetlog_schemas.codec import Event, decode, encode
from fleetlog_schemas.graph import Binding
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import CommandState, TaskState
from fleetlog_schemas.spec import Part, Shell, Taken, TaskSpec, Workflow
from fleetlog_schemas.view import task_view
from fleetlog_schemas.workflow_events import PartDecision, PartsDecided
from fleetlog_testing.history import START_MS

FLOW, *CHILDREN = (ids.new_id(START_MS, bytes([number] * 10)) for number in range(5))
RUN = TaskSpec(payload=Shell(argv=("true",)), target="all")
PARTS = (
    Part("a", RUN), Part("b", RUN, after=("a",), when="failure", handles=True, given={"v": Binding(part="a")}),
    Part("c", RUN, after=("a", "b"), for_each=("x", "y"), items_parallel=1),
)
SPEC = TaskSpec(payload=Workflow(PARTS, taken={"a": Taken("old", Outcome.SUCCESS, "1")}))

names = st.sampled_from(["a", "b", "c", "nobody"])
task_ids = st.sampled_from([FLOW, *CHILDREN])
outcomes = st.sampled_from(list(Outcome))
of = st.none() | st.builds(events.PartOf, st.just(FLOW), names, st.integers(-1, 2))
anything = st.one_of(
    st.sampled_from([SPEC, TaskSpec(payload=Workflow(PARTS))]).map(lambda spec: events.TasksSubmitted((events.Submission(FLOW, spec),))),
    task_ids.map(lambda task_id: events.TasksPlanned((events.Plan(task_id, (), "x"),))),
    st.builds(
        PartDecision, st.just(FLOW), names, st.sampled_from(["begun", "ended"]), items=st.integers(1, 3), outcome=st.none() | outcomes
    ).map(lambda one: PartsDecided((one,))),
    st.builds(events.Submission, st.sampled_from(CHILDREN), st.just(RUN), part_of=of).map(lambda one: events.TasksSubmitted((one,))),
    st.builds(events.TaskEnd, task_ids, outcomes, st.just({}), of, st.none() | st.just("[1]")).map(lambda end: events.TasksEnded((end,))),
    st.builds(events.Refusal, task_ids, st.just("c"), st.just("m"), part_of=of).map(lambda one: events.TasksRefused((one,))),
    st.builds(control_events.CancelRequested, task_ids, parts=st.lists(names, max_size=2).map(tuple)),
    st.builds(control_events.PauseRequested, task_ids), st.builds(control_events.ResumeRequested, task_ids), st.builds(control_events.AbortRequested, task_ids),
)


@given(st.lists(anything, max_size=40))
def test_whatever_comes_a_workflow_keeps_its_rules(history: list[events.Data]) -> None:
    tasks = records.Tasks()
    for seq, data in enumerate(history, 1):
        event = Event(id=f"e{seq}", source="/t", data=data, time_ms=START_MS + seq, seq=seq)
        stored = decode(encode(event), seq=seq, subject=events.DISPATCH, time_ms=START_MS + seq)
        lifecycle.apply(tasks, stored)
        task = tasks.by_id.get(FLOW)
        if task is None or not task.parts:
            continue
        ended = [one for one in task.parts.values() if one.state is CommandState.ENDED]
        assert task.open == len(task.parts) - len(ended)
        assert sum(task.counts.values()) == len(task.parts)
        assert all(one.outcome is not None for one in ended)
        assert task.state is not TaskState.ENDED or not task.open
        for record in task.parts.values():
            assert len(record.tasks) <= record.items
            assert all(tasks.by_id[one.task_id].part_of is not None for one in record.tasks.values())
        assert task_view(task).counts == dict(sorted(task.counts.items()))
        if not task.open:
            lifecycle.task_end(task)
