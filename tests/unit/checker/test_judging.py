"""The checker can fail: each way in which a promise may be broken is planted in a history, and must be reported."""

from __future__ import annotations

import msgspec
import pytest

from fleetlog_checker.history import Answer, History, Reader, Said, Submission, Trouble
from fleetlog_checker.judging import Violation, judge
from fleetlog_schemas import events
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Retry, Shell, TaskSpec
from fleetlog_schemas.view import TaskView, task_view
from fleetlog_testing.history import History as Log
from fleetlog_testing.history import make_id

ONE, TWO = "hone", "htwo"
SPEC = TaskSpec(payload=Shell(argv=("true",)), target="one,two")
RETRIED = msgspec.structs.replace(SPEC, target="one", retry=Retry(attempts_max=2, on=(Outcome.LOST,)))


class Planted:
    """A history of one task that went well on two hosts, to be spoilt by a test."""

    def __init__(self, spec: TaskSpec = SPEC) -> None:
        self.log = Log()
        self.spec = spec
        self.task_id = make_id(self.log.now_ms)
        names = spec.target.split(",")
        self.log.add(events.TasksSubmitted(tasks=(events.Submission(task_id=self.task_id, spec=spec),)))
        hosts = tuple(events.PlannedHost(host_id=f"h{name}", name=name) for name in names)
        self.log.add(events.TasksPlanned(plans=(events.Plan(task_id=self.task_id, hosts=hosts, plan_hash="p"),)))
        self.history = History(submissions=[Submission((self.task_id,), spec, answers=[answer(Said.ACKNOWLEDGED)])])

    def dispatch(self, host_id: str, attempt: int = 1) -> None:
        one = events.Dispatch(task_id=self.task_id, host_id=host_id, attempt=attempt, epoch=1)
        self.log.add(events.AttemptsDispatched(attempts=(one,)))

    def end(self, host_id: str, outcome: Outcome, ran: Ran = Ran.YES, attempt: int = 1, exit_code: int | None = None) -> None:
        self.log.wait(10_000)
        end = events.End(
            task_id=self.task_id, host_id=host_id, attempt=attempt, outcome=outcome, ran=ran,
            exit_code=0 if outcome is Outcome.SUCCESS else exit_code,
        )
        self.log.add(events.AttemptsEnded(attempts=(end,)))

    def wrote(self, host_id: str, *what: str, attempt: int = 1) -> None:
        self.history.lines += [f"{self.task_id} {host_id} {attempt} {one}" for one in what]

    def over(self) -> None:
        task = self.log.tasks.by_id[self.task_id]
        counts = {one.outcome: 1 for one in task.commands.values() if one.outcome}
        self.log.add(events.TasksEnded(tasks=(events.TaskEnd(task_id=self.task_id, outcome=min(counts), counts=counts),)))

    def view(self) -> TaskView:
        return task_view(self.log.tasks.by_id[self.task_id])

    def judged(self) -> list[Violation]:
        self.history.tasks.setdefault(self.task_id, self.view())
        return judge(self.history).violations


def answer(said: Said) -> Answer:
    return Answer(said, "", "gateway 1", 0, 1)


def ran_once(planted: Planted, host_id: str) -> None:
    planted.dispatch(host_id)
    planted.wrote(host_id, "began", "ended")
    planted.end(host_id, Outcome.SUCCESS)


@pytest.fixture
def good() -> Planted:
    planted = Planted()
    for host_id in (ONE, TWO):
        ran_once(planted, host_id)
    planted.over()
    return planted


def rules(planted: Planted) -> set[str]:
    return {one.rule for one in planted.judged()}


def test_what_went_well_is_not_condemned(good: Planted) -> None:
    good.history.readers = [Reader("gateway 1", {good.task_id: msgspec.json.encode(good.view())})]
    assert good.judged() == []
    verdict = judge(good.history)
    assert verdict.classes == {"success": {"once": 2}}
    assert verdict.submissions == {"acknowledged": 1}


def test_a_doubled_line_is_a_command_that_ran_twice(good: Planted) -> None:
    good.wrote(ONE, "began", "ended")
    (found,) = good.judged()
    assert (found.rule, found.task_id, found.host, found.attempt) == ("outcome", good.task_id, "one", 1)
    assert "ran twice" in found.text
    assert len(found.lines) == 4
    assert judge(good.history).classes == {"success": {"once": 1, "twice": 1}}


def test_a_doubled_last_line_is_noticed_too(good: Planted) -> None:
    good.wrote(TWO, "ended")
    assert rules(good) == {"outcome"}


@pytest.mark.parametrize("missing", ["began", "ended"])
def test_a_success_without_a_line_is_noticed(good: Planted, missing: str) -> None:
    good.history.lines.remove(f"{good.task_id} {ONE} 1 {missing}")
    assert rules(good) == {"outcome"}


def test_a_success_that_never_ran_is_noticed(good: Planted) -> None:
    good.history.lines = [line for line in good.history.lines if ONE not in line]
    (found,) = good.judged()
    assert "did not run to its end" in found.text
    assert judge(good.history).classes == {"success": {"once": 1, "never": 1}}


@pytest.mark.parametrize(("outcome", "ran"), [(Outcome.UNREACHED, Ran.NO), (Outcome.CANCELLED, Ran.NO)])
def test_what_is_said_never_to_have_run_and_ran_is_noticed(outcome: Outcome, ran: Ran) -> None:
    planted = Planted(msgspec.structs.replace(SPEC, target="one"))
    planted.history.submissions[0].cancel_asked = True
    planted.dispatch(ONE)
    planted.end(ONE, outcome, ran)
    planted.over()
    assert planted.judged() == []
    planted.wrote(ONE, "began")
    assert rules(planted) == {"outcome"}


def lost(*, killed_at_ms: int | None, host_id: str = ONE) -> Planted:
    planted = Planted(msgspec.structs.replace(SPEC, target="one"))
    planted.dispatch(ONE)
    planted.wrote(ONE, "began")
    planted.end(ONE, Outcome.LOST, Ran.UNKNOWN)
    planted.over()
    if killed_at_ms is not None:
        began_ms = planted.log.now_ms - 10_000 + killed_at_ms
        planted.history.troubles = [Trouble("kill", "holder one", "holder", began_ms, began_ms, host_id)]
    return planted


def test_lost_is_right_only_where_the_holder_was_killed_under_it() -> None:
    assert lost(killed_at_ms=3_000).judged() == []
    assert rules(lost(killed_at_ms=None)) == {"outcome"}
    assert rules(lost(killed_at_ms=-60_000)) == {"outcome"}
    assert rules(lost(killed_at_ms=3_000, host_id=TWO)) == {"outcome"}


def test_no_line_of_what_was_killed_early_is_unknown_and_no_line_otherwise_is_never() -> None:
    planted = lost(killed_at_ms=3_000)
    planted.history.lines.clear()
    assert planted.judged() == []
    assert judge(planted.history).classes == {"lost": {"unknown": 1}}
    planted.history.troubles.clear()
    assert rules(planted) == {"outcome"}
    assert judge(planted.history).classes == {"lost": {"never": 1}}


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.ERROR, Outcome.SKIPPED])
def test_an_outcome_that_nobody_asked_for_is_noticed(outcome: Outcome) -> None:
    planted = Planted(msgspec.structs.replace(SPEC, target="one"))
    planted.dispatch(ONE)
    planted.wrote(ONE, "began")
    planted.end(ONE, outcome)
    planted.over()
    assert rules(planted) == {"outcome"}


def test_another_exit_code_than_the_one_that_was_left_with_is_noticed() -> None:
    planted = Planted(msgspec.structs.replace(SPEC, target="one"))
    planted.history.submissions[0].exit_code = 3
    planted.dispatch(ONE)
    planted.wrote(ONE, "began", "ended")
    planted.end(ONE, Outcome.FAILURE, exit_code=4)
    planted.over()
    assert rules(planted) == {"outcome"}


def test_an_acknowledged_task_that_vanished_is_noticed(good: Planted) -> None:
    good.history.lines.clear()
    good.history.submissions.append(Submission(("elsewhere",), SPEC, answers=[answer(Said.UNKNOWN), answer(Said.ACKNOWLEDGED)]))
    good.history.lines = [f"{good.task_id} {host} 1 {what}" for host in (ONE, TWO) for what in ("began", "ended")]
    (found,) = good.judged()
    assert (found.rule, found.task_id) == ("acknowledged", "elsewhere")


def test_a_task_without_an_answer_is_there_or_absent_and_what_was_refused_is_absent(good: Planted) -> None:
    good.history.submissions.append(Submission(("elsewhere",), SPEC, answers=[answer(Said.UNKNOWN)]))
    assert good.judged() == []
    assert judge(good.history).submissions == {"acknowledged": 1, "unknown, absent": 1}
    good.history.submissions[0].answers = [answer(Said.UNKNOWN)]
    assert good.judged() == []
    for said in (Said.REFUSED, Said.NOT_SENT):
        good.history.submissions[0].answers = [answer(said)]
        assert rules(good) == {"refused"}


def test_half_of_what_was_submitted_together_is_noticed(good: Planted) -> None:
    good.history.submissions[0].task_ids = (good.task_id, "its other half")
    good.history.submissions[0].answers = [answer(Said.UNKNOWN)]
    assert rules(good) == {"together"}


def test_what_ran_without_being_in_the_log_is_noticed(good: Planted) -> None:
    good.history.submissions.append(Submission(("elsewhere",), SPEC, answers=[answer(Said.UNKNOWN)]))
    good.history.lines.append(f"elsewhere {ONE} 1 began")
    assert rules(good) == {"absent"}


def test_a_task_that_nobody_submitted_is_noticed(good: Planted) -> None:
    good.history.submissions.clear()
    assert rules(good) == {"invented"}


def test_a_line_that_no_attempt_accounts_for_is_noticed(good: Planted) -> None:
    good.wrote(ONE, "began", attempt=2)
    assert rules(good) == {"unaccounted"}


def test_a_task_on_other_hosts_than_were_asked_for_is_noticed(good: Planted) -> None:
    good.history.submissions[0].spec = msgspec.structs.replace(SPEC, target="one")
    assert rules(good) == {"plan"}


def test_an_open_command_is_noticed() -> None:
    planted = Planted()
    ran_once(planted, ONE)
    planted.dispatch(TWO)
    found = planted.judged()
    assert {one.rule for one in found} == {"open"}
    assert {one.host for one in found} == {"", "two"}


def retried(first: Outcome) -> Planted:
    planted = Planted(RETRIED)
    planted.dispatch(ONE)
    planted.wrote(ONE, "began", "ended")
    planted.end(ONE, first, Ran.UNKNOWN)
    planted.history.troubles = [Trouble("kill", "holder one", "holder", planted.log.now_ms - 5_000, host_id=ONE)]
    return planted


def test_a_second_attempt_is_right_where_it_was_asked_for_and_begins_after_the_first() -> None:
    planted = retried(Outcome.LOST)
    planted.dispatch(ONE, 2)
    planted.wrote(ONE, "began", "ended", attempt=2)
    planted.end(ONE, Outcome.SUCCESS, attempt=2)
    planted.over()
    assert planted.judged() == []
    planted.history.lines.sort(key=lambda line: line.split()[2], reverse=True)
    assert rules(planted) == {"one at a time"}


def test_a_second_attempt_that_nobody_asked_for_is_noticed() -> None:
    planted = retried(Outcome.LOST)
    planted.dispatch(ONE, 2)
    planted.wrote(ONE, "began", "ended", attempt=2)
    planted.end(ONE, Outcome.SUCCESS, attempt=2)
    planted.over()
    planted.history.tasks[planted.task_id] = msgspec.structs.replace(planted.view(), spec=msgspec.structs.replace(SPEC))
    assert "retry" in rules(planted)


@pytest.mark.parametrize("shown", [b"", b"{}"])
def test_a_reader_that_disagrees_is_noticed(good: Planted, shown: bytes) -> None:
    good.history.readers = [Reader("gateway 2", {good.task_id: shown})]
    assert rules(good) == {"readers"}


def test_a_reader_that_knows_what_the_log_does_not_is_noticed(good: Planted) -> None:
    good.history.readers = [Reader("gateway 2", {"elsewhere": b"{}"})]
    assert rules(good) == {"readers"}


def test_another_output_than_was_printed_is_noticed(good: Planted) -> None:
    good.history.submissions[0].output = "here"
    assert rules(good) == {"outcome"}


def test_an_honest_host_that_was_refused_is_noticed(good: Planted) -> None:
    good.history.alerts = ["event 7: host hone is refused (ticket)"]
    assert rules(good) == {"alert"}


def test_an_event_that_who_follows_missed_is_noticed(good: Planted) -> None:
    good.history.followed = ["gateway 1: event 9 came after event 7"]
    assert rules(good) == {"feed"}


def test_a_projection_that_differs_and_a_log_that_changed_are_noticed(good: Planted) -> None:
    good.history.readers = [Reader("gateway 2", verified="2 tasks differ")]
    good.history.rewritten = ["event 7 is gone"]
    assert rules(good) == {"projection", "log"}
