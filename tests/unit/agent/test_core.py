"""The agent's core, by what it does and says."""

from __future__ import annotations

import pytest

from fleetlog_agent import messages as m
from fleetlog_agent.core_settings import SENDING_GRACE_MS
from fleetlog_agent.journal_records import Key, compacted, replay
from fleetlog_runtime.pure.settings import AgentSettings, DispatcherSettings
from fleetlog_runtime.pure.signing import Signer
from fleetlog_schemas import pushes, wire
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.reports import FarReported, HeldState, ReportFacts, ReportStarted
from fleetlog_testing.agent_rig import HOST, SERVER_MS, TASK, Rig, ends, of, reported, start_of

KEY = Key(TASK, 1)


@pytest.fixture
def rig() -> Rig:
    """A host with an open session."""
    host = Rig()
    host.connect()
    return host


def test_a_session_is_asked_for_with_what_the_journal_holds_and_opens_with_a_heartbeat() -> None:
    host = Rig()
    effects = host.connect()
    assert of(effects, m.AskSession)[0].request.ticket == ""
    assert of(effects, m.SendHeartbeat)[0].heartbeat.epoch == 1
    assert host.core.state.session is not None
    assert host.core.state.session.ticket == "ticket-1"


def test_the_ticket_is_on_disk_before_the_session_counts() -> None:
    host = Rig()
    host.auto = False
    host.connect()
    nonce = of(host.effects, m.AskSession)[0].request.nonce
    host.grant(nonce)
    assert of(host.step(), m.SendHeartbeat) == []
    host.write()
    assert len(of(host.step(), m.SendHeartbeat)) == 1


def test_without_an_answer_the_same_request_is_repeated_with_the_same_nonce_and_growing_pauses() -> None:
    host = Rig()
    host.auto = False
    host.connect()
    host.advance(120_000)
    asks = of(host.effects, m.AskSession)
    assert len({ask.request.nonce for ask in asks}) == 1
    assert 5 <= len(asks) <= 25


def test_a_refused_host_raises_one_alarm_and_asks_again_later_with_a_new_nonce() -> None:
    host = Rig()
    host.auto = False
    host.connect()
    nonce = of(host.effects, m.AskSession)[0].request.nonce
    denied = pushes.SessionDenied(host_id=HOST, nonce=nonce, code="ticket", message="a copied key?", retry=False)
    host.core.observe(m.SessionAnswered(host.sign(denied)), host.now_ms)
    assert "copied key" in of(host.step(), m.Alarm)[0].text
    host.advance(61_000)
    assert of(host.effects, m.AskSession)[-1].request.nonce != nonce


def test_an_attempt_is_on_disk_before_it_is_started_or_spoken_of(rig: Rig) -> None:
    rig.auto = False
    effects = rig.start(start_of())
    assert of(effects, m.Spawn) == []
    assert len(of(effects, m.WriteJournal)) == 1
    rig.advance(15_000)
    assert all(beat.heartbeat.held == () for beat in of(rig.effects, m.SendHeartbeat))
    rig.write()
    assert of(rig.step(), m.Spawn) == [m.Spawn(KEY, start_of(), 0)]


def test_a_command_runs_and_its_end_is_reported_with_its_token(rig: Rig) -> None:
    rig.start(start_of())
    rig.exit(KEY)
    end, = ends(rig.step())
    assert (end.outcome, end.ran, end.exit_code, end.token) == (Outcome.SUCCESS, Ran.YES, 0, start_of().token)
    assert end.ended_ms == SERVER_MS + rig.now_ms


@pytest.mark.parametrize(
    ("exit_code", "signal", "accepted", "outcome"),
    [(0, None, (0,), "success"), (1, None, (0,), "failure"), (3, None, (0, 3), "success"), (None, 9, (0,), "failure")],
)
def test_the_outcome_follows_from_the_exit(
    rig: Rig, exit_code: int | None, signal: int | None, accepted: tuple[int, ...], outcome: str
) -> None:
    rig.start(start_of(exit_codes=accepted))
    rig.exit(KEY, exit_code, signal)
    assert ends(rig.step())[0].outcome == outcome


def test_a_start_that_is_repeated_changes_nothing(rig: Rig) -> None:
    rig.start(start_of())
    rig.start(start_of())
    rig.exit(KEY)
    rig.step()
    rig.start(start_of())
    assert rig.executed == {KEY: 1}


def test_the_second_attempt_waits_until_the_first_is_settled(rig: Rig) -> None:
    rig.start(start_of())
    assert of(rig.start(start_of(attempt=2)), m.Spawn) == []
    rig.exit(KEY)
    assert of(rig.step(), m.Spawn)[0].key == Key(TASK, 2)


def test_having_seen_a_later_attempt_an_earlier_one_is_refused_and_never_starts(rig: Rig) -> None:
    rig.start(start_of(attempt=2))
    effects = rig.start(start_of(attempt=1))
    assert [(end.attempt, end.outcome, end.ran) for end in ends(effects)] == [(1, Outcome.UNREACHED, Ran.NO)]
    assert KEY not in rig.executed


@pytest.mark.parametrize(("reason", "outcome"), [("cancelled", "cancelled"), ("timeout", "unreached"), ("undelivered", "unreached")])
def test_a_cancel_of_something_not_here_leaves_a_tombstone_that_answers_a_late_start(
    rig: Rig, reason: str, outcome: str
) -> None:
    effects = rig.cancel(reason=reason)
    assert [(end.outcome, end.ran, end.token) for end in ends(effects)] == [(outcome, Ran.NO, "t")]
    effects = rig.start(start_of())
    assert of(effects, m.Spawn) == []
    assert ends(effects)[0].outcome == outcome


def test_a_cancel_terminates_then_kills_and_the_end_says_cancelled(rig: Rig) -> None:
    rig.start(start_of())
    assert of(rig.cancel(), m.Terminate) == [m.Terminate(KEY)]
    assert of(rig.advance(9_000), m.Kill) == []
    assert m.Kill(KEY) in rig.advance(1_500)
    rig.exit(KEY, None, 9)
    assert ends(rig.step())[0].outcome == Outcome.CANCELLED


def test_a_command_past_its_timeout_is_ended_also_offline(rig: Rig) -> None:
    rig.start(start_of(timeout_ms=5_000))
    rig.core.observe(m.Connected(connected=False), rig.now_ms)
    effects = rig.advance(5_000)
    assert of(effects, m.Terminate) == [m.Terminate(KEY)]
    rig.exit(KEY, None, 15)
    assert ends(rig.step()) == []
    assert ends(rig.connect())[0].outcome == Outcome.TIMEOUT


@pytest.mark.parametrize("why", ["cancelled", "timeout"])
def test_a_build_whose_artifacts_were_not_sent_has_not_succeeded(rig: Rig, why: str) -> None:
    rig.start(start_of())
    rig.core.observe(m.ProcessGone(KEY), rig.now_ms)
    rig.core.observe(m.Exited(KEY, exit_code=0, duration_ms=5, unsent=why, note="while its artifacts were sent"), rig.now_ms)
    end, = ends(rig.step())
    assert (end.outcome, end.exit_code, end.error) == (why, 0, "while its artifacts were sent")


def test_artifacts_are_sent_until_a_cancel_or_a_while_after_the_time_limit(rig: Rig) -> None:
    rig.start(start_of(timeout_ms=5_000))
    began_ms = rig.now_ms
    rig.core.observe(m.ProcessGone(KEY), rig.now_ms)
    over_ms = began_ms + 5_000 + 10_000 + SENDING_GRACE_MS
    assert not rig.core.attempts.no_more_of(KEY, began_ms, over_ms - 1)
    assert rig.core.attempts.no_more_of(KEY, began_ms, over_ms) == "timeout"
    assert of(rig.cancel(), m.Terminate) == [], "there is no process any more"
    assert rig.core.attempts.no_more_of(KEY, began_ms, began_ms + 1) == "cancelled"
    assert not rig.core.attempts.was_stopped(KEY, began_ms + 1)


def test_how_far_artifacts_are_is_told_of_what_lasted(rig: Rig) -> None:
    rig.start(start_of())
    rig.advance(3_000)
    rig.core.observe(m.ProcessGone(KEY), rig.now_ms)
    rig.effects.clear()
    rig.core.observe(m.Progressed(KEY, FarReported(1, 4, "bytes of app sent")), rig.now_ms)
    rig.step()
    rig.advance(2_000)
    told = [one.progress for one in reported(rig.effects) if isinstance(one, ReportStarted)]
    assert told == [FarReported(1, 4, "bytes of app sent")], "and once"


def test_sending_ends_before_a_dispatcher_takes_the_attempt_for_lost() -> None:
    agent, dispatcher = AgentSettings(), DispatcherSettings()
    waits_ms = dispatcher.kill_grace_ms + dispatcher.end_grace_ms
    assert agent.kill_grace_ms + SENDING_GRACE_MS <= waits_ms - 5_000, "there is time for the report"


def test_a_cancel_after_the_time_limit_ends_the_sending_too(rig: Rig) -> None:
    rig.start(start_of(timeout_ms=5_000))
    rig.advance(5_000)
    rig.core.observe(m.ProcessGone(KEY), rig.now_ms)
    assert rig.core.attempts.was_stopped(KEY, rig.now_ms)
    rig.cancel()
    assert rig.core.attempts.no_more_of(KEY, rig.now_ms, rig.now_ms) == "timeout"


def test_what_ended_by_itself_before_its_agent_could_stop_it_is_said_as_it_ended(rig: Rig) -> None:
    rig.start(start_of(timeout_ms=5_000))
    ended_ms = rig.now_ms + 6_000
    rig.now_ms += 9_000  # the agent stood still meanwhile
    assert of(rig.step(), m.Terminate) == [m.Terminate(KEY)]
    rig.core.observe(m.Exited(KEY, exit_code=0, duration_ms=6_000, ended_ms=ended_ms), rig.now_ms)
    assert ends(rig.step())[0].outcome == Outcome.SUCCESS


def test_a_process_that_leaves_well_when_it_is_told_to_end_was_stopped(rig: Rig) -> None:
    rig.start(start_of(timeout_ms=5_000))
    rig.advance(5_000)
    rig.core.observe(m.Exited(KEY, exit_code=0, duration_ms=5_000, ended_ms=rig.now_ms), rig.now_ms)
    assert ends(rig.step())[0].outcome == Outcome.TIMEOUT


def test_an_agent_that_restarts_while_it_ends_something_still_says_why(rig: Rig) -> None:
    rig.start(start_of(timeout_ms=5_000))
    rig.advance(5_000)
    rig.crash()
    rig.processes[KEY] = "busy"
    rig.core.step(rig.now_ms)
    rig.core.observe(m.Exited(KEY, signal=15, duration_ms=5_100), rig.now_ms)
    assert ends(rig.connect())[0].outcome == Outcome.TIMEOUT


def test_started_is_reported_only_of_what_lasts(rig: Rig) -> None:
    rig.start(start_of())
    assert [item for item in reported(rig.advance(199)) if isinstance(item, ReportStarted)] == []
    started, = [item for item in reported(rig.advance(2)) if isinstance(item, ReportStarted)]
    assert started.started_ms == SERVER_MS + rig.now_ms - 201


def test_an_end_is_reported_every_thirty_seconds_until_it_is_told_to_be_forgotten(rig: Rig) -> None:
    rig.start(start_of())
    rig.exit(KEY)
    rig.step()
    assert len(ends(rig.advance(65_000))) == 2
    rig.forget()
    assert ends(rig.advance(65_000)) == []
    assert rig.core.state.entries == {}


def test_a_report_that_is_not_confirmed_is_sent_again_byte_for_byte(rig: Rig) -> None:
    rig.start(start_of())
    rig.exit(KEY)
    rig.auto = False
    rig.step()
    rig.write()
    rig.advance(20_000)
    sent = of(rig.effects, m.SendReport)
    assert len(sent) >= 3
    assert len({report.body for report in sent}) == 1


def test_a_running_attempt_is_never_forgotten(rig: Rig) -> None:
    rig.start(start_of())
    effects = rig.forget()
    assert KEY in rig.core.state.entries
    assert "has not ended" in of(effects, m.Alarm)[0].text


def test_what_the_hosts_policy_forbids_ends_as_an_error_that_says_so() -> None:
    host = Rig(refuses=lambda start: "policy forbids true" if start.payload.argv == ("true",) else "")
    host.connect()
    end, = ends(host.start(start_of()))
    assert (end.outcome, end.ran, end.error) == (Outcome.ERROR, Ran.NO, "policy forbids true")


def test_above_held_max_a_start_is_refused_as_never_started_and_stays_refused() -> None:
    host = Rig(settings=AgentSettings(held_max=1))
    host.connect()
    host.start(start_of())
    other = TASK[:-1] + "2"
    assert ends(host.start(start_of(other)))[0].outcome == Outcome.UNREACHED
    host.exit(KEY)
    host.step()
    host.forget()
    host.start(start_of(other))
    assert Key(other, 1) not in host.executed


def test_a_full_spool_refuses_starts_and_is_said_in_heartbeats(rig: Rig) -> None:
    rig.core.observe(m.SpoolFull(full=True), rig.now_ms)
    assert ends(rig.start(start_of()))[0].ran == Ran.NO
    assert of(rig.advance(12_000), m.SendHeartbeat)[-1].heartbeat.spool_full


@pytest.mark.parametrize(
    "changes", [{"epoch": 0}, {"expires_ms": SERVER_MS + 999_999}, {"seq": 3}, {"host_id": "h2"}], ids=str
)
def test_a_push_of_another_session_time_or_host_is_ignored(rig: Rig, changes: dict[str, object]) -> None:
    assert of(rig.start(start_of(), **changes), m.WriteJournal) == []


def test_a_push_decided_before_one_that_was_obeyed_is_ignored(rig: Rig) -> None:
    late = rig.push(pushes.StartPush, [start_of()])
    rig.forget()
    rig.core.observe(m.Push(late), rig.now_ms)
    rig.step()
    assert rig.executed == {}


def test_a_push_that_nobody_we_trust_signed_is_ignored_with_an_alarm(rig: Rig) -> None:
    push = pushes.StartPush(
        host_id=HOST, epoch=1, expires_ms=SERVER_MS + rig.now_ms + 9_999, seq=99, attempts=(start_of(),)
    )
    forged = wire.encode(Signer(bytes(32)).sign(wire.encode(push)))
    for body in (forged, b"", b"\xff" * 100, wire.encode(push)):
        rig.core.observe(m.Push(body), rig.now_ms)
    assert len(of(rig.step(), m.Alarm)) >= 2
    assert rig.executed == {}


def test_after_a_gap_buffered_pushes_are_dropped_and_a_heartbeat_comes_first(rig: Rig) -> None:
    rig.advance(1_000)
    buffered = rig.push(pushes.StartPush, [start_of()], expires_ms=SERVER_MS + rig.now_ms + 10_000_000)
    rig.now_ms += 3_600_000
    rig.core.observe(m.Push(buffered), rig.now_ms)
    effects = rig.step()
    assert isinstance(effects[0], m.SendHeartbeat)
    assert rig.executed == {}


def test_the_request_for_a_session_waits_for_what_is_on_its_way_to_disk(rig: Rig) -> None:
    rig.auto = False
    rig.start(start_of())
    rig.core.observe(m.Connected(connected=False), rig.now_ms)
    rig.core.observe(m.Connected(connected=True), rig.now_ms)
    assert of(rig.step(), m.AskSession) == []
    rig.write()
    ask, = of(rig.step(), m.AskSession)
    assert [(held.task_id, held.state) for held in ask.request.held] == [(TASK, HeldState.ACCEPTED)]


def test_what_was_accepted_starts_in_the_next_session_unless_its_push_expired_meanwhile(rig: Rig) -> None:
    rig.auto = False
    rig.start(start_of(), start_of(TASK[:-1] + "2"), expires_ms=SERVER_MS + rig.now_ms + 4_000)
    rig.core.observe(m.Connected(connected=False), rig.now_ms)
    rig.write()
    rig.auto = True
    assert of(rig.step(), m.Spawn) == []
    rig.now_ms += 5_000
    effects = rig.connect()
    assert of(effects, m.Spawn) == []
    assert {end.outcome for end in ends(effects)} == {Outcome.UNREACHED}


def test_after_a_restart_everything_open_is_asked_for_before_anything_else(rig: Rig) -> None:
    other = TASK[:-1] + "2"
    rig.start(start_of(), start_of(other))
    rig.processes[Key(other, 1)] = "lost"
    rig.crash()
    effects = rig.connect()
    assert {adopt.key for adopt in of(effects, m.Adopt)} == {KEY, Key(other, 1)}
    assert [(end.task_id, end.outcome, end.ran) for end in ends(effects)] == [(other, Outcome.LOST, Ran.UNKNOWN)]
    rig.exit(KEY)
    assert ends(rig.step())[0].outcome == Outcome.SUCCESS
    assert rig.executed[KEY] == 1


def test_an_end_that_was_journaled_and_not_reported_is_reported_after_a_restart(rig: Rig) -> None:
    rig.start(start_of())
    rig.core.observe(m.Connected(connected=False), rig.now_ms)
    rig.exit(KEY)
    rig.step()
    rig.crash()
    assert ends(rig.connect())[0].outcome == Outcome.SUCCESS


def test_a_rebooted_machine_starts_nothing_that_it_had_only_accepted(rig: Rig) -> None:
    rig.auto = False
    rig.start(start_of())
    rig.write()
    rig.boot, rig.auto, rig.now_ms = "boot-2", True, 5_000
    rig.crash()
    effects = rig.connect()
    assert ends(effects)[0].outcome == Outcome.UNREACHED
    assert rig.executed == {}


def test_the_counter_rises_with_every_commit_and_survives(rig: Rig) -> None:
    before = rig.core.state.counter
    rig.start(start_of())
    assert rig.core.state.counter > before
    counter = rig.core.state.counter
    rig.crash()
    assert of(rig.connect(), m.AskSession)[0].request.counter == counter


def test_what_runs_without_a_session_write_does_not_raise_the_counter_that_is_shown(rig: Rig) -> None:
    rig.start(start_of())
    shown = rig.core.state.counter
    for boot in ("boot-2", "boot-3"):
        # Each run finds that its processes are gone, writes that down, and is restarted before anybody answers it.
        rig.boot, rig.now_ms = boot, 5_000
        rig.processes.clear()
        rig.crash()
        rig.step()
    assert rig.core.state.counter > shown
    rig.disk = [compacted(replay(rig.disk))]
    rig.crash()
    assert of(rig.connect(), m.AskSession)[0].request.counter == shown


def test_the_counter_that_is_shown_is_never_below_one_that_was_reported(rig: Rig) -> None:
    rig.start(start_of())
    for boot in ("boot-2", "boot-3"):
        # The run finds its process gone, writes that down, gets a session, reports, and is killed before anything else.
        rig.boot, rig.now_ms = boot, 5_000
        rig.processes.clear()
        rig.crash()
        rig.step()
        effects = rig.connect()
        said = [effect.report.counter for effect in of(effects, m.SendReport)]
        assert said, "it has something to report"
        rig.crash()
        assert of(rig.connect(), m.AskSession)[0].request.counter >= max(said)


def test_heartbeats_come_every_ten_seconds(rig: Rig) -> None:
    assert 9 <= len(of(rig.advance(100_000), m.SendHeartbeat)) <= 12


def test_a_heartbeat_follows_a_change_that_no_report_tells_within_a_second(rig: Rig) -> None:
    rig.start(start_of())
    assert of(rig.advance(1_000), m.SendHeartbeat) == []
    rig.start(start_of(attempt=2))
    beat = of(rig.advance(1_000), m.SendHeartbeat)[0].heartbeat
    assert [held.state for held in beat.held] == [HeldState.RUNNING, HeldState.ACCEPTED]


def test_many_ends_share_reports_and_each_fits_the_limit(rig: Rig) -> None:
    task_ids = [f"{TASK[:-4]}{number:04x}" for number in range(900)]
    for first in range(0, 900, 100):
        rig.start(*(start_of(task_id) for task_id in task_ids[first : first + 100]))
    for task_id in task_ids:
        rig.core.observe(m.Exited(Key(task_id, 1), exit_code=1, tail="x" * 5_000), rig.now_ms)
    sent = of(rig.step(), m.SendReport)
    assert len(ends(list(sent))) == 900
    assert 7 <= len(sent) <= 16
    assert all(len(one.body) <= 256 * 1024 for one in sent)


def test_facts_are_reported_when_they_change_and_at_most_hourly(rig: Rig) -> None:
    rig.core.observe(m.FactsMeasured({"os": "linux"}), rig.now_ms)
    assert [i for i in reported(rig.step()) if isinstance(i, ReportFacts)] == [ReportFacts({"os": "linux"})]
    rig.core.observe(m.FactsMeasured({"os": "plan9"}), rig.now_ms)
    assert reported(rig.advance(3_000_000)) == []
    assert len(reported(rig.advance(700_000))) == 1


def test_a_stopped_agent_says_goodbye_refuses_new_work_and_leaves_commands_running(rig: Rig) -> None:
    rig.start(start_of())
    rig.core.observe(m.Stop(), rig.now_ms)
    effects = rig.step()
    assert of(effects, m.SendHeartbeat)[-1].heartbeat.goodbye
    assert isinstance(effects[-1], m.Stopped)
    assert of(effects, m.Terminate) == []


def test_stopping_waits_for_the_journal_and_for_reports_but_not_for_ever(rig: Rig) -> None:
    rig.start(start_of())
    rig.exit(KEY)
    rig.auto = False
    rig.core.observe(m.Stop(), rig.now_ms)
    assert of(rig.step(), m.Stopped) == []
    rig.write()
    assert of(rig.step(), m.Stopped) == []
    assert len(of(rig.advance(5_000), m.Stopped)) == 1


def test_slots_are_shared_out_so_that_no_two_running_attempts_have_one(rig: Rig) -> None:
    two, three = TASK[:-1] + "2", TASK[:-1] + "3"
    rig.start(start_of(), start_of(two))
    rig.exit(KEY)
    rig.step()
    rig.start(start_of(three))
    assert {key.task_id: entry.slot for key, entry in rig.core.state.entries.items()} == {TASK: 0, two: 1, three: 0}


def test_a_compacted_journal_folds_to_the_same_attempts(rig: Rig) -> None:
    rig.start(start_of(), start_of(TASK[:-1] + "2"), start_of(TASK[:-1] + "3"))
    rig.exit(KEY)
    rig.step()
    rig.cancel(TASK[:-1] + "3")
    again = replay([compacted(rig.core.state)])
    assert (again.counter, again.session, again.attempts) == (
        rig.core.state.counter, rig.core.state.session, rig.core.state.attempts,
    )
    assert [(held.task_id, held.state) for held in again.held()] == [
        (held.task_id, held.state) for held in rig.core.state.held()
    ]
