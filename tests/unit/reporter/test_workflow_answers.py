"""A workflow is shown as the lifecycle has it: while it runs, from the tables, and as it was at any moment before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from fleetlog.follow import Fold, StoredRaw
from fleetlog_schemas import codec, control_events, events, lifecycle, records, view
from fleetlog_schemas.graph import Binding
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Part, Shell, TaskSpec, Workflow
from fleetlog_schemas.workflow_events import PartDecision, PartsDecided
from fleetlog_testing.reporter_rig import LogBus, Running, reporter

TASK = TaskSpec(payload=Shell(argv=("true",)), target="web*")
FLOW = TaskSpec(
    name="release",
    payload=Workflow(
        (
            Part("build", TASK), Part("each", TASK, after=("build",), for_each=("x", "y"), given={"v": Binding(part="build")}),
            Part("never", TASK, after=("each",), when="failure"),
        )
    ),
)


def child(bus: LogBus, flow: str, part: str, item: int = 0, *, value: str | None = None, refused: bool = False) -> str:
    task_id, of = bus.make_id(), events.PartOf(flow, part, item)
    submission = events.Submission(task_id, TASK, part_of=of, submitted_by="ada")
    bus.add(events.TasksSubmitted((submission,)), subject=events.DISPATCH, authid=None)
    if refused:
        bus.add(events.TasksRefused((events.Refusal(task_id, "target-unknown", "no such host", part_of=of),)))
        return task_id
    bus.add(events.TasksPlanned((events.Plan(task_id, (events.PlannedHost("h-web01", "web01"),), "hash"),)))
    bus.dispatched(task_id, "web01")
    bus.now_ms += 1000
    bus.ended(task_id, "web01", return_value=value)
    bus.add(events.TasksEnded((lifecycle.task_end(bus.tasks.by_id[task_id], bus.tasks.by_id[flow]),)))
    return task_id


def story_of(bus: LogBus) -> tuple[str, list[str]]:
    flow = bus.make_id()
    bus.add(events.TasksSubmitted((events.Submission(flow, FLOW),)))
    bus.add(events.TasksPlanned((events.Plan(flow, (), "hash"),)))
    bus.add(PartsDecided((PartDecision(flow, "build", "begun"),)))
    children = [child(bus, flow, "build", value='{"a": 1}')]
    bus.add(control_events.PauseRequested(flow, "wait"), control_events.ResumeRequested(flow))
    bus.add(PartsDecided((PartDecision(flow, "each", "begun", items=2),)))
    children += [child(bus, flow, "each", 0), child(bus, flow, "each", 1, refused=True)]
    bus.add(PartsDecided((PartDecision(flow, "never", "ended", outcome=Outcome.SKIPPED, reason="after", message="no"),)))
    bus.add(events.TasksEnded((lifecycle.task_end(bus.tasks.by_id[flow]),)))
    return flow, children


def shown_at(bus: LogBus, flow: str) -> list[Any]:
    """Return how the workflow is shown after each event, by folding everything."""
    tasks, found = records.Tasks(), []
    for stored in bus.store.read("EVENTS", 1, 1_000):
        event = codec.decode(stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms)
        lifecycle.apply(tasks, event)
        task = tasks.by_id.get(flow)
        found.append(msgspec.json.decode(msgspec.json.encode(view.task_view(task))) if task else None)
    return found


def run(tmp_path: Path, bus: LogBus, story: Any) -> None:
    async def scenario() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(scenario())


def test_a_workflow_is_shown_as_it_is_and_as_it_was_at_every_moment(tmp_path: Path) -> None:
    bus = LogBus()
    flow, _ = story_of(bus)
    expected = shown_at(bus, flow)
    assert expected[-1]["parts"][0]["value"] == '{"a": 1}'
    assert (expected[-1]["outcome"], expected[-1]["counts"]) == ("error", {"error": 1, "skipped": 1, "success": 1})

    async def story(running: Running) -> None:
        assert await running.data("task", task_id=flow) == expected[-1]
        for seq, shown in enumerate(expected, 1):
            assert await running.data("task", task_id=flow, as_of_seq=seq) == shown, seq
        assert (await running.data("progress", task_id=flow))["ended"] == 3

    run(tmp_path, bus, story)


def test_who_follows_the_events_of_a_workflow_sees_the_same_and_so_does_who_follows_one_of_its_tasks() -> None:
    bus = LogBus()
    flow, children = story_of(bus)
    for followed in (flow, children[1]):
        fold, tasks = Fold(followed), records.Tasks()
        for stored in bus.store.read("EVENTS", 1, 1_000):
            event = codec.decode(stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms)
            lifecycle.apply(tasks, event)
            if followed in stored.body.decode():
                raw = StoredRaw(stored.seq, stored.subject, codec.rfc3339(stored.time_ms), msgspec.Raw(stored.body))
                fold.feed(raw)
        assert fold.task is not None
        assert view.task_view(fold.task) == view.task_view(tasks.by_id[followed])


def test_lists_leave_out_the_tasks_of_parts_or_show_those_of_one_workflow_and_last_is_the_workflow(tmp_path: Path) -> None:
    bus = LogBus()
    flow, children = story_of(bus)

    async def story(running: Running) -> None:
        hidden = (await running.data("tasks", parts="hide"))["items"]
        assert [(one["task_id"], one["kind"], one["summary"]) for one in hidden] == [(flow, "workflow", "build, each, never")]
        of_it = (await running.data("tasks", part_of=flow))["items"]
        assert [(one["task_id"], one["part"]) for one in of_it] == list(zip(children[::-1], ["each", "each", "build"], strict=True))
        assert len((await running.data("tasks"))["items"]) == 4
        assert (await running.data("task", task_id="last"))["task_id"] == flow

    run(tmp_path, bus, story)
