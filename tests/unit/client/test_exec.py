"""exec, run, rerun, watch and cancel: what is sent, what is shown, and how it ends."""

from __future__ import annotations

import json
import threading

import pytest

from fleetlog_schemas.ids import id_ms
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.questions import OutputChunk, Problem


def _chunk(text: str, frame: int = 1, stream: str = "stdout", gap: int = 0) -> OutputChunk:
    return OutputChunk(stream=stream, offset=0, line=0, at="", text=text, gap_bytes=gap, frame=frame)


def _spec(recorded):
    return next(body for method, path, body in recorded.requests if (method, path) == ("POST", "/api/v1/tasks"))


def test_argv_after_the_dashes_is_sent_untouched(cli, recorded):
    ended = cli("exec", "-t", "web*", "--", "sh", "-c", "--timeout 5s", "--", "-t")

    assert ended.code == 0, ended.err
    assert _spec(recorded)["payload"] == {"kind": "shell", "argv": ["sh", "-c", "--timeout 5s", "--", "-t"]}


def test_text_goes_to_a_shell_only_with_c(cli, recorded):
    assert cli("exec", "-t", "web*", "-c", "echo $HOME | wc").code == 0
    assert _spec(recorded)["payload"]["argv"] == ["/bin/sh", "-c", "echo $HOME | wc"]


def test_the_task_id_is_made_here_and_is_a_uuid_of_now(cli, recorded):
    ended = cli("exec", "-t", "web*", "--detach", "--", "true")

    key = next(headers["idempotency-key"] for headers in recorded.headers if "idempotency-key" in headers)
    assert ended.out.strip() == key
    assert id_ms(key) > 1_700_000_000_000


def test_a_typo_in_a_target_is_typed_wrong_and_submits_nothing(cli, recorded):
    recorded.plan_problem = Problem(422, "target-unknown", "no host is called wbe01", "/target")

    ended = cli("exec", "-t", "wbe01", "--", "true")

    assert ended.code == 2
    assert "-t: no host is called wbe01" in ended.err
    assert not [path for method, path, _ in recorded.requests if path == "/api/v1/tasks"]


def test_a_task_that_is_refused_after_all_is_typed_wrong(cli, recorded):
    recorded.story = lambda r, task_id: r.refuse(task_id, "target-empty", "'web*' means no host", "/target")

    ended = cli("exec", "-t", "web*", "--yes", "--", "true")

    assert ended.code == 2
    assert "refused: -t: 'web*' means no host" in ended.err


def test_a_plan_that_changed_meanwhile_is_a_conflict(cli, recorded):
    recorded.story = lambda r, task_id: r.refuse(task_id, "plan-changed", "look again", "/plan_hash")
    assert cli("exec", "-t", "web*", "--", "true").code == 6


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ({"web01": Outcome.SUCCESS}, 0),
        ({"web01": Outcome.SUCCESS, "web02": Outcome.FAILURE}, 3),
        ({"web01": Outcome.SUCCESS, "web02": Outcome.TIMEOUT}, 3),
        ({"web01": Outcome.ERROR}, 3),
        ({"web01": Outcome.CANCELLED}, 3),
        ({"web01": Outcome.SUCCESS, "web02": Outcome.UNREACHED}, 9),
        ({"web01": Outcome.SUCCESS, "web02": Outcome.LOST}, 9),
        ({"web01": Outcome.LOST, "web02": Outcome.FAILURE}, 3),
    ],
)
def test_the_exit_code_says_how_it_went(cli, recorded, outcomes, code):
    recorded.story = lambda r, task_id: r.run(task_id, outcomes)
    ended = cli("exec", "-t", "web*", "--", "true")
    assert ended.code == code, ended.err


def test_the_last_line_is_ready_to_paste(cli, recorded):
    outcomes = {"web03": Outcome.FAILURE, "web04": Outcome.SUCCESS, "web17": Outcome.UNREACHED}
    recorded.story = lambda r, task_id: r.run(task_id, outcomes)

    ended = cli("exec", "-t", "web*", "--", "true")

    assert ended.err.splitlines()[-1] == "failed: web[03,17]   fleetlog rerun last --failed"


def test_lost_hosts_are_to_be_looked_at_before_a_rerun(cli, recorded):
    recorded.story = lambda r, task_id: r.run(task_id, {"web01": Outcome.LOST, "web02": Outcome.SUCCESS})

    ended = cli("exec", "-t", "web*", "--", "true")

    assert ended.err.splitlines()[-1] == "lost: web01   may have run: look first: fleetlog why last"
    assert "rerun" not in ended.err


def test_failures_appear_with_their_last_line(cli, recorded):
    recorded.story = lambda r, task_id: r.run(
        task_id, {"web01": Outcome.FAILURE, "web02": Outcome.SUCCESS}, {"web01": "one\nE: no lock\n"}
    )
    assert "web01  failure  exit 3  E: no lock" in cli("exec", "-t", "web*", "--", "true").err


def test_equal_output_of_several_hosts_is_printed_once(cli, recorded):
    recorded.story = lambda r, task_id: r.run(
        task_id, dict.fromkeys(("web01", "web02", "web03", "db1"), Outcome.SUCCESS),
        {"web01": "6.1\n", "web02": "6.1\n", "web03": "6.1\n", "db1": "5.4\n"},
    )
    assert cli("exec", "-t", "all", "--", "uname", "-r").out == "web[01-03]:\n6.1\ndb1:\n5.4\n"


def test_output_of_one_host_is_printed_plainly_and_its_streams_stay_apart(cli, recorded):
    recorded.story = lambda r, task_id: r.run(task_id, {"web01": Outcome.SUCCESS}, {"web01": "a\nb\n"})
    recorded.output["hweb01"] = [_chunk("first li", 1), _chunk("ne\nsecond\n", 2), _chunk("oops\n", 3, "stderr")]

    ended = cli("exec", "-t", "web01", "--", "true")

    assert ended.out == "first line\nsecond\n"
    assert "oops\n" in ended.err


def test_the_tail_in_the_log_stands_in_for_output_that_cannot_be_read(cli, recorded):
    recorded.story = lambda r, task_id: r.run(task_id, {"web01": Outcome.SUCCESS}, {"web01": "from the log\n"})
    recorded.problems = {}

    def no_output(task_id: str) -> None:
        recorded.problems[f"/api/v1/tasks/{task_id}/output"] = (503, {"detail": "no reporter", "code": "x"})

    story = recorded.story
    recorded.story = lambda r, task_id: (no_output(task_id), story(r, task_id))[1]

    ended = cli("exec", "-t", "web01", "--", "true")

    assert ended.code == 0
    assert ended.out == "from the log\n"
    assert "no reporter" in ended.err


def test_escape_sequences_of_hosts_never_reach_the_terminal(cli, recorded):
    evil = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\x9b1A end\u202e\n"
    recorded.story = lambda r, task_id: r.run(
        task_id, {"web01": Outcome.FAILURE, "web02": Outcome.SUCCESS}, {"web01": evil, "web02": evil}
    )

    ended = cli("exec", "-t", "web*", "--", "true")

    assert "red end" in ended.out
    for character in "\x1b\x07\x9b\u202e":
        assert character not in ended.out + ended.err


def test_many_hosts_need_yes_without_a_terminal(cli, recorded):
    recorded.hosts = [f"web{number:02d}" for number in range(51)]

    ended = cli("exec", "-t", "web*", "--", "true")

    assert ended.code == 2
    assert "51 hosts" in ended.err
    assert "--yes" in ended.err
    assert ("POST", "/api/v1/tasks") not in [request[:2] for request in recorded.requests]


def test_fifty_hosts_need_no_yes(cli, recorded):
    recorded.hosts = [f"web{number:02d}" for number in range(50)]
    assert cli("exec", "-t", "web*", "--", "true").code == 0


def test_plan_shows_the_hosts_and_runs_nothing(cli, recorded):
    ended = cli("exec", "-t", "web*", "--plan", "--", "true")

    assert ended.code == 0
    assert "3 hosts, 0 offline; nothing was run" in ended.out
    assert "web[01-03]" in ended.out
    assert not recorded.history.events


def test_environment_secrets_and_stdin_travel_as_blobs(cli, recorded, monkeypatch, tmp_path):
    (tmp_path / "pw").write_text("s3cret\n")
    (tmp_path / "in").write_bytes(b"\x00data")
    monkeypatch.setenv("TOKEN_HERE", "abc")

    ended = cli(
        "exec", "-t", "web*", "--env", "A=1", "--secret", "TOKEN_HERE", "--secret", f"PW=@{tmp_path / 'pw'}",
        "--stdin", str(tmp_path / "in"), "--", "true",
    )

    assert ended.code == 0, ended.err
    options = _spec(recorded)["options"]
    assert json.loads(recorded.blobs[options["env"]["sha256"]]) == {"A": "1", "TOKEN_HERE": "abc", "PW": "s3cret"}
    assert options["env_names"] == ["A", "PW", "TOKEN_HERE"]
    assert options["secret_names"] == ["PW", "TOKEN_HERE"]
    assert recorded.blobs[options["stdin"]["sha256"]] == b"\x00data"
    assert "s3cret" not in json.dumps(_spec(recorded))


def test_a_secret_on_the_command_line_is_refused_without_repeating_it(cli):
    ended = cli("exec", "-t", "web*", "--secret", "PW=hunter2", "--", "true")

    assert ended.code == 2
    assert "--secret PW=@FILE" in ended.err
    assert "hunter2" not in ended.err


def test_every_option_reaches_the_specification(cli, recorded):
    ended = cli(
        "exec", "-t", "web*", "--cwd", "/srv", "--user", "app", "--umask", "027", "--memory", "512Mi", "--files", "64",
        "--output-max", "1M", "--ok-codes", "0,2", "--timeout", "90", "--task-timeout", "1h30m", "--wait-offline", "10m",
        "--parallel", "5", "--retries", "2", "--retry-on", "failure,lost", "--backoff", "2s", "--name", "n", "--tag", "a",
        "--", "true",
    )

    assert ended.code == 0, ended.err
    spec = _spec(recorded)
    assert spec["options"] == {
        "cwd": "/srv", "user": "app", "umask": 0o27, "memory_bytes_max": 512 * 2**20, "files_max": 64,
        "output_bytes_max": 1_000_000, "exit_codes": [0, 2],
    }
    assert (spec["timeout_ms"], spec["task_timeout_ms"], spec["wait_offline_ms"]) == (90_000, 5_400_000, 600_000)
    assert spec["retry"] == {"attempts_max": 3, "on": ["failure", "lost"], "backoff_ms": 2_000}
    assert (spec["parallel"], spec["name"], spec["tags"]) == (5, "n", ["a"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["exec", "-t", "web*", "--cwd", "srv", "--", "true"], "--cwd: the working directory must be an absolute path"),
        (["exec", "-t", " ", "--", "true"], "the target is empty; for every host write all"),
        (["exec", "-t", "web*"], "nothing to run"),
        (["exec", "-t", "web*", "uptime"], "stands after --"),
        (["exec", "-t", "web*", "-c", "x", "--", "y"], "not both"),
        (["exec", "-t", "web*", "--timeout", "soon", "--", "x"], "cannot read the time"),
        (["exec", "-t", "web*", "--retry-on", "bad", "--", "x"], "not an outcome"),
        (["exec", "-t", "web*", "--env", "NOT_SET_HERE_AT_ALL", "--", "x"], "has no NOT_SET_HERE_AT_ALL"),
        (["run", "/no/such/file", "-t", "web*"], "cannot read /no/such/file"),
        (["exec", "-t", "web*", "uname", "-r"], "fleetlog exec -t 'web*' -- uname -r"),
        (["exec", "-t", "web*", "--sudo", "--", "true"], "see: fleetlog exec --help"),
        (["exec", "--", "true"], "-t/--target is missing: on which hosts?"),
        (["exec", "-t", "web*", "--", "ls | wc -l"], "-c 'ls | wc -l'"),
        (["schedule", "ls", "--cron"], "see: fleetlog schedule ls --help"),
        (["host", "label", "web1", "env:prod"], "'env:prod' is not a label: write env=prod"),
        (["nonsense"], "there is no VERB 'nonsense'\n"),
        (["rerun", "last", "--include-lost"], "goes with --failed"),
        (["rerun", "last", "--failed", "--outcome", "lost"], "one of --failed, --outcome"),
        (["rerun", "last", "--outcome", "unlucky"], "--outcome: 'unlucky' is not an outcome"),
    ],
)
def test_what_is_typed_wrong_is_said_before_anything_is_sent(cli, recorded, arguments, says):
    ended = cli(*arguments)
    assert ended.code == 2
    assert says in ended.err
    # A feed of an earlier command may still be knocking at a port that is now ours: only what changes things counts.
    assert not [path for method, path, _ in recorded.requests if method == "POST"]


@pytest.mark.parametrize(
    ("first_line", "interpreter"),
    [
        ("#!/usr/bin/env python3", ["/usr/bin/env", "python3"]),
        ("#!/usr/bin/env -S python3 -u", ["/usr/bin/env", "python3", "-u"]),
        ("#! /bin/bash -e", ["/bin/bash", "-e"]),
        ("echo hello", None),
    ],
)
def test_a_script_is_run_by_what_its_first_line_names(cli, recorded, tmp_path, first_line, interpreter):
    script = tmp_path / "job"
    script.write_text(first_line + "\nprint(1)\n")

    ended = cli("run", str(script), "-t", "web*", "--", "arg", "--flag")

    assert ended.code == 0, ended.err
    payload = _spec(recorded)["payload"]
    assert recorded.blobs[payload["content"]["sha256"]] == script.read_bytes()
    assert payload["content"]["name"] == "job"
    assert payload["args"] == ["arg", "--flag"]
    assert payload["interpreter"] == (interpreter or ["/bin/sh"])


def test_a_broken_feed_is_resumed_where_it_broke(cli, recorded):
    recorded.story = lambda r, task_id: r.run(task_id, {"web01": Outcome.SUCCESS, "web02": Outcome.FAILURE})
    recorded.break_feed_after = 3

    ended = cli("exec", "-t", "web*", "--", "true")

    assert ended.code == 3
    assert recorded.feeds == ["", "3"]
    assert "connecting again" in ended.err
    assert ended.err.count("web02  failure") == 1


def test_an_unsettled_submission_is_repeated_with_the_same_id(cli, recorded):
    recorded.problems["/api/v1/tasks"] = (504, {"detail": "not confirmed", "code": "unsettled"})
    recorded.problem_times["/api/v1/tasks"] = 1

    assert cli("exec", "-t", "web*", "--", "true").code == 0

    keys = [headers["idempotency-key"] for headers in recorded.headers if "idempotency-key" in headers]
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_waiting_ends_with_its_own_code_and_says_how_to_go_on(cli, recorded):
    recorded.story = lambda r, task_id: r.plan(task_id, ["web01"])

    ended = cli("exec", "-t", "web*", "--wait-timeout", "300ms", "--", "sleep", "9")

    assert ended.code == 7
    assert "fleetlog watch" in ended.err


def test_ctrl_c_detaches(cli, recorded, monkeypatch):
    recorded.story = lambda r, task_id: r.plan(task_id, ["web01"])
    interrupted = threading.Event()

    def take(self, timeout_s):
        interrupted.set()
        raise KeyboardInterrupt

    monkeypatch.setattr("fleetlog.sse.Feed.take", take)

    ended = cli("exec", "-t", "web*", "--", "sleep", "9")

    assert interrupted.is_set()
    assert ended.code == 130
    task_id = next(iter(recorded.history.tasks.by_id))
    assert f"detached; the task goes on:  fleetlog watch {task_id[-8:]}" in ended.err


def test_json_is_the_task_and_nothing_else_on_stdout(cli, recorded):
    ended = cli("exec", "-t", "web*", "-o", "json", "--", "true")
    task = json.loads(ended.out)
    assert (task["state"], task["outcome"]) == ("ended", "success")


def test_watch_finds_the_task_by_the_end_of_its_id(cli, recorded):
    cli("exec", "-t", "web*", "--detach", "--", "true")
    task_id = next(iter(recorded.history.tasks.by_id))
    ended = cli("watch", task_id[-6:])
    assert ended.code == 0
    assert task_id[-8:] in ended.err


def test_rerun_names_what_it_repeats_and_follows_the_new_task(cli, recorded):
    recorded.story = lambda r, task_id: r.run(task_id, {"web01": Outcome.SUCCESS, "web02": Outcome.FAILURE})
    cli("exec", "-t", "web*", "--", "true")
    first = next(iter(recorded.history.tasks.by_id))
    recorded.story = lambda r, task_id: r.run(task_id, {"web02": Outcome.SUCCESS})

    ended = cli("rerun", "last", "--failed")

    assert ended.code == 0, ended.err
    assert f"runs {first[-8:]} again" in ended.err
    rerun = next(request for request in recorded.requests if request[1].endswith("/rerun"))
    assert rerun == ("POST", f"/api/v1/tasks/{first}/rerun", {"failed": True, "include_lost": False})


def test_cancel_waits_until_every_host_has_confirmed(cli, recorded):
    recorded.story = lambda r, task_id: (r.plan(task_id, ["web01", "web02"]), r.dispatch(task_id, ["web01", "web02"]))[1]
    cli("exec", "-t", "web*", "--detach", "--", "sleep", "60")

    ended = cli("cancel", "last", "--reason", "enough")

    assert ended.code == 0, ended.err
    assert "stopped:" in ended.err
    assert "2 cancelled" in ended.err


def test_retries_are_shown_and_do_not_count_as_failures(cli, recorded):
    def story(r, task_id):
        r.plan(task_id, ["web01", "web02"])
        r.dispatch(task_id, ["web01", "web02"])
        r.end(task_id, "web01", Outcome.FAILURE, exit_code=1)
        r.end(task_id, "web02", Outcome.SUCCESS)
        r.dispatch(task_id, ["web01"], attempt=2)
        r.end(task_id, "web01", Outcome.SUCCESS, attempt=2)
        r.finish(task_id)

    recorded.story = story

    ended = cli("exec", "-t", "web*", "--retries", "1", "--", "true")

    assert ended.code == 0, ended.err
    assert "web01: attempt 1 failure, will retry" in ended.err


def test_a_closed_feed_leaves_no_thread_behind(cli, recorded):
    recorded.story = lambda r, task_id: r.plan(task_id, ["web01"])
    before = set(threading.enumerate())
    cli("exec", "-t", "web*", "--wait-timeout", "100ms", "--", "sleep", "9")

    for thread in set(threading.enumerate()) - before:
        if thread.name == "live-feed":
            thread.join(timeout=5)
            assert not thread.is_alive()


def test_watching_a_task_that_does_not_exist_ends_at_once(cli, recorded):
    for identifier in ("01a0c450-6c00-7000-8000-0000000000e8", "abcdef", "last"):
        assert cli("watch", identifier).code == 5


def test_a_full_id_can_be_followed_without_the_reporter(cli, recorded):
    cli("exec", "-t", "web*", "--detach", "--", "true")
    task_id = next(iter(recorded.history.tasks.by_id))
    recorded.problems[f"/api/v1/tasks/{task_id}/progress"] = (503, {"detail": "no reporter", "code": "service-unavailable"})
    assert cli("watch", task_id).code == 0


def test_the_python_client_submits_waits_and_shows(cli, recorded):
    import fleetlog
    from fleetlog_schemas.spec import Shell, TaskSpec

    client = fleetlog.Client(cli.url, "flt_for_tests")
    task_id = client.submit(TaskSpec(payload=Shell(argv=("true",)), target="web*"))
    assert client.wait(task_id, timeout_s=5).outcome == "success"
    assert client.wait(task_id) == client.show(task_id)


def test_a_dispatcher_that_is_just_taking_over_is_waited_for(cli, recorded, monkeypatch):
    monkeypatch.setattr("fleetlog.verbs.submit.PLAN_PAUSE_S", 0.01)
    recorded.problems["/api/v1/plan"] = (503, {"detail": "the dispatcher does not answer", "code": "service-unavailable"})
    recorded.problem_times["/api/v1/plan"] = 2

    ended = cli("exec", "-t", "web*", "--", "true")

    assert ended.code == 0
    assert ended.err.count("asking again") == 1


def test_a_dispatcher_that_stays_away_is_unreachable(cli, recorded, monkeypatch):
    monkeypatch.setattr("fleetlog.verbs.submit.PLAN_WAIT_S", 0.0)
    recorded.problems["/api/v1/plan"] = (503, {"detail": "the dispatcher does not answer", "code": "service-unavailable"})
    assert cli("exec", "-t", "web*", "--", "true").code == 8


def test_rerun_takes_exactly_the_outcomes_that_are_named(cli, recorded):
    recorded.story = lambda r, task_id: r.run(task_id, {"web01": Outcome.SUCCESS, "web02": Outcome.UNREACHED})
    cli("exec", "-t", "web*", "--", "true")
    recorded.story = lambda r, task_id: r.run(task_id, {"web02": Outcome.SUCCESS})
    ended = cli("rerun", "last", "--outcome", "unreached,lost")
    assert ended.code == 0, ended.err
    rerun = next(request for request in recorded.requests if request[1].endswith("/rerun"))
    assert rerun[2] == {"outcomes": ["unreached", "lost"]}
