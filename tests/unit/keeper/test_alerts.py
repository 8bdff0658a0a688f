"""What is an alert, when it is raised and resolved, and what webhooks are owed, whatever happens to the keeper meanwhile."""

from __future__ import annotations

import msgspec
import pytest

from fleetlog_keeper import works
from fleetlog_keeper.troubles import Alert
from fleetlog_schemas import alert_events, definition_events, events, host_events, limits
from fleetlog_schemas import schedule_events as stored
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Origin, Shell, TaskSpec
from fleetlog_testing.keeping import SETTINGS, Stage

MINUTE_MS = 60_000
GONE_MS = SETTINGS.host_gone_ms
WEBHOOK = alert_events.Webhook("https://hooks.example.com/x", ("task.ended", "alert.raised", "alert.resolved"))


class Watched(Stage):
    """A keeper that watches, and an endpoint that answers as the test says."""

    def __init__(self) -> None:
        self.answers_by: dict[str, works.Posted] = {}
        self.got: list[works.Post] = []
        super().__init__(msgspec.structs.replace(SETTINGS, segment_events=10_000))

    def _do(self, what: object) -> object:
        if isinstance(what, works.Post):
            self.got.append(what)
            return self.answers_by.get(what.url, works.Posted(204))
        return super()._do(what)

    def ran(self, name: str, outcome: Outcome, tags: tuple[str, ...] = (), host_id: str = "h1") -> None:
        """Let a task of a definition pass."""
        task_id = self.new_id()
        spec = TaskSpec(payload=Shell(argv=("true",)), target="all", tags=tags, definition=Origin(f"id-{name}", 1, name))
        self.happened(events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),)))
        self.happened(events.TasksPlanned(plans=(events.Plan(task_id, (events.PlannedHost(host_id, host_id),), "hash"),)))
        end = events.End(task_id, host_id, 1, outcome=outcome, ran="yes")  # type: ignore[arg-type]
        self.happened(events.AttemptsEnded(attempts=(end,)), events.DISPATCH)
        self.happened(events.TasksEnded(tasks=(events.TaskEnd(task_id, outcome, {outcome: 1}),)))
        self.settle()

    def joined(self, *host_ids: str) -> None:
        """Let hosts be online."""
        for host_id in host_ids:
            self.happened(host_events.HostEnrolled(host_id, f"name-{host_id}", {"role": host_id}, "key"))
            session = host_events.Session(host_id, 1, "n", "b", "0.3.0", 0)
            self.happened(host_events.SessionsOpened(sessions=(session,)))
        self.online(*host_ids)

    def online(self, *host_ids: str) -> None:
        self.happened(host_events.HostsOnline(hosts=tuple(host_events.HostEpoch(one, 1) for one in host_ids)))

    def offline(self, *host_ids: str) -> None:
        self.happened(host_events.HostsOffline(hosts=tuple(host_events.HostEpoch(one, 1) for one in host_ids), reason="silent"))

    def hook(self, name: str = "pager", webhook: alert_events.Webhook = WEBHOOK) -> str:
        self.happened(alert_events.WebhookSet(f"w-{name}", name, webhook))
        return f"w-{name}"

    @property
    def open(self) -> list[Alert]:
        return list(self.engine.state.watch.troubles.open.values())

    @property
    def raised(self) -> list[alert_events.RaisedAlert]:
        """Every alert that the log says was raised."""
        found = [one.data for one in map(self._decoded, self.log)]
        return [alert for data in found if isinstance(data, alert_events.AlertsRaised) for alert in data.alerts]

    @property
    def resolved(self) -> list[str]:
        found = [one.data for one in map(self._decoded, self.log)]
        return [one for data in found if isinstance(data, alert_events.AlertsResolved) for one in data.alert_ids]

    def bodies(self, kind: str = "") -> list[dict[str, object]]:
        found = [msgspec.json.decode(post.body) for post in self.got]
        return [one for one in found if not kind or one["type"] == kind]


# --- tasks ---


def test_a_definition_whose_run_ended_badly_is_one_alert_until_it_runs_well_again() -> None:
    stage = Watched()
    stage.ran("deploy", Outcome.FAILURE)
    (alert,) = stage.raised
    assert (alert.kind, alert.names, alert.message) == ("task-failed", ("deploy",), "deploy: failure on 1 of 1 hosts")
    stage.ran("deploy", Outcome.LOST)
    assert len(stage.raised) == 1
    assert stage.open[0].members["id-deploy"].times == 1
    stage.ran("other", Outcome.SUCCESS)
    stage.ran("deploy", Outcome.CANCELLED)
    assert len(stage.open) == 1, "what a person cancelled says nothing of whether it works"
    stage.ran("deploy", Outcome.SUCCESS)
    assert (stage.open, stage.resolved) == ([], [alert.alert_id])
    stage.ran("deploy", Outcome.FAILURE)
    assert stage.raised[1].alert_id != alert.alert_id


def test_a_task_that_is_no_run_of_a_definition_is_no_alert() -> None:
    stage = Watched()
    stage.refused(stage.submitted())
    stage.settle()
    assert stage.raised == []


def test_a_definition_that_is_removed_is_no_alert_any_more() -> None:
    stage = Watched()
    stage.ran("deploy", Outcome.FAILURE)
    stage.happened(definition_events.DefinitionRemoved("id-deploy", "deploy"))
    stage.settle()
    assert stage.resolved == [stage.raised[0].alert_id]


def test_what_is_over_is_told_before_what_is_new_of_the_same_subject() -> None:
    stage = Watched()
    stage.ran("deploy", Outcome.FAILURE)
    stage.settle = lambda wait_ms=0: None  # type: ignore[method-assign]  # the keeper is slow
    stage.ran("deploy", Outcome.SUCCESS)
    stage.ran("deploy", Outcome.FAILURE)
    del stage.settle
    stage.settle()
    kinds = [type(stage._decoded(one).data).__name__ for one in stage.log if one.subject == events.ALERT]
    assert kinds == ["AlertsRaised", "AlertsResolved", "AlertsRaised"]


# --- hosts ---


def test_a_host_is_gone_when_it_was_offline_for_long_enough_and_not_before() -> None:
    stage = Watched()
    stage.joined("h1", "h2")
    stage.offline("h1")
    stage.settle(GONE_MS)
    assert stage.raised == []
    stage.settle(15_000)
    (alert,) = stage.raised
    assert (alert.kind, alert.message) == ("host-gone", "name-h1 is silent")
    stage.online("h1")
    stage.settle()
    assert stage.resolved == [alert.alert_id]


@pytest.mark.parametrize(
    "reason", [host_events.MaintenanceSet("h1", on=True), host_events.HostRevoked("h1", "key"), host_events.HostsOnline((host_events.HostEpoch("h1", 1),))],
)
def test_a_host_that_is_back_or_was_taken_out_of_work_is_not_gone(reason: events.Data) -> None:
    stage = Watched()
    stage.joined("h1")
    stage.offline("h1")
    stage.settle(MINUTE_MS)
    stage.happened(reason)
    stage.settle(GONE_MS * 2)
    assert stage.raised == []


def test_a_host_that_never_was_online_is_not_gone() -> None:
    stage = Watched()
    stage.happened(host_events.HostEnrolled("h1", "web01", {}, "key"))
    stage.happened(host_events.SessionsOpened(sessions=(host_events.Session("h1", 1, "n", "b", "0.3.0", 0),)))
    stage.settle(GONE_MS * 3)
    assert stage.raised == []


def test_ten_thousand_hosts_that_go_within_seconds_are_one_alert_with_their_count() -> None:
    stage = Watched()
    ids = [f"h{number}" for number in range(10_000)]
    for host_id in ids:
        stage.happened(host_events.HostEnrolled(host_id, f"name-{host_id}", {}, "key"))
    for start in range(0, len(ids), 1_000):
        sessions = tuple(host_events.Session(one, 1, "n", "b", "0.3.0", 0) for one in ids[start : start + 1_000])
        stage.happened(host_events.SessionsOpened(sessions=sessions))
        stage.online(*ids[start : start + 1_000])
    for start in range(0, len(ids), 1_000):
        stage.offline(*ids[start : start + 1_000])
        stage.settle(1_000)
    stage.settle(GONE_MS + 15_000)
    (alert,) = stage.raised
    assert (alert.count, len(alert.subjects)) == (10_000, limits.ALERT_SUBJECTS_MAX)
    assert len(stage.open[0].members) == 10_000
    for start in range(0, len(ids), 1_000):
        assert stage.resolved == []
        stage.online(*ids[start : start + 1_000])
        stage.settle()
    assert stage.resolved == [alert.alert_id]


def test_a_refused_host_is_an_alert_until_it_is_accepted() -> None:
    stage = Watched()
    stage.joined("h1")
    stage.happened(host_events.SessionsRefused(hosts=(host_events.SessionRefusal("h1", "ticket", "its ticket is old"),)))
    stage.settle(5_000)
    assert [(one.kind, one.message) for one in stage.raised] == [("host-refused", "name-h1 is refused: its ticket is old")]
    stage.happened(host_events.HostAccepted("h1", "looked at"))
    stage.settle()
    assert stage.resolved == [stage.raised[0].alert_id]


def test_refused_reports_are_an_alert_until_none_came_for_an_hour() -> None:
    stage = Watched()
    stage.joined("h1")
    for minute in range(3):
        stage.happened(host_events.ReportsRefused("h1", minute, {"token": 1}))
        stage.settle(MINUTE_MS)
    assert [one.kind for one in stage.raised] == ["reports-refused"]
    stage.settle(50 * MINUTE_MS)
    assert stage.resolved == []
    stage.settle(10 * MINUTE_MS)
    assert stage.resolved == [stage.raised[0].alert_id]


# --- schedules ---


def minutely(stage: Watched, name: str = "report") -> None:
    rule = stored.Rule("deploy", kind="interval", interval_ms=MINUTE_MS, begins_ms=stage.now_ms)
    stage.happened(stored.ScheduleRegistered(name, rule))
    stage.settle()


def decided(stage: Watched, outcome: str, reason: str = "", name: str = "report") -> None:
    tick = stored.TickDecision(name=name, outcome=outcome, nominal_ms=stage.now_ms, reason=reason)  # type: ignore[arg-type]
    stage.happened(stored.TicksDecided((tick,)))
    stage.settle()


def test_a_missed_tick_is_an_alert_until_the_next_one_is_fired() -> None:
    stage = Watched()
    minutely(stage)
    decided(stage, "missed", "late")
    assert [one.kind for one in stage.raised] == ["schedule-missed"]
    decided(stage, "skipped", "overlap")
    assert stage.resolved == []
    decided(stage, "fired")
    assert stage.resolved == [stage.raised[0].alert_id]


@pytest.mark.parametrize("reason", ["stopped", "paused", "changed"])
def test_a_tick_that_a_person_overtook_is_no_alert(reason: str) -> None:
    stage = Watched()
    minutely(stage)
    decided(stage, "missed", reason)
    assert stage.raised == []


def test_when_no_scheduler_fires_that_is_one_alert_however_many_schedules_wait() -> None:
    stage = Watched()
    for number in range(7):
        minutely(stage, f"report{number}")
    stage.settle(MINUTE_MS + SETTINGS.tick_overdue_ms - 1)
    assert stage.raised == []
    stage.settle(1)
    (alert,) = stage.raised
    assert alert.kind == "scheduler-silent"
    assert alert.message.startswith("no scheduler fires: ticks of 7 schedules are overdue")
    stage.settle(10 * MINUTE_MS)
    assert len(stage.raised) == 1
    for number in range(7):
        assert stage.resolved == []
        decided(stage, "fired", name=f"report{number}")
    assert stage.resolved == [alert.alert_id]


def test_a_schedule_that_is_paused_or_stopped_expects_nothing() -> None:
    stage = Watched()
    minutely(stage, "paused")
    stage.happened(stored.SchedulePaused("paused", "holiday"))
    minutely(stage, "stopped")
    stage.happened(stored.ScheduleStopped("stopped"))
    stage.settle(60 * MINUTE_MS)
    assert stage.raised == []


# --- restarts ---


def test_whoever_takes_over_raises_nothing_twice_and_loses_nothing() -> None:
    stage = Watched()
    stage.joined("h1")
    stage.ran("deploy", Outcome.FAILURE)
    stage.offline("h1")
    for wait_ms in (1_000, GONE_MS, 15_000, 60_000):
        stage.now_ms += wait_ms
        stage.take_over()
        stage.settle()
    assert sorted(one.kind for one in stage.raised) == ["host-gone", "task-failed"]
    assert stage.resolved == []


def test_a_keeper_that_lost_its_decision_makes_the_same_alert_again() -> None:
    stage = Watched()
    stage.ran("deploy", Outcome.FAILURE)
    first = stage.raised
    stage.log = [one for one in stage.log if one.subject != events.ALERT]
    stage.take_over()
    stage.settle()
    assert stage.raised == first


def test_an_alert_that_is_raised_again_by_another_keeper_is_void() -> None:
    stage = Watched()
    stage.hook()
    stage.ran("deploy", Outcome.FAILURE)
    stage.happened(alert_events.AlertsRaised(tuple(stage.raised)))
    stage.settle()
    assert len(stage.open) == 1
    assert len(stage.bodies("alert.raised")) == 1


def test_what_came_to_be_wrong_between_decision_and_log_is_an_alert_of_its_own() -> None:
    stage = Watched()
    stage.ran("deploy", Outcome.FAILURE)
    stage.happened(alert_events.AlertsResolved((stage.raised[0].alert_id,)))
    stage.settle()
    first, second = stage.raised
    assert first.alert_id != second.alert_id
    assert [one.raised for one in stage.open] == [second]


def test_a_person_acknowledges_an_alert_and_it_stays_open() -> None:
    stage = Watched()
    stage.ran("deploy", Outcome.FAILURE)
    stage.happened(alert_events.AlertAcknowledged(stage.raised[0].alert_id, "on it"))
    (alert,) = stage.open
    assert (alert.acknowledged_by, alert.reason, alert.resolved_ms) == ("ann", "on it", 0)


# --- webhooks ---


def test_every_end_of_a_task_and_every_alert_is_told_to_who_asked_for_it() -> None:
    stage = Watched()
    stage.hook()
    stage.ran("deploy", Outcome.FAILURE)
    stage.ran("deploy", Outcome.SUCCESS)
    assert [one["type"] for one in stage.bodies()] == ["task.ended", "alert.raised", "task.ended", "alert.resolved"]
    ended = stage.bodies("task.ended")[0]
    assert set(ended) == {"type", "timestamp", "data"}
    assert ended["data"]["definition"] == "deploy"  # type: ignore[index]
    assert ended["data"]["outcome"] == "failure"  # type: ignore[index]
    assert len({post.message_id for post in stage.got}) == 4


@pytest.mark.parametrize(
    ("webhook", "told"),
    [
        (alert_events.Webhook("https://x", ("task.ended",)), ["deploy", "report"]),
        (alert_events.Webhook("https://x", ("task.ended",), definitions=("deploy",)), ["deploy"]),
        (alert_events.Webhook("https://x", ("task.ended",), tags=("prod",)), ["report"]),
        (alert_events.Webhook("https://x", ("task.ended",), target="role=h2"), ["report"]),
        (alert_events.Webhook("https://x", ("task.ended",), definitions=("deploy",), tags=("prod",)), []),
        (alert_events.Webhook("https://x", ("alert.raised",)), []),
    ],
)
def test_filters_narrow_together(webhook: alert_events.Webhook, told: list[str]) -> None:
    stage = Watched()
    stage.joined("h1", "h2")
    stage.hook(webhook=webhook)
    stage.ran("deploy", Outcome.SUCCESS)
    stage.ran("report", Outcome.SUCCESS, tags=("prod",), host_id="h2")
    assert [one["data"]["definition"] for one in stage.bodies()] == told  # type: ignore[index]


def test_a_message_is_tried_for_about_a_day_with_one_id_and_then_it_has_failed() -> None:
    stage = Watched()
    webhook_id = stage.hook()
    stage.answers_by[WEBHOOK.url] = works.Posted(503, "busy")
    began_ms = stage.now_ms
    stage.ran("deploy", Outcome.SUCCESS)
    outbox = stage.engine.state.watch.outboxes[webhook_id]
    while outbox.waiting:
        (message,) = outbox.waiting.values()
        stage.settle(max(message.due_ms - stage.now_ms, 0))
        stage.take_over()
        outbox = stage.engine.state.watch.outboxes[webhook_id]
    assert len({post.message_id for post in stage.got}) == 1
    assert len({post.body for post in stage.got}) == 1
    assert [post.attempt for post in stage.got] == list(range(1, 10))
    assert 20 * 3_600_000 < stage.now_ms - began_ms < 30 * 3_600_000
    assert (outbox.failed, outbox.done[-1].state, outbox.done[-1].status) == (1, "failed", 503)


def test_a_message_whose_answer_the_log_does_not_have_is_sent_again_with_the_same_id() -> None:
    stage = Watched()
    stage.hook()
    stage.ran("deploy", Outcome.SUCCESS)
    assert len(stage.got) == 1
    stage.log = [one for one in stage.log if one.subject != events.ALERT]
    stage.take_over()
    stage.settle()
    first, again = stage.got
    assert first == again


def test_an_endpoint_that_is_down_does_not_hold_up_another() -> None:
    stage = Watched()
    stage.hook("down", alert_events.Webhook("https://down", ("task.ended",)))
    stage.hook("up", alert_events.Webhook("https://up", ("task.ended",)))
    stage.answers_by["https://down"] = works.Posted(error="no answer")
    for _ in range(3):
        stage.ran("deploy", Outcome.SUCCESS)
    assert sum(post.url == "https://up" for post in stage.got) == 3


def test_an_endpoint_that_is_gone_is_disabled_with_an_alert_until_a_person_sets_it_again() -> None:
    stage = Watched()
    webhook_id = stage.hook()
    stage.answers_by[WEBHOOK.url] = works.Posted(410, "gone")
    stage.ran("deploy", Outcome.SUCCESS)
    assert [one.kind for one in stage.raised] == ["webhook-disabled"]
    stage.ran("deploy", Outcome.SUCCESS)
    assert len(stage.got) == 1
    stage.answers_by.clear()
    stage.hook()
    stage.settle()
    assert stage.resolved == [stage.raised[0].alert_id]
    stage.ran("deploy", Outcome.SUCCESS)
    assert stage.engine.state.watch.outboxes[webhook_id].delivered == 2, "the end, and that the alert is over"


def test_an_endpoint_that_fails_for_days_is_disabled_and_one_success_starts_the_count_anew() -> None:
    stage = Watched()
    stage.hook()
    stage.answers_by[WEBHOOK.url] = works.Posted(500, "broken")
    for day in range(5):
        stage.ran("deploy", Outcome.SUCCESS)
        if day == 2:
            stage.answers_by.clear()
            stage.ran("deploy", Outcome.SUCCESS)
            stage.answers_by[WEBHOOK.url] = works.Posted(500, "broken")
        stage.settle(86_400_000)
    stage.settle(86_400_000)
    assert stage.raised == []
    for _ in range(4):
        stage.ran("deploy", Outcome.SUCCESS)
        stage.settle(86_400_000)
    assert [one.kind for one in stage.raised] == ["webhook-disabled"]


def test_more_messages_than_may_wait_disable_the_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WEBHOOK_WAITING_MAX", 3)
    stage = Watched()
    webhook_id = stage.hook()
    stage.answers_by[WEBHOOK.url] = works.Posted(500, "broken")
    for _ in range(4):
        stage.ran("deploy", Outcome.SUCCESS)
    assert [one.kind for one in stage.raised] == ["webhook-disabled"]
    assert stage.engine.state.watch.outboxes[webhook_id].waiting == {}


def test_after_a_rotation_both_secrets_sign_for_a_while() -> None:
    stage = Watched()
    webhook_id = stage.hook()
    stage.ran("deploy", Outcome.SUCCESS)
    stage.happened(alert_events.WebhookSecretRotated(webhook_id, 2))
    stage.ran("deploy", Outcome.SUCCESS)
    stage.now_ms += SETTINGS.webhook_rotation_ms
    stage.ran("deploy", Outcome.SUCCESS)
    assert [post.secret_numbers for post in stage.got] == [(1,), (2, 1), (2,)]


def test_a_test_message_goes_to_its_webhook_only_and_is_tried_at_once() -> None:
    stage = Watched()
    webhook_id = stage.hook()
    stage.hook("other")
    stage.happened(alert_events.WebhookTestRequested(webhook_id))
    stage.settle()
    assert [post.webhook_id for post in stage.got] == [webhook_id]
    assert stage.bodies()[0]["type"] == "webhook.test"


def test_what_waits_for_a_webhook_that_is_removed_is_not_sent() -> None:
    stage = Watched()
    webhook_id = stage.hook()
    stage.answers_by[WEBHOOK.url] = works.Posted(500, "broken")
    stage.ran("deploy", Outcome.SUCCESS)
    stage.happened(alert_events.WebhookRemoved(webhook_id))
    stage.settle(86_400_000)
    assert len(stage.got) == 1
