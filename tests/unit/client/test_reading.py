"""The verbs that only look: lists, show and replay, why, output, events, hosts, numbers; and what they say when it fails."""

from __future__ import annotations

import json

import pytest

from fleetlog_schemas.admission import WaitingGroup
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.questions import OutputChunk
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_testing.history import make_id


def _story(recorded, outcomes, tails=None):
    """Put one ended task into the history and return its id."""
    task_id = make_id(recorded.history.now_ms)
    recorded.story = lambda r, submitted: r.run(submitted, outcomes, tails)
    recorded.submit(task_id, TaskSpec(payload=Shell(argv=("apt", "install", "x y")), target="web*"))
    return task_id


def _chunk(text, frame=1, stream="stdout", gap=0):
    return OutputChunk(stream=stream, offset=0, line=0, at="", text=text, gap_bytes=gap, frame=frame)


FAILED = {"web01": Outcome.SUCCESS, "web02": Outcome.FAILURE, "web03": Outcome.FAILURE}
TAILS = {"web02": "E: no lock 12\n", "web03": "E: no lock 77\n"}


def test_replay_gives_the_bytes_of_show(cli, recorded):
    _story(recorded, {"web09": Outcome.LOST, "web10": Outcome.SUCCESS})
    task_id = _story(recorded, FAILED, TAILS)
    shown = cli("show", task_id, "-o", "json")

    replayed = cli("replay", task_id, "-o", "json")

    assert shown.code == replayed.code == 0
    assert replayed.out == shown.out
    assert json.loads(shown.out)["counts"] == {"failure": 2, "success": 1}
    assert cli("replay", task_id).out == cli("show", task_id).out


def test_replay_asks_for_nothing_but_the_log(cli, recorded):
    task_id = _story(recorded, FAILED)
    _story(recorded, {"web01": Outcome.SUCCESS})

    for identifier in (task_id, task_id[-8:], "last"):
        recorded.requests.clear()
        ended = cli("replay", identifier, "-o", "json")
        assert ended.code == 0
        assert {path.partition("?")[0] for _, path, _ in recorded.requests} == {"/api/v1/log"}
        assert (json.loads(ended.out)["task_id"] == task_id) == (identifier != "last")


def test_replay_of_a_task_that_the_log_does_not_have_is_not_found(cli, recorded):
    _story(recorded, FAILED)
    assert cli("replay", make_id()).code == 5
    assert cli("replay", "ffffff").code == 5


def test_show_leads_from_the_count_to_groups_to_hosts(cli, recorded):
    _story(recorded, FAILED, TAILS)

    lines = cli("show", "last").out.splitlines()

    assert lines[0].endswith("✗ failure")
    assert any("apt install 'x y'" in line for line in lines)
    assert any("2 hosts  failure  exit 3  web[02-03]  E: no lock 12" in line for line in lines)
    assert [line.split()[0] for line in lines[-3:]] == ["web01", "web02", "web03"]


def test_show_of_many_hosts_lists_only_what_is_not_well(cli, recorded):
    outcomes = {f"web{number:03d}": Outcome.SUCCESS for number in range(80)} | {"web999": Outcome.TIMEOUT}
    _story(recorded, outcomes)

    out = cli("show", "last").out

    assert "success: web[000-079]" in out
    assert "web999" in out.splitlines()[-1]
    assert len(out.splitlines()) < 20


def test_json_cannot_act_on_a_terminal_either(cli, recorded):
    task_id = _story(recorded, {"web01": Outcome.FAILURE}, {"web01": "a\x9b2J\u202eb\x1b[2J"})

    out = cli("show", task_id, "-o", "json").out

    assert not set("\x9b\u202e\x1b") & set(out)
    assert json.loads(out)["commands"][0]["attempts"][0]["tail"] == "a\x9b2J\u202eb\x1b[2J"


def test_why_folds_hosts_that_failed_alike_and_says_what_to_type(cli, recorded):
    task_id = _story(recorded, FAILED, TAILS)

    ended = cli("why", "last")

    assert "2 hosts  failure  exit 3  web[02-03]  E: no lock 12" in ended.out
    assert ended.out.splitlines()[-1] == f"rerun:  fleetlog rerun {task_id[-8:]} --failed"


def test_why_says_what_an_open_task_waits_for(cli, recorded):
    task_id = make_id(recorded.history.now_ms)
    recorded.story = lambda r, submitted: r.plan(submitted, ["web01", "web02"])
    recorded.submit(task_id, TaskSpec(payload=Shell(argv=("true",)), target="web*"))
    recorded.waiting = [
        WaitingGroup("waiting", "host-offline", "offline; waits until 12:00", "web[01-02]", 2, "2026-11-22T10:00:00Z")
    ]

    out = cli("why", task_id).out

    assert "2 hosts  waiting: host-offline  web[01-02]  offline; waits until 12:00 (since 2026-11-22 10:00:00Z)" in out
    assert f"fleetlog watch {task_id[-8:]}" in out


def test_ls_goes_through_pages_and_stops_at_its_limit(cli, recorded, monkeypatch):
    monkeypatch.setattr("fleetlog.verbs.tasks.PAGE_MAX", 2)
    ids = [_story(recorded, {"web01": Outcome.SUCCESS}) for _ in range(5)]

    listed = json.loads(cli("ls", "--limit", "3", "-o", "json").out)

    assert [item["task_id"] for item in listed["items"]] == list(reversed(ids))[:3]
    lines = cli("ls").out.splitlines()
    assert lines[0].split()[:2] == ["ID", "OUTCOME"]
    assert lines[1].split()[0] == ids[-1][-8:]
    assert "\x1b" not in "".join(lines)


def test_output_of_hosts_that_wrote_the_same_is_folded_on_demand(cli, recorded):
    _story(recorded, FAILED, TAILS)
    recorded.output = {
        "hweb01": [_chunk("ok\n")], "hweb02": [_chunk("no\x1b[2J\n")], "hweb03": [_chunk("n", 1), _chunk("o\n", 2)]
    }

    assert cli("output", "last", "--group").out == "web[02-03]:\nno\nweb01:\nok\n"
    assert cli("output", "last").out == "web01:\nok\nweb02:\nno\nweb03:\nno\n"
    assert cli("logs", "last", "--failed").out == "web02:\nno\nweb03:\nno\n"
    assert cli("output", "last", "--host", "web[02-03],web01").out == "web02:\nno\nweb03:\nno\nweb01:\nok\n"
    assert cli("output", "last", "--host", "web03").out == "no\n"
    assert cli("output", "last", "--host", "db1").code == 5
    assert cli("output", "last", "--host", "web[3-").code == 2


def test_followed_output_names_its_host_line_by_line(cli, recorded):
    _story(recorded, FAILED)
    recorded.output = {name: [_chunk(f"a {name}\nhalf", 1), _chunk(" line\n", 2)] for name in ("hweb01", "hweb02")}

    ended = cli("output", "last", "-f", "--host", "web01", "--host", "web02")

    assert ended.code == 0
    assert ended.out == "web01: a hweb01\nweb02: a hweb02\nweb01: half line\nweb02: half line\n"


def test_a_gap_in_the_output_is_marked(cli, recorded):
    _story(recorded, {"web01": Outcome.SUCCESS})
    recorded.output = {"hweb01": [_chunk("start\n"), _chunk("end\n", 2, gap=2_500_000)]}
    assert cli("output").out == "start\n[… 2.5 MB were not kept …]\nend\n"


def test_events_say_what_happened_in_order_and_where_to_go_on(cli, recorded):
    _story(recorded, {"web01": Outcome.SUCCESS})

    ended = cli("events", "last", "--limit", "3")

    assert [line.split()[3] for line in ended.out.splitlines()] == ["task.submitted", "task.planned", "attempt.dispatched"]
    assert "--after 3" in ended.err
    assert cli("events", "last", "--after", "4").out.split()[3] == "task.ended"


def test_hosts_are_listed_shown_added_and_changed(cli, recorded):
    assert "env=prod" in cli("host", "ls").out
    assert "os" in cli("host", "show", "web02").out
    added = cli("host", "add", "web09", "--label", "env=prod", "--label", "new")
    assert added.out == "fleetlog agent join http://127.0.0.1:8420 --token flj_x\n"
    assert "127.0.0.1 is this machine alone" in added.err
    assert recorded.requests[-1][2] == {"name": "web09", "labels": {"env": "prod", "new": ""}}
    assert cli("host", "label", "web01", "env=test", "old-").code == 0
    assert recorded.requests[-1] == ("POST", "/api/v1/hosts/hweb01/labels", {"labels": {"env": "test", "old": None}})
    assert cli("host", "maintenance", "web01", "on", "--reason", "disk").code == 0
    assert recorded.requests[-1][2] == {"on": True, "reason": "disk"}
    assert cli("host", "revoke", "web01").code == 0
    assert recorded.requests[-1][1] == "/api/v1/hosts/hweb01/revoke"


def test_numbers_are_tables_for_people_and_json_for_programs(cli):
    assert "75.0 %" in cli("stats").out
    assert json.loads(cli("stats", "-o", "json").out)["items"][0]["commands"] == 4
    assert cli("sql", "select 1").out.splitlines()[-1].split() == ["NULL", "1"]


def test_a_projection_that_differs_is_not_a_success(cli):
    ended = cli("verify", "projection")
    assert ended.code == 1
    assert "2 rows differ" in ended.out


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (422, 2), (401, 4), (403, 4), (404, 5), (409, 6), (412, 6), (429, 4), (500, 1), (503, 8), (504, 8), (507, 6)],
)
def test_every_problem_has_an_exit_code_and_its_own_words(cli, recorded, status, code):
    recorded.problems["/api/v1/tasks"] = (status, {"title": "T", "detail": "what is wrong", "code": "c"})
    ended = cli("ls")
    assert ended.code == code
    assert "what is wrong" in ended.err
    assert "Traceback" not in ended.err


def test_a_field_of_a_problem_is_named_as_it_was_typed(cli, recorded):
    recorded.problems["/api/v1/plan"] = (
        422, {"detail": "must be between 1 and 9", "code": "invalid",
              "errors": [{"pointer": "/timeout_ms", "message": "must be between 1 and 9"}]},
    )
    assert "--timeout: must be between 1 and 9" in cli("exec", "-t", "web*", "--", "true").err


def test_no_gateway_is_its_own_exit_code(cli, monkeypatch):
    monkeypatch.setenv("FLEETLOG_URL", "http://127.0.0.1:9")
    ended = cli("ls")
    assert ended.code == 8
    assert "cannot be reached" in ended.err
    monkeypatch.delenv("FLEETLOG_URL")
    assert "fleetlog up" in cli("ls").err
    assert cli("--url", "ftp://x", "ls").code == 2


def test_something_else_that_answers_is_no_traceback(cli, recorded):
    recorded.problems["/api/v1/stats"] = (200, ["not", "a", "gateway"])
    ended = cli("stats")
    assert ended.code == 1
    assert "does not answer as a fleetlog gateway" in ended.err


def test_a_wrong_token_says_where_the_right_one_is(cli, monkeypatch):
    monkeypatch.setenv("FLEETLOG_TOKEN", "flt_other")
    ended = cli("ls")
    assert ended.code == 4
    assert "FLEETLOG_TOKEN" in ended.err


def test_address_and_token_come_from_the_data_folder(cli, monkeypatch, tmp_path):
    folder = tmp_path / "home" / "gateway"
    folder.mkdir(parents=True)
    (folder / "url").write_text(cli.url + "\n")
    (folder / "token").write_text("flt_for_tests\n")
    monkeypatch.delenv("FLEETLOG_URL")
    monkeypatch.delenv("FLEETLOG_TOKEN")

    assert cli("--data", str(tmp_path / "home"), "ls").code == 0
    assert cli("ls", "--data", str(tmp_path / "home")).code == 0


def test_versions_topics_and_completion(cli):
    assert "gateway  0.1.0" in cli("version").out
    assert "  9  nothing failed" in cli("help", "exit-codes").out
    assert "--retry-on" in cli("help", "exec").out
    assert cli("help", "nothing").code == 2
    for shell in ("bash", "zsh", "fish"):
        assert "verify" in cli("completion", shell).out
