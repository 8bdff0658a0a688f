"""Definitions on the command line: what a word means, what is asked for, and files that are pushed, pulled and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleetlog.exits import Exit
from fleetlog_schemas.outcomes import Outcome

FILE = """
# by hand
name = "report"
target = "web*"
script = '''
#!/bin/sh
df "$FLEETLOG_PARAM_PATH"
'''

[parameters.path]
required = true
[parameters.only]
type = "list"
[parameters.token]
type = "secret"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A definition's file in the folder in which is typed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.toml").write_text(FILE)
    return tmp_path / "report.toml"


def asked(recorded: Any, method: str, path: str) -> list[Any]:
    return [body for how, where, body in recorded.requests if how == method and where.split("?")[0] == f"/api/v1{path}"]


def test_a_push_makes_a_definition_and_the_file_says_its_version(cli: Any, recorded: Any, file: Path) -> None:
    done = cli("definition", "push", "report.toml", "--message", "first")
    assert (done.code, done.out) == (0, "report is new: version 1\n")
    assert file.read_text() == "version = 1\n" + FILE
    (known,) = recorded.versions.values()
    assert recorded.blobs[known.definition.spec.payload.content.sha256] == b"#!/bin/sh\ndf \"$FLEETLOG_PARAM_PATH\"\n"
    assert known.message == "first"


def test_a_push_that_changes_nothing_sends_nothing(cli: Any, recorded: Any, file: Path) -> None:
    cli("definition", "push", "report.toml")
    before = len(recorded.requests)
    done = cli("definition", "push", "report.toml")
    assert (done.code, done.out) == (0, "report is unchanged at version 1\n")
    assert [how for how, _, _ in recorded.requests[before:]] == ["GET"]


def test_a_push_on_a_version_that_is_gone_is_refused_and_changes_no_file(cli: Any, recorded: Any, file: Path) -> None:
    cli("definition", "push", "report.toml")
    mine = file.read_text().replace("web*", "db*")
    file.write_text(file.read_text().replace("web*", "all"))
    recorded.author = "bob"
    assert "is now version 2" in cli("definition", "push", "report.toml").out
    file.write_text(mine)
    done = cli("definition", "push", "report.toml")
    assert done.code == Exit.CONFLICT
    assert "the file says version 1 of report, and by now it is 2, changed by bob" in done.err
    assert file.read_text() == mine
    done = cli("definition", "push", "report.toml", "--force")
    assert (done.out, file.read_text()) == ("report is now version 3\n", mine)
    assert recorded.headers[-1]["if-match"] == "*"


@pytest.mark.parametrize(
    ("version", "said"), [("", "does not say which version it changes"), ("version = 7\n", "says version 7 of report, and by now it is 1")],
)
def test_a_file_that_knows_no_version_overwrites_none(cli: Any, recorded: Any, file: Path, version: str, said: str) -> None:
    cli("definition", "push", "report.toml")
    file.write_text(version + FILE.replace("web*", "all"))
    done = cli("definition", "push", "report.toml")
    assert (done.code, said in done.err) == (Exit.CONFLICT, True), done.err
    assert not asked(recorded, "PUT", "/definitions/report")


def test_a_file_that_says_a_version_of_nothing_makes_nothing(cli: Any, recorded: Any, file: Path) -> None:
    file.write_text("version = 3\n" + FILE)
    done = cli("definition", "push", "report.toml")
    assert (done.code, "there is none" in done.err) == (Exit.CONFLICT, True)
    assert not recorded.versions


def test_everything_is_checked_before_anything_is_sent(cli: Any, recorded: Any, file: Path) -> None:
    (file.parent / "wrong.toml").write_text('name = "wrong"\nargv = ["df"]\npriority = 11\n')
    done = cli("definition", "push", ".")
    assert done.code == Exit.TYPED_WRONG
    assert "wrong.toml: priority: must be between 1 and 10" in done.err
    assert not recorded.requests


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not TOML"), ('name = "Report"\nargv = ["df"]\n', "a definition's name is"), ("\xff", "not UTF-8"),
        ('name = "a"\nscript_file = "../secret"\n', "is not below the folder"), ('name = "a"\nscript_file = "/etc/passwd"\n', "not below"),
        ('name = "a"\nscript_file = "no.sh"\n', "cannot read"), ('name = "report"\nargv = ["df"]\n', "both define report"),
        ('name = "a"\nargv = ["df"]\ntimout_seconds = 3\n', "timout_seconds"), ('name = "a"\nscript_file = "a\\u0000b"\n', "cannot read"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(cli: Any, file: Path, text: str, said: str) -> None:
    (file.parent / "other.toml").write_bytes(text.encode("latin-1"))
    (file.parent.parent / "secret").write_text("x")
    done = cli("definition", "push", ".")
    assert (done.code, said in done.err) == (Exit.TYPED_WRONG, True), done.err
    assert "Traceback" not in done.err


def test_what_is_pulled_is_pushed_without_a_change_and_compared_without_a_difference(cli: Any, recorded: Any, file: Path) -> None:
    cli("definition", "push", "report.toml")
    done = cli("definition", "pull", "--all", "--to", "there")
    assert done.out == "there/report.toml  version 1\n"
    pulled = (file.parent / "there" / "report.toml").read_text()
    assert pulled.startswith('name = "report"\nversion = 1\nkind = "script"\n')
    assert cli("definition", "push", "there").out == "report is unchanged at version 1\n"
    assert (file.parent / "there" / "report.toml").read_text() == pulled
    assert cli("definition", "diff", "./there").code == 0
    assert cli("definition", "show", "report").out.rstrip() == pulled.rstrip()


def test_versions_and_files_are_compared_line_by_line(cli: Any, recorded: Any, file: Path) -> None:
    cli("definition", "push", "report.toml")
    file.write_text(file.read_text().replace("web*", "db*"))
    done = cli("definition", "diff", "report.toml")
    assert done.code == Exit.INTERNAL
    assert '-target = "web*"\n+target = "db*"' in done.out
    cli("definition", "push", "report.toml", "--message", "databases")
    for typed in (("report",), ("report", "1"), ("report", "1", "2")):
        assert '-target = "web*"\n+target = "db*"' in cli("definition", "diff", *typed).out
    assert "databases" in cli("definition", "history", "report").out.splitlines()[1]
    assert cli("definition", "diff", "report", "x").code == Exit.TYPED_WRONG
    assert cli("definition", "diff", "report", "9").code == Exit.NOT_FOUND
    cli("definition", "rm", "report")
    cli("definition", "push", "report.toml", "--force")
    recorded.versions = {key: known for key, known in recorded.versions.items() if key == ("report", 3)}
    done = cli("definition", "diff", "report")
    assert (done.code, "version 3 is the first of this report" in done.err) == (0, True)


def test_prune_removes_what_no_file_has_and_only_when_that_was_confirmed(cli: Any, recorded: Any, file: Path) -> None:
    cli("definition", "push", "report.toml")
    folder = file.parent / "others"
    folder.mkdir()
    (folder / "other.toml").write_text('name = "other"\nargv = ["df"]\n')
    assert cli("definition", "push", "report.toml", "--prune").code == Exit.TYPED_WRONG, "only folders say what there is not"
    done = cli("definition", "push", "others", "--prune")
    assert (done.code, "to be removed: report version 1" in done.err) == (Exit.TYPED_WRONG, True)
    assert set(recorded.catalog.by_name) == {"report", "other"}
    assert "report is removed" in cli("definition", "push", "others", "--prune", "--yes").out
    assert set(recorded.catalog.by_name) == {"other"}


def test_a_word_is_a_definition_whatever_lies_in_the_folder_and_a_path_is_a_file(cli: Any, recorded: Any, file: Path) -> None:
    cli("definition", "push", "report.toml")
    (file.parent / "report").write_text("#!/bin/sh\necho from the file\n")
    recorded.story = lambda told, task_id: told.run(task_id, {"web01": Outcome.SUCCESS})
    assert cli("run", "report", "-p", "path=/").code == 0
    assert cli("run", "./report", "-t", "web01").code == 0
    first, second = recorded.history.tasks.by_id.values()
    assert (first.spec.definition.version, first.spec.definition.parameters) == (1, {"path": "/"})
    assert (second.spec.definition, second.spec.payload.content.name) == (None, "report")
    done = cli("run", "nothing")
    assert (done.code, "for the file write ./nothing" in done.err) == (Exit.NOT_FOUND, True)


def test_what_is_typed_is_sent_with_the_types_that_were_declared(cli: Any, recorded: Any, file: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("token", "hunter2")
    cli("definition", "push", "report.toml")
    typed = ("run", "report", "-p", "path=a=b", "-p", "only=x", "-p", "only=y", "--secret", "token", "--narrow", "web01", "--version", "1",
             "--detach")
    assert cli(*typed).code == 0
    (body,) = asked(recorded, "POST", "/definitions/report/tasks")
    assert body == {
        "parameters": {"path": "a=b", "only": ["x", "y"], "token": "hunter2"}, "target": "", "narrow": "web01", "version": 1,
        "plan_hash": "",
    }


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ((), "-p path: path is required"), (("-p", "path=/", "-p", "x=1"), "-p x: there is no such parameter"),
        (("-p", "path=/", "-p", "path=/var"), "-p path: is given more than once"), (("-p", "path"), "write NAME=VALUE"),
        (("-p", "path=/", "-p", "token=hunter2"), "does not belong on the command line"),
        (("-p", "path=/", "--secret", "path"), "no secret of that name"), (("-p", "path=/", "--timeout", "5s"), "--timeout: the definition"),
        (("-p", "path=/", "--retries", "2"), "--retries: the definition"), (("-p", "path=/", "--any", "2"), "--any: the definition"), (("-p", "path=/", "--", "x"), "-- ARGS: the definition"),
    ],
)
def test_what_a_definition_does_not_take_is_refused_before_anything_is_sent(
    cli: Any, recorded: Any, file: Path, typed: tuple[str, ...], said: str
) -> None:
    cli("definition", "push", "report.toml")
    done = cli("run", "report", *typed)
    assert (done.code, said in done.err) == (Exit.TYPED_WRONG, True), done.err
    assert not [where for how, where, _ in recorded.requests if how == "POST" and where.endswith(("/tasks", "/plan"))]
    assert "hunter2" not in done.err


@pytest.mark.parametrize("typed", [("-p", "a=b", "-t", "all"), ("--version", "2", "-t", "all"), ("--narrow", "x", "-t", "all"), ()])
def test_a_file_takes_no_parameters_and_needs_a_target(cli: Any, file: Path, typed: tuple[str, ...]) -> None:
    assert cli("run", "./report.toml", *typed).code == Exit.TYPED_WRONG


def test_a_plan_shows_what_would_be_done_and_stores_nothing(cli: Any, recorded: Any, file: Path) -> None:
    cli("definition", "push", "report.toml")
    done = cli("run", "report", "-p", "path=/", "--plan")
    assert "nothing was run" in done.out
    assert "fleetlog run report -p path=/ --plan-hash hash" in done.out
    assert not asked(recorded, "POST", "/definitions/report/tasks")


def test_lists_and_schemas_are_printed_as_text_and_as_json(cli: Any, recorded: Any, file: Path) -> None:
    assert "write one to a file" in cli("definition", "ls").out
    cli("definition", "push", "report.toml")
    assert cli("definition", "ls").out.splitlines()[1].split()[:4] == ["report", "1", "script", "web*"]
    assert json.loads(cli("definition", "ls", "-o", "json").out)[0]["name"] == "report"
    assert json.loads(cli("definition", "schema", "report").out)["required"] == ["path"]
    assert json.loads(cli("definition", "show", "report", "-o", "json").out)["version"] == 1


def test_a_removed_definition_is_told_beside_its_tasks(cli: Any, recorded: Any, file: Path) -> None:
    cli("definition", "push", "report.toml")
    cli("run", "report", "-p", "path=/")
    assert "removed" not in cli("show").err
    done = cli("definition", "rm", "report", "--message", "done")
    assert (done.code, "its tasks keep their past" in done.err) == (0, True)
    shown = cli("show")
    assert "of        report version 1, path=/" in shown.out
    assert "the definition report was removed" in shown.err


def test_schedules_are_kept_in_the_file_of_their_definition_and_their_state_is_not(cli: Any, recorded: Any, file: Path) -> None:
    file.write_text(f'{file.read_text()}\n[schedule.nightly]\ncron = "30 2 * * *"\noverlap = "queue-one"\n\n[schedule.often]\nevery = "15m"\n')
    pushed = cli("definition", "push", "report.toml")
    assert pushed.out.splitlines()[1:] == ["  schedule nightly is registered", "  schedule often is registered"]
    assert (recorded.rules["nightly"]["cron"], recorded.rules["nightly"]["policy"]) == ("30 2 * * *", {"overlap": "queue-one"})
    assert "schedule nightly is unchanged" in cli("definition", "push", "report.toml").out
    assert "schedule often is unchanged" in cli("definition", "push", "report.toml").out, "a grid stays where it began"
    cli("definition", "pull", "report", "--to", "there")
    assert '[schedule.nightly]\ncron = "30 2 * * *"' in Path("there/report.toml").read_text()
    assert cli("definition", "diff", "there/report.toml").code == Exit.OK
    file.write_text(file.read_text().replace("30 2", "30 3"))
    assert '+cron = "30 3 * * *"' in cli("definition", "diff", "report.toml").out
    assert "schedule nightly is changed" in cli("definition", "push", "report.toml").out
    recorded.rules["nightly"]["definition"] = "another"
    refused = cli("definition", "push", "report.toml")
    assert refused.code == Exit.CONFLICT
    assert "the schedule nightly runs another" in refused.err
