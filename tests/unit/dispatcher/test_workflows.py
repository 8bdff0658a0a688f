"""Workflows: parts begin in order, by how others ended, for each item, with what others returned; and they stop as one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleetlog_runtime.pure.effects import Request
from fleetlog_schemas import admission, control_events, events, ids, limits, subjects
from fleetlog_schemas.exports import Export, What
from fleetlog_schemas.graph import Binding
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.parameters import Parameter
from fleetlog_schemas.records import Task
from fleetlog_schemas.spec import Function, Origin, Part, Taken, TaskSpec, Workflow
from fleetlog_schemas.workflow_events import PartsDecided
from fleetlog_testing.dispatching import Stage, shell


def part(name: str, *after: str, **fields: Any) -> Part:
    fields.setdefault("task", shell(name))
    return Part(name=name, after=after, **fields)


def flow(*parts: Part, **fields: Any) -> TaskSpec:
    return TaskSpec(payload=Workflow(parts=parts), **fields)


class Flow:
    """A stage with one host, and a workflow on it."""

    def __init__(self, *parts: Part, hosts: tuple[str, ...] = ("web01",), **fields: Any) -> None:
        self.stage = Stage()
        self.stage.connected(*hosts)
        self.host = hosts[0]
        self.task_id = self.stage.submitted(flow(*parts, **fields))

    @property
    def task(self) -> Task:
        return self.stage.state.tasks.by_id[self.task_id]

    @property
    def submitted(self) -> list[events.Submission]:
        return [
            one for event in self.stage.log if isinstance(event.data, events.TasksSubmitted) and event.subject == events.DISPATCH
            for one in event.data.tasks
        ]

    @property
    def begun(self) -> list[str]:
        """Parts whose tasks were submitted, in the order of the log."""
        return [f"{one.part_of.part}{one.part_of.item or ''}" for one in self.submitted if one.part_of]

    def task_of(self, name: str, item: int = 0) -> str:
        return next(
            one.task_id for one in self.submitted if one.part_of and (one.part_of.part, one.part_of.item) == (name, item)
        )

    def ends(self, name: str, outcome: Outcome = Outcome.SUCCESS, item: int = 0, **fields: Any) -> None:
        self.stage.ended(self.task_of(name, item), self.host, outcome=outcome, **fields)

    def parts(self) -> dict[str, str]:
        """The outcome or state of every part, by the events alone."""
        return {name: (one.outcome or one.state).value for name, one in self.task.parts.items()}

    def reason(self, name: str) -> tuple[str, str]:
        found = [one for data in self.stage.decided(PartsDecided) for one in data.parts if one.part == name and one.reason]
        return found[-1].reason, found[-1].message

    def end(self) -> events.TaskEnd:
        return next(
            one for data in self.stage.decided(events.TasksEnded) for one in data.tasks if one.task_id == self.task_id
        )

    @property
    def is_over(self) -> bool:
        return self.task_id not in self.stage.state.tasks.by_id


def test_parts_begin_when_what_they_are_after_has_ended_well() -> None:
    run = Flow(part("build"), part("lint"), part("deploy", "build", "lint"))
    assert run.begun == ["build", "lint"]
    run.ends("build")
    assert run.begun == ["build", "lint"], "lint still runs"
    run.ends("lint")
    assert run.begun == ["build", "lint", "deploy"]
    run.ends("deploy")
    assert run.end() == events.TaskEnd(run.task_id, Outcome.SUCCESS, {Outcome.SUCCESS: 3})


def test_what_comes_after_a_failure_is_skipped_and_says_why() -> None:
    run = Flow(part("build"), part("deploy", "build"), part("check", "deploy"))
    run.ends("build", Outcome.FAILURE)
    assert run.begun == ["build"]
    assert run.end().outcome is Outcome.FAILURE
    assert run.end().counts == {Outcome.FAILURE: 1, Outcome.SKIPPED: 2}
    assert run.reason("deploy") == ("after", "it needs all to end well: build ended with failure")
    assert run.reason("check") == ("after", "it needs all to end well: deploy ended with skipped")


def test_a_failure_that_was_handled_is_no_failure_of_the_workflow() -> None:
    run = Flow(part("deploy"), part("rollback", "deploy", when="failure", handles=True), part("report", "deploy", "rollback", when="ended"))
    run.ends("deploy", Outcome.FAILURE)
    assert run.begun == ["deploy", "rollback"]
    run.ends("rollback")
    run.ends("report")
    assert run.end().outcome is Outcome.SUCCESS


def test_a_handler_that_fails_leaves_the_failure_standing_and_one_that_is_not_needed_is_skipped() -> None:
    run = Flow(part("deploy"), part("rollback", "deploy", when="failure", handles=True))
    run.ends("deploy", Outcome.TIMEOUT)
    run.ends("rollback", Outcome.FAILURE)
    assert run.end().outcome is Outcome.TIMEOUT

    run = Flow(part("deploy"), part("rollback", "deploy", when="failure", handles=True))
    run.ends("deploy")
    assert run.end() == events.TaskEnd(run.task_id, Outcome.SUCCESS, {Outcome.SUCCESS: 1, Outcome.SKIPPED: 1})


def test_a_part_that_only_tells_of_a_failure_does_not_make_the_workflow_succeed() -> None:
    run = Flow(part("deploy"), part("tell", "deploy", when="failure"))
    run.ends("deploy", Outcome.FAILURE)
    run.ends("tell")
    assert run.end().outcome is Outcome.FAILURE


def test_branches_join_where_one_of_them_went_well() -> None:
    run = Flow(
        part("try"), part("fast", "try"), part("slow", "try", when="failure"), part("join", "fast", "slow", when="any-success"),
    )
    run.ends("try", Outcome.FAILURE)
    assert run.begun == ["try", "slow"]
    run.ends("slow")
    assert run.begun == ["try", "slow", "join"]


def test_a_part_runs_for_each_item_so_many_at_once_and_gets_the_item() -> None:
    sweep = part("sweep", for_each=("a", "b", "c"), items_parallel=2, given={"name": Binding(item=True)})
    run = Flow(sweep, part("after", "sweep"))
    assert run.begun == ["sweep", "sweep1"]
    assert [one.spec.parameters for one in run.submitted] == [{"name": "a"}, {"name": "b"}]
    run.ends("sweep", item=1)
    assert run.begun == ["sweep", "sweep1", "sweep2"]
    run.ends("sweep", item=0)
    assert "after" not in run.begun
    run.ends("sweep", item=2)
    assert run.begun[-1] == "after"


def test_a_part_whose_list_is_empty_ends_well_without_a_task() -> None:
    run = Flow(part("sweep", for_each=()), part("after", "sweep"))
    assert run.begun == ["after"]
    assert run.reason("sweep")[0] == "no-items"


def test_what_a_part_returned_is_given_to_another_as_a_value() -> None:
    given = {"file": Binding(part="build", path="/files/1"), "all": Binding(part="build")}
    run = Flow(part("build"), part("deploy", "build", given=given))
    run.ends("build", return_value='{"files": ["a.txt", "b; rm -rf /"], "size": 3}')
    spec = run.submitted[-1].spec
    assert spec.parameters == {"file": "b; rm -rf /", "all": '{"files":["a.txt","b; rm -rf /"],"size":3}'}
    assert spec.payload == shell("deploy").payload, "no text is put together with a value"


def test_a_part_runs_for_each_item_that_another_returned() -> None:
    run = Flow(
        part("list"),
        part("each", "list", for_each=Binding(part="list", path="/hosts"), given={"name": Binding(item=True, path="/name")}),
        part("sum", "each", given={"all": Binding(part="each")}),
    )
    run.ends("list", return_value='{"hosts": [{"name": "x"}, {"name": "y"}]}')
    assert [one.spec.parameters for one in run.submitted[1:]] == [{"name": "x"}, {"name": "y"}]
    run.ends("each", item=1, return_value="2")
    run.ends("each", item=0, return_value="1")
    assert run.submitted[-1].spec.parameters == {"all": "[1,2]"}


def test_what_several_hosts_returned_is_given_by_host() -> None:
    run = Flow(
        part("facts"), part("all", "facts", given={"v": Binding(part="facts", by_host=True, path="/web02")}),
        part("one", "facts", given={"v": Binding(part="facts")}), hosts=("web01", "web02"),
    )
    for name, value in (("web01", "1"), ("web02", "2")):
        run.stage.ended(run.task_of("facts"), name, return_value=value)
    assert run.begun == ["facts", "all"]
    assert run.submitted[-1].spec.parameters == {"v": 2}
    assert run.reason("one") == ("value", "facts returned nothing, or ran on several hosts: then say by_host")


@pytest.mark.parametrize(
    ("returned", "binding", "message"),
    [
        (None, Binding(part="a"), "a returned nothing, or ran on several hosts: then say by_host"),
        ("[1]", Binding(part="a", path="/3"), "a has nothing at /3"),
        ('{"x": 1}', Binding(part="a", path="/x/y"), "a has nothing at /x/y"),
        ("not json", Binding(part="a"), "a returned nothing, or ran on several hosts: then say by_host"),
        (f'"{"x" * limits.WORKFLOW_VALUE_BYTES_MAX}"', Binding(part="a"), "a returned more than the 65536 bytes that are kept of a part"),
    ],
)
def test_a_value_that_is_not_there_ends_the_part_with_an_error_that_says_so(
    returned: str | None, binding: Binding, message: str
) -> None:
    run = Flow(part("a"), part("b", "a", given={"v": binding}))
    run.ends("a", return_value=returned)
    assert run.begun == ["a"]
    assert run.reason("b") == ("value", message)
    assert run.end().outcome is Outcome.ERROR


def test_a_value_is_held_to_what_the_definition_of_the_part_declares() -> None:
    task = shell("deploy", definition=Origin("d1", 3, "deploy", {"path": "/"}), key="d1")
    declared = {"version": Parameter(pattern="[0-9.]+")}
    run = Flow(part("build"), part("deploy", "build", task=task, given={"version": Binding(part="build")}, declared=declared))
    run.ends("build", return_value='"1.2"')
    origin = run.submitted[-1].spec.definition
    assert origin is not None
    assert origin.parameters == {"path": "/", "version": "1.2"}

    run = Flow(part("build"), part("deploy", "build", task=task, given={"version": Binding(part="build")}, declared=declared))
    run.ends("build", return_value='"1.2; reboot"')
    assert run.begun == ["build"]
    assert run.reason("deploy")[0] == "value"


def test_a_function_is_given_values_as_arguments_as_they_are() -> None:
    call = TaskSpec(payload=Function("thumbnail", kwargs={"size": 3}), target="all")
    run = Flow(part("find"), part("call", "find", task=call, given={"images": Binding(part="find")}, parameters={"fast": True}))
    run.ends("find", return_value='[{"name": "a; rm"}]')
    assert run.submitted[-1].spec.payload == Function("thumbnail", kwargs={"size": 3, "fast": True, "images": [{"name": "a; rm"}]})
    assert run.submitted[-1].spec.parameters == {}


def test_a_part_is_given_parameters_of_the_workflow_and_fixed_ones() -> None:
    a = part("a", given={"v": Binding(parameter="version"), "absent": Binding(parameter="note")}, parameters={"fixed": 1})
    run = Flow(a, definition=Origin("w1", 1, "release", {"version": "7"}), key="w1")
    assert run.submitted[0].spec.parameters == {"fixed": 1, "v": "7"}


def test_a_cancel_stops_what_runs_and_nothing_begins_after_it() -> None:
    run = Flow(part("a"), part("b", "a"))
    run.stage.happened(control_events.CancelRequested(task_id=run.task_id, reason="enough"))
    child = run.stage.state.tasks.by_id[run.task_of("a")]
    assert child.stop == "cancelled"
    run.ends("a")
    assert run.begun == ["a"]
    assert run.end() == events.TaskEnd(run.task_id, Outcome.CANCELLED, {Outcome.SUCCESS: 1, Outcome.CANCELLED: 1})


def test_what_was_decided_before_a_cancel_and_stands_after_it_is_void() -> None:
    run = Flow(part("a"), part("b", "a"))
    spec = shell("b")
    run.stage.happened(control_events.CancelRequested(task_id=run.task_id))
    late = run.stage.new_id()
    run.stage.happened(
        events.TasksSubmitted(tasks=(events.Submission(late, spec, part_of=events.PartOf(run.task_id, "b")),)), events.DISPATCH
    )
    assert late not in run.stage.state.tasks.by_id


def test_nobody_else_can_submit_a_task_for_a_part() -> None:
    run = Flow(part("a", for_each=("x", "y"), items_parallel=1))
    forged = run.stage.new_id()
    of = events.PartOf(run.task_id, "a", 1)
    run.stage.happened(events.TasksSubmitted(tasks=(events.Submission(forged, shell("evil"), part_of=of),)), events.REQUEST)
    assert forged not in run.stage.state.tasks.by_id


def test_a_pause_holds_the_tasks_of_the_parts_and_a_resume_lets_them_go_on() -> None:
    run = Flow(part("a"), part("b", "a"))
    run.stage.happened(control_events.PauseRequested(task_id=run.task_id, reason="lunch"))
    assert run.stage.state.tasks.by_id[run.task_of("a")].hold is not None
    run.ends("a")
    assert run.begun == ["a"], "b waits"
    run.stage.happened(control_events.ResumeRequested(task_id=run.task_id))
    assert run.begun == ["a", "b"]


def test_a_resume_leaves_a_task_paused_that_a_person_had_paused_by_itself() -> None:
    run = Flow(part("a"), part("b"))
    run.stage.happened(control_events.PauseRequested(task_id=run.task_of("a"), reason="this one"))
    run.stage.later(1_000)
    run.stage.happened(control_events.PauseRequested(task_id=run.task_id, reason="all"))
    run.stage.happened(control_events.ResumeRequested(task_id=run.task_id))
    tasks = run.stage.state.tasks.by_id
    assert tasks[run.task_of("a")].hold is not None
    assert tasks[run.task_of("b")].hold is None


def test_an_abort_lets_what_runs_go_on_and_skips_the_rest() -> None:
    run = Flow(part("a"), part("b", "a"))
    run.stage.happened(control_events.AbortRequested(task_id=run.task_id))
    run.ends("a")
    assert run.end() == events.TaskEnd(run.task_id, Outcome.SKIPPED, {Outcome.SUCCESS: 1, Outcome.SKIPPED: 1})


def test_the_time_of_a_workflow_is_over_for_all_of_its_tasks() -> None:
    run = Flow(part("a"), part("b", "a"), task_timeout_ms=5_000)
    run.stage.passes(10_000)
    assert run.stage.state.tasks.by_id[run.task_of("a")].stop == "timeout"
    run.ends("a", Outcome.TIMEOUT)
    assert run.end().counts == {Outcome.TIMEOUT: 1, Outcome.SKIPPED: 1}
    assert run.end().outcome is Outcome.TIMEOUT


def test_one_part_is_cancelled_and_others_go_on() -> None:
    run = Flow(part("a"), part("b", "a"), part("c"), part("d", "b", when="ended"))
    run.stage.happened(control_events.CancelRequested(task_id=run.task_id, parts=("b", "c")))
    assert run.stage.state.tasks.by_id[run.task_of("c")].stop == "cancelled"
    run.ends("a")
    run.ends("c", Outcome.CANCELLED)
    assert run.begun == ["a", "c", "d"]
    run.ends("d")
    assert run.end().outcome is Outcome.CANCELLED
    assert run.reason("b")[0] == "cancelled"


def test_a_task_that_is_refused_is_an_error_of_its_part() -> None:
    run = Flow(part("a", task=shell("x", target="nobody")), part("b", "a", when="failure"))
    assert run.begun == ["a", "b"]
    assert run.parts() == {"a": "error", "b": "running"}


def test_a_single_run_is_held_to_its_key_also_as_a_part() -> None:
    run = Flow(part("a", task=shell("x", key="deploy")), part("b", task=shell("y", key="deploy", single_run="refuse")))
    assert run.parts() == {"a": "running", "b": "error"}


def test_a_single_run_of_a_workflow_begins_when_the_earlier_one_has_ended() -> None:
    run = Flow(part("a"), key="release")
    second = run.stage.submitted(flow(part("a"), key="release", single_run="queue"))
    assert len(run.submitted) == 1
    run.ends("a")
    run.stage.later(1_000)
    assert [one.part_of.task_id for one in run.submitted if one.part_of] == [run.task_id, second]


def test_what_is_taken_over_is_not_run_again_and_its_value_is_there() -> None:
    parts = (part("a"), part("b", "a", given={"v": Binding(part="a")}))
    taken = {"a": Taken("0199-old", Outcome.SUCCESS, value='"from before"')}
    stage = Stage()
    stage.connected("web01")
    task_id = stage.submitted(TaskSpec(payload=Workflow(parts=parts, taken=taken)))
    task = stage.state.tasks.by_id[task_id]
    assert task.parts["a"].taken_from == "0199-old"
    assert list(task.parts["b"].tasks) == [0]
    child = stage.state.tasks.by_id[task.parts["b"].tasks[0].task_id]
    assert child.spec.parameters == {"v": "from before"}


def brings(of_part: str) -> TaskSpec:
    return TaskSpec(payload=Export(what=What.ARTIFACTS, of_part=of_part, artifact="app", to="/srv/app"), target="all")


def exported(task: Task, stage: Stage) -> tuple[str, ...]:
    """Return of which tasks the part `bring` exports."""
    payload = stage.state.tasks.by_id[task.parts["bring"].tasks[0].task_id].spec.payload
    assert isinstance(payload, Export)
    assert (payload.of_part, payload.artifact) == ("", "app")
    return payload.tasks


def test_a_part_exports_what_the_tasks_of_another_one_left() -> None:
    run = Flow(part("build", for_each=("x", "y")), part("bring", "build", task=brings("build")))
    run.ends("build", item=1)
    run.ends("build", item=0)
    assert exported(run.task, run.stage) == (run.task_of("build", 0), run.task_of("build", 1))


def test_what_was_taken_over_is_exported_from_the_run_in_which_it_was_made() -> None:
    old = Flow(part("build", for_each=("x", "y")), part("bring", "build"))
    taken = {"build": Taken(old.task_id, Outcome.SUCCESS, items=2)}
    stage = Stage()
    stage.connected("web01")
    workflow = Workflow(parts=(part("build", for_each=("x", "y")), part("bring", "build", task=brings("build"))), taken=taken)
    task = stage.state.tasks.by_id[stage.submitted(TaskSpec(payload=workflow))]
    assert exported(task, stage) == (old.task_of("build", 0), old.task_of("build", 1))
    assert ids.id_ms(old.task_of("build", 0)) == ids.id_ms(old.task_id)


@pytest.mark.parametrize(("items", "why"), [
    ((), "build ended with success and had no task: it left nothing to export"),
    ((0, 1, 2), "build had 3 tasks, and one export is of at most 2"),
])
def test_what_cannot_be_exported_ends_the_part_before_it_ran(
    monkeypatch: pytest.MonkeyPatch, items: tuple[int, ...], why: str
) -> None:
    monkeypatch.setattr(limits, "EXPORT_TASKS_MAX", 2)
    run = Flow(part("build", for_each=items), part("bring", "build", task=brings("build")))
    for item in items:
        run.ends("build", item=item)
    reason, message = run.reason("bring")
    assert (reason, why in message) == ("value", True), message
    assert run.is_over


def test_another_dispatcher_that_takes_over_goes_on_with_the_same_tasks() -> None:
    run = Flow(part("a", for_each=("x", "y", "z"), items_parallel=1), part("b", "a"))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(run.stage.state), type=type(run.stage.state))
    assert msgspec.to_builtins(state, str_keys=True) == msgspec.to_builtins(run.stage.state, str_keys=True)
    run.stage.engine.follow()
    run.stage.engine.lead(run.stage.now_ms)
    run.stage.settle()
    assert run.begun == ["a"], "it has been submitted already"
    run.ends("a")
    assert run.begun == ["a", "a1"]


def test_why_says_of_each_part_what_it_waits_for() -> None:
    run = Flow(part("a"), part("b", "a"))
    body = msgspec.json.encode(admission.WaitingQuestion(run.task_id))
    run.stage.engine.observe(Request(subjects.ask("dispatcher", "waiting"), body, "_INBOX.x"), run.stage.now_ms)
    run.stage.settle()
    groups = msgspec.convert(run.stage.answers[-1][1]["data"], list[admission.WaitingGroup])
    assert [(one.part, one.state, one.reason) for one in groups] == [("a", "running", "running"), ("b", "waiting", "after")]
    assert groups[1].message == "it comes after a, which has not ended"


def test_a_workflow_has_so_many_tasks_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKFLOW_TASKS_MAX", 2)
    run = Flow(part("a"), part("b", "a", for_each=("x", "y")))
    run.ends("a")
    assert run.reason("b") == ("value", "a workflow has at most 2 tasks: with 2 more there would be 3")


@pytest.mark.parametrize(
    ("parts", "pointer", "message"),
    [
        ((part("a", "c"), part("b", "a"), part("c", "b")), "/payload/parts/0/after", "a → b → c → a"),
        ((part("a", "a"),), "/payload/parts/0/after", "a → a"),
        ((part("a", "b"),), "/payload/parts/0/after/0", "no part has that name"),
        ((part("a"), part("a")), "/payload/parts/1/name", "two parts are named a"),
        ((part("a", given={"v": Binding(parameter="x")}),), "/payload/parts/0/given/v/parameter", "no parameter 'x'"),
        ((part("a"), part("b", given={"v": Binding(part="a")})), "/payload/parts/1/given/v/part", "does not come after"),
        ((part("a", given={"v": Binding(item=True)}),), "/payload/parts/0/given/v/item", "no for_each"),
        ((part("a", given={"v": Binding()}),), "/payload/parts/0/given/v", "name one of"),
        ((part("a", when="failure"),), "/payload/parts/0/when", "failure of what"),
        ((part("a"), part("b", "a", handles=True)), "/payload/parts/1/handles", "say when = failure"),
        ((part("a", task=None),), "/payload/parts/0/task", "nothing says what a runs"),
        ((part("a", task=None, definition="x"),), "/payload/parts/0/task", "nobody has put"),
        ((part("a", task=flow(part("b"))),), "/payload/parts/0/task/payload", "no workflow itself"),
        ((part("A b"),), "/payload/parts/0/name", "1-63 of a-z"),
    ],
)
def test_what_is_no_workflow_is_refused_and_the_place_is_named(parts: tuple[Part, ...], pointer: str, message: str) -> None:
    stage = Stage()
    stage.connected("web01")
    stage.submitted(flow(*parts))
    (refusal,) = stage.decided(events.TasksRefused)[0].refusals
    assert refusal.pointer == pointer
    assert message in refusal.message


def test_a_workflow_runs_on_no_host_itself() -> None:
    stage = Stage()
    stage.submitted(flow(part("a"), target="all"))
    assert stage.decided(events.TasksRefused)[0].refusals[0].pointer == "/target"
