"""Who is let in, who is there, and who is not."""

from __future__ import annotations

from typing import Any

from fleetlog_runtime.pure.bus import Batch
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import host_events, pushes
from fleetlog_schemas.pushes import SessionDenied, SessionGranted
from fleetlog_schemas.reports import Held, HeldState
from fleetlog_testing.dispatching import KEYS, Stage, shell


def answered(stage: Stage) -> Any:
    """The last answer to a session request."""
    return stage.answers[-1][1]


def test_an_enrolled_host_gets_a_session_a_ticket_and_the_signing_keys() -> None:
    stage = Stage()
    stage.enrolled("web1")
    stage.opens("web1")
    answer = answered(stage)
    assert isinstance(answer, SessionGranted)
    assert (answer.epoch, answer.ticket) == (1, stage.ticket("web1"))
    assert answer.signing_keys == {KEYS.signer.key_id: KEYS.signer.public_key}
    assert not stage.state.hosts.by_id["h-web1"].online


def test_the_first_heartbeat_brings_a_host_online() -> None:
    stage = Stage()
    stage.connected("web1")
    assert stage.state.hosts.by_id["h-web1"].online
    stage.beats("web1")
    assert len(stage.decided(host_events.HostsOnline)) == 1


def test_an_unknown_host_is_denied() -> None:
    stage = Stage()
    stage.opens("nobody", ticket="")
    assert answered(stage).code == "unknown"


def test_the_same_nonce_gets_the_same_answer_and_no_second_session() -> None:
    stage = Stage()
    stage.enrolled("web1")
    stage.opens("web1", nonce="once")
    stage.opens("web1", nonce="once")
    assert len(stage.decided(host_events.SessionsOpened)) == 1
    assert stage.answers[0][1].ticket == stage.answers[1][1].ticket


def test_opens_that_arrive_together_are_one_event() -> None:
    stage = Stage(leading=False)
    stage.enrolled("a", "b", "c")
    stage.engine.lead(stage.now_ms)
    stage.settle()
    settle, stage.settle = stage.settle, lambda: None  # type: ignore[method-assign]
    for name in ("a", "b", "c"):
        stage.opens(name)
    stage.settle = settle  # type: ignore[method-assign]
    stage.settle()
    [opened] = stage.decided(host_events.SessionsOpened)
    assert len(opened.sessions) == 3


def test_the_previous_ticket_opens_while_the_current_one_is_unused() -> None:
    stage = Stage()
    stage.connected("web1")
    first = stage.ticket("web1")
    stage.opens("web1", ticket=first)
    # The answer was lost: the host comes again with the ticket that it has.
    stage.opens("web1", ticket=first)
    assert isinstance(answered(stage), SessionGranted)
    assert answered(stage).epoch == 3


def test_a_used_ticket_shows_a_copied_key_and_blocks_the_host() -> None:
    stage = Stage()
    stage.connected("web1")
    first = stage.ticket("web1")
    task_id = stage.submitted(shell())
    stage.opens("web1", ticket=first)
    stage.beats("web1")
    stage.opens("web1", ticket=first)
    assert isinstance(answered(stage), SessionDenied)
    assert answered(stage).code == "ticket"
    assert stage.outcomes(task_id) == {"web1": "lost"}
    before = len(stage.sent)
    stage.submitted(shell())
    stage.later(5_000)
    assert len(stage.sent) == before
    stage.happened(host_events.HostAccepted(host_id="h-web1"))
    stage.opens("web1", ticket="")
    assert isinstance(answered(stage), SessionGranted)


def test_a_host_that_is_accepted_while_its_session_is_open_needs_that_ticket_next() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.opens("web1", ticket="someone else's")
    assert stage.state.hosts.by_id["h-web1"].blocked is not None
    stage.happened(host_events.HostAccepted(host_id="h-web1"))
    stage.beats("web1")
    assert stage.state.hosts.by_id["h-web1"].online
    stage.opens("web1", ticket="someone else's")
    assert answered(stage).code == "ticket"


def test_a_journal_counter_below_what_the_log_has_shows_a_rolled_back_machine() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.started(task_id, "web1")
    stage.opens("web1", counter=0)
    assert answered(stage).code == "counter"
    assert stage.outcomes(task_id) == {"web1": "lost"}


def test_a_host_that_comes_back_without_an_unseen_attempt_is_offered_it_at_its_first_heartbeat() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    for times in (2, 3, 4):
        stage.opens("web1")
        assert len(stage.pushed(pushes.StartPush)) == times - 1, "before it, the session is not open on the host"
        stage.beats("web1")
        assert stage.pushed(pushes.StartPush) == [(task_id, 1)] * times
        stage.beats("web1")
        assert len(stage.pushed(pushes.StartPush)) == times
    stage.later(3_000)
    assert len(stage.pushed(pushes.StartPush)) == 5, "a host that comes and goes does not wait longer each time"


def test_a_new_session_that_does_not_hold_a_started_attempt_makes_it_lost() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.started(task_id, "web1")
    stage.opens("web1", counter=5)
    stage.later(1_000)
    assert stage.outcomes(task_id) == {"web1": "lost"}


def test_a_new_session_that_holds_a_running_attempt_goes_on() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.opens("web1", Held(task_id, 1, HeldState.RUNNING))
    stage.beats("web1", Held(task_id, 1, HeldState.RUNNING))
    stage.later(10_000)
    assert stage.outcomes(task_id) == {}


def test_silence_makes_a_host_suspect_and_then_offline() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    stage.connected("web1")
    stage.later(settings.suspect_ms)
    stage.submitted(shell(wait_offline_ms=600_000))
    assert stage.pushed(pushes.StartPush) == []
    assert stage.state.hosts.by_id["h-web1"].online
    stage.later(settings.offline_ms - settings.suspect_ms)
    assert [one.reason for one in stage.decided(host_events.HostsOffline)] == ["silent"]


def test_a_goodbye_is_offline_at_once() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.beats("web1", goodbye=True)
    assert [one.reason for one in stage.decided(host_events.HostsOffline)] == ["goodbye"]


def test_many_hosts_that_fall_silent_together_are_not_judged_at_once() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    names = [f"web{number}" for number in range(24)]
    stage.connected(*names)
    stage.later(settings.offline_ms + 5_000)
    assert stage.decided(host_events.HostsOffline) == []
    stage.later(settings.mass_silence_hold_ms)
    assert sum(len(one.hosts) for one in stage.decided(host_events.HostsOffline)) == 24


def test_few_hosts_that_fall_silent_among_many_are_judged_as_usual() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    names = [f"web{number}" for number in range(24)]
    stage.connected(*names)
    for _ in range(7):
        stage.later(10_000)
        for name in names[2:]:
            stage.beats(name)
    assert sum(len(one.hosts) for one in stage.decided(host_events.HostsOffline)) == 2


def test_a_new_dispatcher_gives_every_host_its_full_grace() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    stage.connected("web1")
    stage.later(settings.offline_ms - 5_000)
    stage.engine.follow()
    stage.engine.lead(stage.now_ms)
    stage.later(settings.offline_ms - 5_000)
    assert stage.decided(host_events.HostsOffline) == []


def test_a_revoked_host_is_denied_and_its_attempts_are_lost() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.happened(host_events.HostRevoked(host_id="h-web1", public_key="key of web1"))
    assert stage.outcomes(task_id) == {"web1": "lost"}
    stage.opens("web1")
    assert (answered(stage).code, answered(stage).retry) == ("revoked", False)


def test_who_speaks_for_a_host_in_an_older_session_is_told_the_present_epoch() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.opens("web1")
    stage.beats("web1")
    stage.sent.clear()
    stage.beats("web1", epoch=1)
    [told] = stage.sent
    assert isinstance(told, pushes.ForgetPush)
    assert (told.epoch, told.attempts) == (2, ())
    stage.settle()
    assert len(stage.sent) == 1


def test_a_session_request_that_was_overtaken_by_a_later_one_blocks_nobody() -> None:
    stage = Stage()
    stage.connected("web1")
    old = stage.ticket("web1")
    stage.opens("web1", ticket=old, asked_ms=2_000)
    stage.beats("web1")
    stage.opens("web1", ticket=old, asked_ms=1_000)
    assert stage.decided(host_events.SessionsRefused) == []
    stage.opens("web1", ticket=old, asked_ms=3_000)
    assert len(stage.decided(host_events.SessionsRefused)) == 1


def test_a_session_request_that_was_overtaken_by_a_report_blocks_nobody_and_is_asked_again() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    # An append is under way, so the request waits; meanwhile the host goes on, and its report is recorded.
    settle, stage.settle = stage.settle, lambda: None  # type: ignore[method-assign]
    stage.opens("web1", counter=stage.state.hosts.by_id["h-web1"].counter)
    stage.ended(task_id, "web1")
    stage.settle = settle  # type: ignore[method-assign]
    stage.settle()
    assert stage.decided(host_events.SessionsRefused) == []
    assert (answered(stage).code, answered(stage).retry) == ("busy", True)
    stage.opens("web1")
    assert isinstance(answered(stage), SessionGranted)
    stage.opens("web1", counter=stage.state.hosts.by_id["h-web1"].counter - 1)
    assert answered(stage).code == "counter"


def test_an_overtaken_heartbeat_of_the_same_session_is_not_heard() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.beats("web1", Held(task_id, 1, HeldState.RUNNING), counter=4)
    stage.beats("web1", counter=3)
    stage.later(1_000)
    assert stage.outcomes(task_id) == {}


def test_a_host_whose_heartbeat_and_next_answer_were_lost_is_let_in_with_the_ticket_that_it_has() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.opens("web1")
    ticket = stage.ticket("web1")  # of a session in which no heartbeat was heard
    stage.opens("web1", ticket=ticket)  # granted, and the answer is lost
    stage.opens("web1", ticket=ticket)
    assert isinstance(answered(stage), SessionGranted)
    assert stage.decided(host_events.SessionsRefused) == []


def test_a_request_that_a_later_one_overtook_while_it_waited_refuses_nobody() -> None:
    stage = Stage()
    stage.connected("web1")
    old = stage.ticket("web1")
    stage.opens("web1", asked_ms=1_000)
    stage.beats("web1")
    settle, stage.settle = stage.settle, lambda: None  # type: ignore[method-assign]
    stage.opens("web1", asked_ms=3_000, nonce="later")
    [batch] = [one for one in stage.engine.step(stage.now_ms) if isinstance(one, Batch)]
    stage.opens("web1", asked_ms=2_000, nonce="earlier", ticket=old)  # it arrives while the later one is under way
    stage.settle = settle  # type: ignore[method-assign]
    stage._perform(batch)
    stage.settle()
    assert stage.decided(host_events.SessionsRefused) == []
    assert stage.state.hosts.by_id["h-web1"].nonce == "later"


def test_a_granted_request_that_comes_again_after_the_next_session_refuses_nobody() -> None:
    stage = Stage()
    stage.connected("web1")
    shown = stage.ticket("web1")
    for nonce in ("first", "second"):
        stage.opens("web1", nonce=nonce)
        stage.beats("web1")
    stage.opens("web1", nonce="first", ticket=shown)
    assert answered(stage).code == "busy"
    assert stage.decided(host_events.SessionsRefused) == []
