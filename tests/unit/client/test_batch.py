"""batch: many tasks from a file, in pieces; and the options and plans of rollouts."""

from __future__ import annotations

import io
import json
import sys

import pytest

from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.questions import Problem

LINES = '{"argv": ["uptime"], "target": "web*"}\n\n{"payload": {"kind": "shell", "argv": ["df"]}, "target": "db1", "priority": 8}\n'


def sent(recorded):
    return [body["tasks"] for method, path, body in recorded.requests if (method, path) == ("POST", "/api/v1/tasks/batch")]


def test_each_line_is_a_task_and_its_id_is_printed(cli, recorded, tmp_path):
    (tmp_path / "tasks").write_text(LINES)

    ended = cli("batch", str(tmp_path / "tasks"))

    assert ended.code == 0, ended.err
    (tasks,) = sent(recorded)
    assert [task["spec"] for task in tasks] == [
        {"payload": {"kind": "shell", "argv": ["uptime"]}, "target": "web*"},
        {"payload": {"kind": "shell", "argv": ["df"]}, "target": "db1", "priority": 8},
    ]
    assert ended.out.split() == [task["task_id"] for task in tasks]
    assert "2 tasks submitted" in ended.err


def test_tasks_come_from_stdin_in_pieces(cli, recorded, monkeypatch):
    monkeypatch.setattr("fleetlog_schemas.limits.TASKS_PER_SUBMIT_MAX", 2)
    text = "".join(json.dumps({"argv": [str(number)], "target": "web*"}) + "\n" for number in range(5))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    ended = cli("batch", "-", "-o", "json")

    assert [len(tasks) for tasks in sent(recorded)] == [2, 2, 1]
    assert json.loads(ended.out)["task_ids"] == [task["task_id"] for tasks in sent(recorded) for task in tasks]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: "), ('{"argv": ["x"]}', "line 2: /target: give either a target"), ('{"argv": [], "target": "a"}', "line 2: "),
        ('{"argv": ["x"], "target": "a", "priority": 11}', "line 2: /priority: must be between 1 and 10"),
        ('{"argv": ["x"], "target": "a", "sudo": 1}', "there is no field sudo"), ("[1]", "line 2: "),
        ('{"argv": ["x"], "payload": {}, "target": "a"}', "give either argv or a payload"),
    ],
)
def test_a_line_that_is_wrong_is_named_before_anything_is_sent(cli, recorded, tmp_path, line, says):
    (tmp_path / "tasks").write_text('{"argv": ["ok"], "target": "web*"}\n' + line + "\n")
    ended = cli("batch", str(tmp_path / "tasks"))
    assert ended.code == 2
    assert says in ended.err
    assert not sent(recorded)


def test_a_file_without_tasks_is_typed_wrong(cli, tmp_path):
    (tmp_path / "tasks").write_text("\n\n")
    assert cli("batch", str(tmp_path / "tasks")).code == 2
    assert cli("batch", str(tmp_path / "none")).code == 2


def test_an_unsettled_piece_is_sent_again_with_the_same_ids(cli, recorded, tmp_path, monkeypatch):
    monkeypatch.setattr("fleetlog.verbs.batch.SUBMIT_PAUSE_S", 0.01)
    (tmp_path / "tasks").write_text(LINES)
    recorded.problems["/api/v1/tasks/batch"] = (504, {"detail": "not confirmed", "code": "unsettled"})
    recorded.problem_times["/api/v1/tasks/batch"] = 1
    assert cli("batch", str(tmp_path / "tasks")).code == 0
    first, second = sent(recorded)
    assert first == second


def test_a_refused_piece_says_how_many_went_before_it(cli, recorded, tmp_path, monkeypatch):
    monkeypatch.setattr("fleetlog.verbs.batch.PIECE_BYTES_MAX", 100)
    (tmp_path / "tasks").write_text(LINES)
    post = type(recorded)._post_batch

    def full(self, body):
        return post(self, body) if len(sent(self)) == 1 else (507, {"detail": "the log is full", "code": "log-full"})

    monkeypatch.setattr(type(recorded), "_post_batch", full)
    ended = cli("batch", str(tmp_path / "tasks"))
    assert ended.code == 6
    assert "of 2 tasks the first 1 are submitted; the others are not" in ended.err


def test_wait_follows_until_all_have_ended_and_the_exit_code_says_how(cli, recorded, tmp_path):
    (tmp_path / "tasks").write_text(LINES)
    outcomes = iter([Outcome.SUCCESS, Outcome.FAILURE, Outcome.SUCCESS, Outcome.SUCCESS])
    recorded.story = lambda r, task_id: r.run(task_id, {"web01": next(outcomes)})

    ended = cli("batch", str(tmp_path / "tasks"), "--wait")

    assert ended.code == 3, ended.err
    assert "2 tasks ended: x 1 failure, + 1 success" in ended.err or "1 failure" in ended.err
    failed = sent(recorded)[0][1]["task_id"]
    assert f"failure: fleetlog why {failed[-8:]}" in ended.err
    again = cli("batch", str(tmp_path / "tasks"), "--wait", "-o", "json")
    assert again.code == 0
    assert json.loads(again.out)["counts"] == {"success": 2}


def test_wait_counts_refused_tasks_and_gives_up_in_time(cli, recorded, tmp_path):
    (tmp_path / "tasks").write_text(LINES)
    recorded.story = lambda r, task_id: r.refuse(task_id, "target-empty", "no host", "/target")
    ended = cli("batch", str(tmp_path / "tasks"), "--wait")
    assert ended.code == 3
    assert "2 refused" in ended.err
    recorded.story = lambda r, task_id: r.plan(task_id, ["web01"])
    waited = cli("batch", str(tmp_path / "tasks"), "--wait", "--wait-timeout", "300ms")
    assert waited.code == 7
    assert "2 of 2 tasks have not ended" in waited.err


# --- options of admission and rollout --------------------------------------------------------------------


def spec_of(recorded):
    return next(body for method, path, body in recorded.requests if (method, path) == ("POST", "/api/v1/tasks"))


def test_every_option_of_admission_and_rollout_reaches_the_specification(cli, recorded):
    ended = cli(
        "exec", "-t", "web*", "--detach", "--yes", "--priority", "8", "--queue", "slow", "--key", "nightly", "--key-parallel",
        "3", "--single-run", "replace", "--any", "4", "--spread", "rack", "--waves", "1,5%,25%,100%", "--batch", "10",
        "--canary", "web01", "--soak", "5m", "--approve", "2,4", "--max-failures", "3%", "--ignore-windows", "--plan-hash",
        "abc", "--", "true",
    )
    assert ended.code == 0, ended.err
    spec = spec_of(recorded)
    assert {name: spec[name] for name in spec if name not in ("payload", "target", "options", "retry", "timeout_ms")} == {
        "priority": 8, "queue": "slow", "key": "nightly", "key_parallel": 3, "single_run": "replace",
        "choose": {"count": 4, "by": "spread", "label": "rack"}, "failures_max": "3%", "ignore_windows": True,
        "plan_hash": "abc",
        "rollout": {"waves": ["1", "5%", "25%", "100%"], "batch": "10", "canary": "web01", "soak_ms": 300_000, "approve": [2, 4]},
    }


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--any", "2"], "choose", {"count": 2}), (["--any", "2", "--by", "random"], "choose", {"count": 2, "by": "random"}),
        (["--one-per", "rack"], "choose", {"by": "each", "label": "rack"}),
        (["--batch", "5%", "--approve", "all"], "rollout", {"batch": "5%", "approve": [0]}),
        (["--waves", "1", "--approve", "0"], "rollout", {"waves": ["1"], "approve": [0]}),
        (["--canary", "web01"], "rollout", {"canary": "web01"}),
    ],
)
def test_choices_and_waves_are_written_short(cli, recorded, options, field, value):
    assert cli("exec", "-t", "web*", "--detach", *options, "--", "true").code == 0
    found = spec_of(recorded)[field]
    assert {name: found[name] for name in value} == value
    assert set(found) - set(value) <= {"count", "by"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--priority", "11"], "--priority: must be between 1 and 10"), (["--queue", "a b"], "--queue: a queue's name"),
        (["--single-run", "queue"], "--key: single_run and key_parallel need a key"), (["--by", "load"], "go with --any"),
        (["--spread", "rack"], "go with --any"), (["--one-per", "rack", "--any", "2"], "--one-per stands alone"),
        (["--any", "2", "--by", "load", "--spread", "rack"], "either --spread or --by"), (["--soak", "5m"], "go with waves"),
        (["--approve", "all"], "go with waves"), (["--waves", "5,x"], "write 3 or 5%"),
        (["--waves", "5,3"], "--waves: 3 is no more than the wave before it"), (["--batch", "0"], "--batch: a wave has at least"),
        (["--max-failures", "200%"], "--max-failures: must be a count (3) or a percentage"),
        (["--waves", "1", "--approve", "x"], "is not a number"),
    ],
)
def test_what_is_wrong_in_them_is_said_by_the_name_of_the_option(cli, recorded, options, says):
    ended = cli("exec", "-t", "web*", *options, "--", "true")
    assert ended.code == 2
    assert says in ended.err
    assert not [path for method, path, _ in recorded.requests if method == "POST"]


def test_a_plan_hash_stands_for_looking_and_a_changed_plan_is_a_conflict(cli, recorded):
    recorded.hosts = [f"web{number:02d}" for number in range(60)]
    recorded.story = lambda r, task_id: r.refuse(task_id, "plan-changed", "look again", "/plan_hash")
    ended = cli("exec", "-t", "web*", "--plan-hash", "abc", "--", "true")
    assert ended.code == 6
    assert "--plan-hash: look again" in ended.err
    assert [path for method, path, _ in recorded.requests if method == "POST"] == ["/api/v1/tasks"]


def test_an_earlier_run_with_the_same_key_is_a_conflict_and_not_a_typo(cli, recorded):
    recorded.plan_problem = Problem(409, "lock", "task x is open", "/single_run")
    ended = cli("exec", "-t", "web*", "--key", "k", "--single-run", "refuse", "--", "true")
    assert ended.code == 6
    assert "--single-run: task x is open" in ended.err


def test_a_plan_shows_waves_reasons_lock_budget_and_what_changed(cli, recorded):
    from fleetlog_schemas.admission import Difference, PlannedView

    recorded.plan_fields = {
        "hosts": [
            PlannedView("h1", "web01", "online", maintenance=False, would="run", wave=1),
            PlannedView("h2", "web02", "online", maintenance=False, would="run", wave=2),
            PlannedView("h3", "web03", "offline", maintenance=False, would="wait", wave=2, reason="offline: it fell silent"),
        ],
        "offline": 1, "waves": [1, 2], "runs": "apt install x", "candidates": 9, "failures_max": 2,
        "lock": "task abc runs; this one waits for its end",
        "difference": Difference(
            task_id="0" * 28 + "12345678", submitted_at="2026-11-22T10:00:00.000Z", outcome="success", hosts_added="web03",
            hosts_removed="web09", fields={"timeout_ms": [1000, 2000]},
        ),
    }

    out = cli("exec", "-t", "web*", "--plan", "--waves", "1", "--", "sh", "-c", "a b").out

    for line in (
        "3 hosts in 2 waves, 1 offline; nothing was run", "  runs      apt install x",
        "  chosen    3 of 9 hosts that the target means", "  halts     when more than 2 hosts fail",
        "  lock      task abc runs; this one waits for its end", "  wave 1    1 host    web01", "  wave 2    2 hosts   web[02-03]",
        "  2 hosts would run          web[01-02]", "  1 host would wait         web03  offline: it fell silent",
        "  beside the last task that ran the same: 12345678, success, 2026-11-22 10:00:00Z", "    new hosts: web03",
        "    gone hosts: web09", "    timeout_ms: 1000 before, 2000 now", "plan hash",
        "run exactly this:  fleetlog exec -t 'web*' --waves 1 --plan-hash hash -- sh -c 'a b'",
    ):
        assert line in out.splitlines()
