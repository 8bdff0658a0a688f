"""Steering tasks and narrowing admission from the command line: what is sent, what is said, what to type next."""

from __future__ import annotations

import json

import pytest

from fleetlog import values
from fleetlog_schemas import control_events, events, policy_events
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Rollout, Shell, TaskSpec
from fleetlog_testing.history import make_id

FREEZE = {
    "freeze_id": "01a213c9-29c9-72e0-84ff-a79c85eed582", "target": "all", "reason": "incident 4711", "by": "ann",
    "since": "2026-11-22T10:02:00.000Z", "hosts": 5,
}
WINDOW = {
    "name": "nights", "kind": "blackout", "target": "env=prod", "days": [0, 1, 2, 3, 4, 6], "begins": "02:00",
    "lasts_minutes": 120, "zone": "Europe/Berlin", "reason": "backups", "by": "ann", "hosts": 3, "open": True,
    "open_until": "2026-11-22T03:00:00.000Z", "opens_at": "2026-11-23T01:00:00.000Z",
}
FROZEN = "1; id=x; target=all; by=ann; since=2026-11-22T10:02:00.000Z; reason=incident%204711"


def open_task(recorded, names=("web01", "web02"), **fields):
    """Put one planned and dispatched task into the history and return its id."""
    task_id = make_id(recorded.history.now_ms)
    recorded.story = lambda r, submitted: (r.plan(submitted, list(names)), r.dispatch(submitted, list(names)))[1]
    recorded.submit(task_id, TaskSpec(payload=Shell(argv=("sleep", "60")), target="web*", **fields))
    return task_id


def last_change(recorded):
    """Return method, path and body of the last request that changes something."""
    return next(one for one in reversed(recorded.requests) if one[0] != "GET")


@pytest.mark.parametrize(
    ("arguments", "what", "body", "says"),
    [
        (["pause", "--reason", "lunch"], "pause", {"reason": "lunch"}, "go on: fleetlog resume {id}"),
        (["resume"], "resume", {"reason": ""}, "follow: fleetlog watch {id}"),
        (["abort"], "abort", {"reason": ""}, "end that too: fleetlog cancel {id}"),
        (["approve"], "approve", {"wave": 0, "reason": ""}, "waves up to 2 may begin"),
        (["approve", "--wave", "3"], "approve", {"wave": 3, "reason": ""}, "waves up to 3 may begin"),
        (["skip", "--host", "web[01-02],db1"], "skip", {"hosts": ["web01", "web02", "db1"], "reason": ""}, "3 hosts"),
    ],
)
def test_a_task_is_steered_by_one_request_and_the_next_step_is_said(cli, recorded, arguments, what, body, says):
    task_id = open_task(recorded)
    verb, *options = arguments

    ended = cli(verb, task_id[-8:], *options)

    assert ended.code == 0, ended.err
    assert last_change(recorded) == ("POST", f"/api/v1/tasks/{task_id[-8:]}/{what}", body)
    assert says.format(id=task_id[-8:]) in ended.err
    assert json.loads(cli(verb, task_id, *options, "-o", "json").out)["task_id"] == task_id


def test_what_cannot_be_is_a_conflict_with_the_gateways_words(cli, recorded):
    task_id = open_task(recorded)
    recorded.problems[f"/api/v1/tasks/{task_id}/resume"] = (409, {"detail": "the task is not on hold", "code": "not-on-hold"})
    ended = cli("resume", task_id)
    assert ended.code == 6
    assert "the task is not on hold" in ended.err
    assert cli("skip", task_id).code == 2  # nobody is skipped by default


def test_a_request_that_nobody_could_check_says_so(cli, recorded):
    task_id = open_task(recorded)
    answer = {"task_id": task_id, "seq": 1, "checked": False}
    recorded.problems[f"/api/v1/tasks/{task_id}/pause"] = (202, answer)
    assert "was not checked" in cli("pause", task_id).err


# --- cancel ----------------------------------------------------------------------------------------------


def test_a_cancel_prints_the_proof_of_each_host(cli, recorded):
    open_task(recorded)

    ended = cli("cancel", "last")

    assert ended.code == 0, ended.err
    proofs = [line for line in ended.err.splitlines() if "confirmed by the host: cancelled" in line]
    assert [line.split()[1] for line in proofs] == ["web01", "web02"]
    assert "2 cancelled" in ended.err.splitlines()[-1]


def test_a_cancel_does_not_wait_for_a_host_that_cannot_be_reached(cli, recorded, monkeypatch):
    monkeypatch.setattr("fleetlog.verbs.control.PRESENCE_AFTER_S", 0.1)
    recorded.offline = {"web02"}
    task_id = open_task(recorded)

    ended = cli("cancel", "last")

    assert ended.code == 9, ended.err
    assert "web01  confirmed by the host: cancelled" in ended.err
    assert "web02  cannot be reached: it will be told when it returns" in ended.err
    assert ended.err.splitlines()[-1].endswith(f"fleetlog watch {task_id[-8:]}")


def test_a_cancel_waits_for_a_host_that_is_only_slow(cli, recorded, monkeypatch):
    monkeypatch.setattr("fleetlog.verbs.control.PRESENCE_AFTER_S", 0.0)
    monkeypatch.setattr("fleetlog.verbs.control.PRESENCE_EVERY_S", 0.0)
    open_task(recorded)
    recorded.offline = {"web02"}  # it does not confirm, ...
    monkeypatch.setattr(type(recorded), "_get_hosts", lambda *_: (200, {"items": [{"host_id": "hweb02"}], "next_cursor": None}))
    assert cli("cancel", "last", "--wait-timeout", "700ms").code == 7  # ... and it is online


def test_everything_is_cancelled_only_after_the_count_is_typed_or_with_yes(cli, recorded):
    first, second = open_task(recorded), open_task(recorded)

    asked = cli("cancel", "--all", "--reason", "wrong fleet")
    assert asked.code == 2
    assert "this stops 2 open tasks" in asked.err
    assert "--yes" in asked.err
    assert not recorded.history.tasks.by_id[first].stop

    assert cli("cancel", "--all", "--yes", "--reason", "wrong fleet").code == 0
    assert last_change(recorded) == ("POST", "/api/v1/tasks/cancel-all", {"reason": "wrong fleet"})
    assert {recorded.history.tasks.by_id[one].stop for one in (first, second)} == {"cancelled"}


def test_cancel_wants_to_know_what(cli, recorded):
    assert cli("cancel").code == 2
    assert cli("cancel", "last", "--all").code == 2
    assert cli("cancel", "--all", "--host", "web01").code == 2
    assert "no task is open" in cli("cancel", "--all").err
    assert not [one for one in recorded.requests if one[0] == "POST"]


# --- freezes ---------------------------------------------------------------------------------------------


def test_a_freeze_needs_a_reason_and_warns_when_it_means_no_host(cli, recorded):
    assert cli("freeze").code == 2
    assert cli("freeze", "--reason", " ").code == 2
    ended = cli("freeze", "-t", "wbe*", "--reason", "disks")
    assert ended.code == 0
    assert last_change(recorded)[2] == {"target": "wbe*", "reason": "disks"}
    assert "no host now: is it written as you mean it?" in ended.err
    assert "fleetlog thaw " in ended.err
    assert "idempotency-key" in recorded.headers[-1]


def test_thaw_takes_the_only_freeze_or_the_one_that_is_named(cli, recorded):
    assert "nothing is frozen" in cli("thaw").err
    recorded.freezes = [FREEZE]
    ended = cli("thaw", "--reason", "solved")
    assert ended.code == 0
    assert last_change(recorded) == ("POST", f"/api/v1/freezes/{FREEZE['freeze_id']}/thaw", {"reason": "solved"})
    assert "thawed: all hosts, by ann" in ended.err
    recorded.freezes = [FREEZE, {**FREEZE, "freeze_id": "01a213c9-29c9-72e0-84ff-a79c85eed999", "target": "web*"}]
    several = cli("thaw")
    assert several.code == 2
    assert "a79c85eed999"[-8:] in several.out
    assert "name one, or all" in several.err
    assert cli("thaw", "85eed999").code == 0
    assert last_change(recorded)[1] == "/api/v1/freezes/85eed999/thaw"
    recorded.requests.clear()
    assert cli("thaw", "--all").code == 0
    assert len([one for one in recorded.requests if one[0] == "POST"]) == 2
    assert cli("thaw", "x", "--all").code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["exec", "-t", "web*", "--", "true"], ["exec", "-t", "web*", "--detach", "--yes", "--", "true"], ["ls"],
        ["show", "last"], ["watch", "last"], ["why", "last"], ["rerun", "last", "--detach"], ["host", "ls"], ["doctor"],
        ["ls", "-o", "json"],
    ],
)
def test_every_screen_says_once_when_something_is_frozen(cli, recorded, arguments):
    cli("exec", "-t", "web*", "--", "true")
    recorded.frozen = FROZEN

    ended = cli(*arguments)

    line = "frozen: all hosts, by ann since 2026-11-22 10:02:00Z: incident 4711   (fleetlog thaw)"
    assert [one for one in ended.err.splitlines() if one.startswith("frozen")] == [line]
    assert "frozen" not in ended.out


def test_several_freezes_are_counted_and_what_strangers_wrote_is_washed(cli, recorded):
    recorded.frozen = "3; id=x; target=web%2A; by=; since=2026-11-22T10:02:00.000Z; reason=a%1B%5B2Jb%0Ac"
    err = cli("ls").err
    assert err == "frozen: web*, since 2026-11-22 10:02:00Z: ab c; 3 freezes in all   (fleetlog thaw)\n"


def test_a_file_of_the_fleet_is_not_asked_when_nothing_is_frozen(cli):
    assert cli("ls").err == ""


# --- windows, queues, admission --------------------------------------------------------------------------


def test_a_window_is_set_as_it_is_spoken(cli, recorded):
    ended = cli(
        "window", "set", "nights", "-t", "env=prod", "--blackout", "--days", "mon-fri,sun", "--at", "02:00", "--for", "2h",
        "--zone", "Europe/Berlin", "--reason", "backups",
    )
    assert ended.code == 0, ended.err
    assert last_change(recorded) == (
        "PUT", "/api/v1/windows/nights",
        {"kind": "blackout", "target": "env=prod", "days": [0, 1, 2, 3, 4, 6], "begins": "02:00", "lasts_minutes": 120,
         "zone": "Europe/Berlin", "reason": "backups"},
    )
    assert "3 hosts now; mon-fri,sun 02:00 for 2h00m Europe/Berlin; nothing starts inside it" in ended.err
    assert cli("window", "rm", "nights", "--reason", "done").code == 0
    assert last_change(recorded)[:2] == ("DELETE", "/api/v1/windows/nights?reason=done")
    recorded.windows = [WINDOW]
    shown = cli("window", "ls").out
    assert "open until 2026-11-22 03:00:00Z" in shown
    assert "mon-fri,sun 02:00 for 2h00m Europe/Berlin" in shown


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--for", "90s"], "--for: a window lasts whole minutes"), (["--days", "someday"], "write mon-fri,sun or daily"),
        (["--blackout", "--maintenance"], "not allowed with"),
    ],
)
def test_a_window_that_is_typed_wrong_is_never_sent(cli, recorded, change, says):
    ended = cli("window", "set", "n", "-t", "all", "--blackout", "--days", "daily", "--at", "02:00", "--for", "1h", *change)
    assert ended.code == 2
    assert says in ended.err
    assert not [one for one in recorded.requests if one[0] == "PUT"]


def test_a_field_of_a_window_is_named_as_it_was_typed(cli, recorded):
    recorded.problems["/api/v1/windows/n"] = (
        422, {"detail": "HH:MM, not '9'", "code": "invalid", "errors": [{"pointer": "/begins", "message": "HH:MM, not '9'"}]},
    )
    ended = cli("window", "set", "n", "-t", "all", "--maintenance", "--days", "daily", "--at", "9", "--for", "1h")
    assert ended.code == 2
    assert "--at: HH:MM" in ended.err


@pytest.mark.parametrize(
    ("text", "days"),
    [("daily", (0, 1, 2, 3, 4, 5, 6)), ("mon-fri,sun", (0, 1, 2, 3, 4, 6)), ("sat-mon", (0, 5, 6)), ("Tue", (1,))],
)
def test_days_are_read(text, days):
    assert values.week_days(text) == days


def test_queues_are_limited_and_listed(cli, recorded):
    assert cli("queue", "limit", "db/slow", "4", "--reason", "disks").code == 0
    assert last_change(recorded) == ("PUT", "/api/v1/queues/db%2Fslow", {"in_flight_max": 4, "reason": "disks"})
    assert "no limit any more" in cli("queue", "limit", "slow", "0").err
    recorded.queues = [{"queue": "slow", "in_flight_max": 4, "in_flight": 3, "waiting": 9}]
    assert cli("queue", "ls").out.splitlines()[1].split() == ["slow", "4", "3", "9"]
    recorded.queues = [{"queue": "slow", "in_flight_max": 4, "in_flight": None, "waiting": None}]
    assert "the dispatcher does not answer" in cli("queue", "ls").err


def test_admission_shows_everything_that_narrows_it(cli, recorded):
    recorded.freezes, recorded.windows = [FREEZE], [WINDOW]
    recorded.queues = [{"queue": "slow", "in_flight_max": 4, "in_flight": 3, "waiting": 9}]
    out = cli("admission").out
    assert out.startswith("12 commands in flight of 1000, 30 waiting\n")
    for word in ("incident 4711", "nights", "slow", "1 of 1 slots (usually 4)", "load 9 on 2 cores"):
        assert word in out
    assert json.loads(cli("admission", "-o", "json").out)["waiting"] == 30


def test_admission_without_the_dispatcher_is_what_is_in_force(cli, recorded):
    recorded.freezes = [FREEZE]
    recorded.problems["/api/v1/admission"] = (503, {"detail": "no dispatcher", "code": "service-unavailable"})
    ended = cli("admission")
    assert ended.code == 8
    assert "incident 4711" in ended.out
    assert "the dispatcher does not answer" in ended.err


# --- following a rollout ---------------------------------------------------------------------------------

ROLLOUT = Rollout(waves=("1", "50%"), approve=(3,))
OPTIONS = ("--waves", "1,50%", "--approve", "3")
NAMES = ["web01", "web02", "web03", "web04"]


def test_a_halt_is_explained_while_following_goes_on(cli, recorded):
    def story(r, task_id):
        r.plan(task_id, NAMES, waves=(1, 1, 2))
        r.dispatch(task_id, ["web01"])
        r.end(task_id, "web01", Outcome.FAILURE, exit_code=1)
        r.add(events.TasksHalted(halts=(events.Halt(task_id, 1, 0, 1),)))
        r.add(control_events.ResumeRequested(task_id=task_id), authid="ann")
        r.dispatch(task_id, ["web02"])
        r.end(task_id, "web02", Outcome.SUCCESS)
        r.add(control_events.TaskApproved(task_id=task_id, wave=3), authid="ann")
        r.dispatch(task_id, ["web03", "web04"])
        for name in ("web03", "web04"):
            r.end(task_id, name, Outcome.SUCCESS)
        r.finish(task_id)

    recorded.story = story

    ended = cli("exec", "-t", "web*", *OPTIONS, "--", "true")

    assert ended.code == 3, ended.err
    short = next(iter(recorded.history.tasks.by_id))[-8:]
    lines = ended.err.splitlines()
    at = lines.index("halted: 1 host ended badly, in wave 1 of 3; at most 0 may")
    assert lines[at + 1 : at + 6] == [
        "  next: wave 2 of 3, 1 host: web02", f"  why:       fleetlog why {short}", f"  go on:     fleetlog resume {short}",
        f"  leave out: fleetlog skip {short} --host NAME", f"  give up:   fleetlog abort {short}",
    ]
    rest = "\n".join(lines[at + 6 :])
    for text in ("resumed: it goes on", "wave 2 of 3 begins: 1 host", "approved: waves up to 3", "wave 3 of 3 begins: 2 hosts"):
        assert text in rest
    assert "wave 1 of 3 begins: 1 host" in "\n".join(lines[:at])


def test_following_a_halted_task_waits_and_a_wave_that_needs_a_person_says_what_to_type(cli, recorded):
    def story(r, task_id):
        r.plan(task_id, NAMES, waves=(1, 1, 2))
        for name in ("web01", "web02"):
            r.dispatch(task_id, [name])
            r.end(task_id, name, Outcome.SUCCESS)

    recorded.story = story

    ended = cli("exec", "-t", "web*", *OPTIONS, "--wait-timeout", "700ms", "--", "true")

    assert ended.code == 7
    short = next(iter(recorded.history.tasks.by_id))[-8:]
    assert ended.err.count("wave 3 of 3 waits for approval; next: wave 3 of 3, 2 hosts: web[03-04]") == 1
    assert f"go on:     fleetlog approve {short}" in ended.err


def test_a_freeze_that_begins_while_a_task_is_followed_is_said(cli, recorded):
    def story(r, task_id):
        r.plan(task_id, ["web01"])
        r.add(policy_events.FleetFrozen(freeze_id="f", target="web*", reason="disks"), authid="ann")
        r.dispatch(task_id, ["web01"])
        r.end(task_id, "web01", Outcome.SUCCESS)
        r.finish(task_id)

    recorded.story = story
    ended = cli("exec", "-t", "web*", "--", "true")
    assert ended.code == 0
    assert "frozen: web*, by ann since" in ended.err


# --- show, why, ls ---------------------------------------------------------------------------------------


def test_show_tells_of_admission_hold_and_waves(cli, recorded):
    task_id = make_id(recorded.history.now_ms)
    recorded.story = lambda r, submitted: (r.plan(submitted, NAMES, waves=(1, 1, 2)), r.dispatch(submitted, ["web01"]))[1]
    recorded.submit(task_id, TaskSpec(
        payload=Shell(argv=("true",)), target="web*", priority=8, queue="slow", key="nightly", rollout=ROLLOUT,
    ))
    recorded.add(control_events.PauseRequested(task_id=task_id, reason="lunch"), authid="ann")

    out = cli("show", task_id).out

    assert "admission priority 8, queue slow, key nightly" in out
    assert "paused by ann since" in out
    assert ": lunch" in out
    assert "when more than 0 hosts fail" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["WAVE", "HOSTS", "OPEN", "STATE", "BEGAN", "ENDED"] in rows
    assert ["3", "2", "2", "waiting", "-", "-"] in rows
    assert cli("replay", task_id).out == out


def test_show_of_a_plain_task_says_nothing_of_waves_and_queues(cli, recorded):
    cli("exec", "-t", "web*", "--", "true")
    out = cli("show", "last").out
    for word in ("WAVE", "admission", "halts", "on hold"):
        assert word not in out


def test_why_says_how_long_running_ones_take_usually_and_what_to_type(cli, recorded):
    task_id = open_task(recorded)
    recorded.add(control_events.PauseRequested(task_id=task_id, reason="lunch"), authid="ann")
    typical = {"commands": 7, "p50_seconds": 1.0, "p95_seconds": 3.1}
    group = {"state": "running", "reason": "running", "message": "it runs", "hosts": "web01", "count": 1,
             "since": "2026-11-22T10:00:00.000Z", "typical": typical}
    recorded.waiting = [group, {**group, "state": "waiting", "reason": "approval", "typical": None}]

    out = cli("why", task_id).out

    assert "paused by ann: lunch" in out
    assert "; runs for " in out
    assert "; p95 of the same is 3.1s" in out
    assert out.count("p95") == 1
    assert "waiting: approval" in out
    for step in ("approve", "resume", "abort", "watch", "cancel"):
        assert f"fleetlog {step} {task_id[-8:]}" in out


def test_why_of_one_host_is_the_history_of_its_waits(cli, recorded):
    task_id = make_id(recorded.history.now_ms)
    recorded.story = lambda r, submitted: r.plan(submitted, ["web01", "web02"])
    recorded.submit(task_id, TaskSpec(payload=Shell(argv=("true",)), target="web*"))
    for reason, message in (("freeze", "frozen by ann"), ("slot", "no slot is free")):
        waiting = events.WaitingFor(reason, message, (events.WaitingCommands(task_id),))
        recorded.add(events.CommandsWaiting(groups=(waiting,)))

    lines = cli("why", task_id, "--host", "web01").out.splitlines()

    assert [line.split()[0] for line in lines[-2:]] == ["freeze", "slot"]
    assert "still" in lines[-1]
    assert "no slot is free" in lines[-1]
    assert cli("why", task_id, "--host", "db1").code == 5


def test_ls_shows_holds_and_admission_where_the_list_has_them(cli):
    from fleetlog.render.lists import tasks_text
    from fleetlog.render.text import Style

    item = {
        "task_id": make_id(), "outcome": None, "state": "planned", "counts": {}, "hosts": 2, "target": "web*", "name": "n",
        "submitted_at": "2026-11-22T10:00:00.000Z", "duration_seconds": None, "summary": "true",
    }
    style = Style(colour=False, unicode=False)
    plain = tasks_text([item, {**item, "priority": 5, "queue": "default", "key": None, "hold": None}], style).splitlines()
    assert plain[1][8:] == plain[2][8:]
    held = tasks_text([{**item, "priority": 8, "queue": "slow", "key": "k", "hold": {"kind": "halted"}}], style)
    assert "planned halted" in held
    assert held.endswith("n  priority 8  queue slow  key k")


def test_a_rerun_names_the_hosts_that_are_gone(cli, recorded):
    cli("exec", "-t", "web*", "--", "true")
    recorded.gone = "web[07-09]"
    assert "left out, for they are gone: web[07-09]" in cli("rerun", "last", "--detach").err
