"""Workflows on the command line: files are checked before anything is sent, and shown part by part."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from fleetlog.render.text import Style
from fleetlog.render.workflow import PartLines, parts_table
from fleetlog.verbs.output import Parts
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import CommandState, PartRecord, PartTask, Task
from fleetlog_schemas.spec import Part, Shell, TaskSpec, Workflow
from fleetlog_schemas.view import part_views

if TYPE_CHECKING:
    from fleetlog.console import Console

PLAIN = Style(colour=False, unicode=True)
RUN = TaskSpec(payload=Shell(argv=("true",)), target="all")


def flow(*records: PartRecord) -> Task:
    parts = tuple(Part(one.name, RUN) for one in records)
    task = Task("0199", TaskSpec(payload=Workflow(parts)), "ada", 1, 1)
    task.parts = {one.name: one for one in records}
    return task


FILE = """
name = "release"
kind = "workflow"

[parts.build]
argv = ["make"]
target = "ci"

[parts.put]
definition = "deploy"
after = ["build"]
when = "ended"
"""


def test_a_file_is_checked_and_the_order_is_printed_without_a_gateway(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "release.toml").write_text(FILE)
    ended = cli("workflow", "check", str(tmp_path / "release.toml"))
    assert ended.code == 0
    assert [line.split() for line in ended.out.splitlines()[1:]] == [
        ["1", "build", "-", "make"], ["2", "put", "build", "(anyhow)", "the", "definition", "deploy"],
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('target = "ci"', 'target = "ci"\nafter = ["put"]', "the parts wait for each other: build → put → build"),
        ('after = ["build"]', 'after = ["bild"]', "parts.put.after.0: put is after bild, and no part has that name"),
        ('when = "ended"', 'when = "finished"', "'finished'"),
        ('when = "ended"', 'when = "ended"\nargv = ["x"]', "parts.put: runs a definition, and so has no argv of its own"),
        ('when = "ended"', 'given = { v = { parameter = "x" } }', "the workflow has no parameter 'x'"),
        ('argv = ["make"]', "", "argv is missing - at `parts.build`"),
        ('argv = ["make"]', 'argv = ["make"]\ntimeout_seconds = 0', "parts.build.timeout_ms: must be between"),
        ("[parts.build]", "[parts]\nx = 1\n[parts.build]", "parts: are tables"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(cli: Any, tmp_path: Path, old: str, new: str, says: str) -> None:
    (tmp_path / "release.toml").write_text(FILE.replace(old, new))
    ended = cli("workflow", "check", str(tmp_path / "release.toml"))
    assert ended.code == 2
    assert says in ended.err


def test_a_file_that_is_no_workflow_is_told_so(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('name = "x"\nargv = ["true"]\n')
    assert "is no workflow: it has no [parts.NAME]" in cli("workflow", "check", str(tmp_path / "x.toml")).err


def test_parts_stand_in_a_table_with_where_each_is() -> None:
    task = flow(
        PartRecord("a", CommandState.ENDED, Outcome.SUCCESS, 1, {0: PartTask("0199-aaaaaaaa", Outcome.SUCCESS)}, 1_000, 3_000),
        PartRecord("b", CommandState.ENDED, Outcome.ERROR, 1, {0: PartTask("0199-bbbbbbbb", Outcome.ERROR, refusal="no host")}, 1, 2),
        PartRecord("c", CommandState.RUNNING, items=5, tasks={0: PartTask("0199-cccccccc"), 1: PartTask("0199-dddddddd", Outcome.SUCCESS)}),
        PartRecord("d"),
    )
    lines = parts_table(part_views(task), PLAIN).splitlines()
    assert [line.split()[0] for line in lines] == ["PART", "a", "b", "c", "d"]
    assert lines[1].split()[4:6] == ["2.0s", "aaaaaaaa"]
    assert "refused: no host" in lines[2]
    assert "1/5: cccccccc dddddddd …" in lines[3]
    assert "waiting" in lines[4]


def test_who_follows_hears_once_that_a_part_began_and_how_it_ended() -> None:
    record = PartRecord("a", CommandState.RUNNING, items=3)
    said, task = PartLines(PLAIN), flow(record, PartRecord("b"))
    assert said.of(task) == ["▶ a begins: 3 tasks"]
    assert said.of(task) == []
    record.state, record.outcome, record.message = CommandState.ENDED, Outcome.SKIPPED, "it was not needed"
    assert said.of(task) == ["⊘ a  skipped  it was not needed"]


class Server:
    """Answers with a workflow and its tasks, as they are now."""

    def __init__(self, **tasks: Any) -> None:
        self.tasks, self.ended = tasks, False

    def get(self, path: str) -> Any:
        name = path.rpartition("/")[2]
        if name != "flow":
            return {"data": self.tasks[name]}
        parts = [{"name": name, "items": 1, "tasks": [{"task_id": name, "item": 0}]} for name in self.tasks]
        return {"data": {"parts": parts, "ended_at": "now" if self.ended else None}}


def task_on(*hosts: str, ended: bool = False) -> dict[str, Any]:
    commands = [{"host_id": f"h{host}", "host": host, "attempts": [{}], "outcome": None} for host in hosts]
    return {"commands": commands, "ended_at": "now" if ended else None}


def test_who_follows_a_workflow_hears_every_command_once_as_it_begins_and_as_many_as_there_is_room_for() -> None:
    server = Server(build=task_on("ci01"))
    console = SimpleNamespace(gateway=server, options=SimpleNamespace(host=[], failed=False), out_style=PLAIN)
    parts = Parts(cast("Console", console), "flow")
    found, more = parts.look(20)
    assert ([(one.task_id, one.host_id, one.prefix) for one in found], more) == ([("build", "hci01", "build ci01: ")], True)
    assert parts.look(20) == ([], True), "it was told of it"

    server.tasks = {"build": task_on("ci01", ended=True), "deploy": task_on("web01", "web02", "web03", ended=True)}
    server.ended = True
    found, more = parts.look(2)
    assert ([one.host_id for one in found], more) == (["hweb01", "hweb02"], True), "there is room for two"
    assert parts.look(0) == ([], True)
    found, more = parts.look(20)
    assert ([one.host_id for one in found], more) == (["hweb03"], False)
