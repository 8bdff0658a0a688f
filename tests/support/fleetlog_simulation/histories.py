"""The directed histories; `directed.py` says how to tell one."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from fleetlog_agent.journal_records import Key
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import control_events, definition_events, events, host_events, policy_events
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Origin, Retry, Rollout, TaskSpec
from fleetlog_simulation.books import entries_of
from fleetlog_simulation.directed import SLOW, Directed, History, directed
from fleetlog_simulation.fleet import WORK
from fleetlog_simulation.hosts import Course

HOUR_MS = 3_600_000


@directed()
def an_agent_returns_to_an_attempt_that_was_given_up(fleet: Directed) -> None:
    """Attempt 1 is decided lost while its process runs on under the holder, and then attempt 2 comes to the agent."""
    host = fleet.hosts[0]
    retry = Retry(attempts_max=2, on=(Outcome.LOST,), backoff_ms=0)
    spec = TaskSpec(payload=WORK, target="all", timeout_ms=5_000, wait_offline_ms=HOUR_MS, retry=retry)
    # The agent ends what is over its time as soon as it is back; a stubborn process outlives that by the kill grace.
    task_id = fleet.submit(spec, Course(lasts_ms=HOUR_MS, stubborn=True), Course(lasts_ms=300))
    fleet.until("attempt 1 is known to run", lambda: fleet.books.entries(events.AttemptsStarted, task_id=task_id))
    fleet.wait(0, 3_000)
    host.kill()
    fleet.until("attempt 1 is given up", lambda: fleet.books.entries(events.AttemptsEnded, task_id=task_id))
    given_up = fleet.books.entries(events.AttemptsEnded, task_id=task_id, attempt=1)[0]
    fleet.expect("it was given up as lost", given_up["outcome"] == "lost")
    fleet.wait(0, 120_000)  # the log has the host still online, or offline already
    host.start()
    fleet.until("the agent has accepted attempt 2", lambda: Key(task_id, 2) in host.core.attempts.open)
    fleet.expect("attempt 1 still runs then", fleet.running(task_id, attempt=1))
    fleet.until("attempt 2 runs", lambda: fleet.running(task_id, attempt=2))
    fleet.until(
        "attempt 2 is known to have ended well",
        lambda: fleet.books.entries(events.AttemptsEnded, task_id=task_id, attempt=2, outcome="success"),
    )


PATIENCE_MS = 50_000
"""The stale leader below was deaf for less than this, so what it last heard of the host is no reason to hold back."""
BACKOFF_MS = 16_000
"""Half of it at least is the pause before attempt 2: more than it takes another dispatcher to take over."""


@directed(settings=DispatcherSettings(slots_per_host=1, suspect_ms=PATIENCE_MS))
def a_deposed_leader_goes_on_with_what_it_believed(fleet: Directed) -> None:
    """A paused leader goes on when a retry is due that it knows, and the slot is taken by a task that it does not."""
    stale, other = fleet.leader, fleet.standby
    spec = TaskSpec(payload=WORK, target="all", retry=Retry(attempts_max=2, backoff_ms=BACKOFF_MS))
    retried = fleet.submit(spec, Course(lasts_ms=100, exit_code=1), Course(lasts_ms=100))
    fleet.until("attempt 1 has failed", lambda: fleet.books.entries(events.AttemptsEnded, task_id=retried, attempt=1))
    fleet.until("the leader has read that", lambda: stale.settled)
    stale.pause()
    fleet.until("the other one leads", lambda: other.engine.live is not None)
    newer = fleet.submit(TaskSpec(payload=WORK, target="all"), Course(lasts_ms=2 * BACKOFF_MS))
    fleet.until("the newer task has the slot", lambda: fleet.running(newer))
    fleet.wait(BACKOFF_MS, BACKOFF_MS + 5_000)
    fleet.expect("the newer task still has it", fleet.running(newer))
    stale.go_on()
    fleet.until("the fence refuses what the stale leader decided at once", lambda: stale.fenced)
    refused = entries_of(stale.fenced[-1], events.AttemptsDispatched, task_id=retried, attempt=2)
    fleet.expect("that was attempt 2, while the newer task has the slot", refused and fleet.running(newer))
    fleet.until("attempt 2 runs", lambda: fleet.running(retried, attempt=2))
    fleet.expect("it waited for the slot", not fleet.running(newer))


@directed()
def a_freeze_overtakes_a_dispatch_under_way(fleet: Directed) -> None:
    """What was decided before the freeze stands in the log behind it: it is void, and nothing runs until the thaw."""
    task_id = fleet.submit(TaskSpec(payload=WORK, target="all"), Course(lasts_ms=300))
    fleet.until("a dispatch is under way", lambda: fleet.under_way(events.AttemptsDispatched, task_id=task_id))
    fleet.expect("the log has none yet", not fleet.books.entries(events.AttemptsDispatched, task_id=task_id))
    fleet.overtake(policy_events.FleetFrozen(freeze_id="f1", target="all", reason="incident"), events.CATALOG)
    fleet.until("the log has it", lambda: fleet.books.entries(events.AttemptsDispatched, task_id=task_id))
    fleet.wait(1_000, 30_000)
    fleet.expect("nothing runs", not fleet.runs(task_id))
    fleet.append(policy_events.FleetThawed(freeze_id="f1"), events.CATALOG)
    fleet.until("it runs", lambda: fleet.runs(task_id))


@directed()
def a_pause_overtakes_a_dispatch_under_way(fleet: Directed) -> None:
    """The same with a person who pauses the task: what was decided before is void, and nothing runs until the resume."""
    task_id = fleet.submit(TaskSpec(payload=WORK, target="all"), Course(lasts_ms=300))
    fleet.until("a dispatch is under way", lambda: fleet.under_way(events.AttemptsDispatched, task_id=task_id))
    fleet.expect("the log has none yet", not fleet.books.entries(events.AttemptsDispatched, task_id=task_id))
    fleet.overtake(control_events.PauseRequested(task_id=task_id, reason="wait"), events.REQUEST)
    fleet.until("the log has it", lambda: fleet.books.entries(events.AttemptsDispatched, task_id=task_id))
    fleet.wait(1_000, 30_000)
    fleet.expect("nothing runs", not fleet.runs(task_id))
    fleet.append(control_events.ResumeRequested(task_id=task_id), events.REQUEST)
    fleet.until("it runs", lambda: fleet.runs(task_id))


SOAK_MS = 30_000
"""Three times as long as it takes another dispatcher to take over."""


@directed(hosts=2)
def a_leader_is_killed_during_a_soak(fleet: Directed) -> None:
    """Whoever takes over between two waves waits for what is left of the soak time."""
    rollout = Rollout(waves=("1",), soak_ms=SOAK_MS)
    task_id = fleet.submit(TaskSpec(payload=WORK, target="all", rollout=rollout), Course(lasts_ms=300))
    fleet.until("wave 1 has ended", lambda: fleet.books.entries(events.AttemptsEnded, task_id=task_id))
    fleet.wait(0, SOAK_MS // 2)
    killed, other = fleet.leader, fleet.standby
    killed.kill()
    fleet.until("the other one leads", lambda: other.engine.live is not None)
    fleet.expect("wave 2 has not begun", len(fleet.runs(task_id)) == 1)
    killed.start()
    fleet.until("wave 2 runs", lambda: len(fleet.runs(task_id)) == 2)


@directed(hosts=2)
def a_halt_is_decided_by_one_leader_while_the_other_takes_over(fleet: Directed) -> None:
    """The other one halts the task too, a person resumes it, and then comes the halt that the first one decided."""
    stale, other = fleet.leader, fleet.standby
    spec = TaskSpec(payload=WORK, target="all", rollout=Rollout(batch="1"))
    task_id = fleet.submit(spec, Course(lasts_ms=30_000, exit_code=1))
    fleet.until("wave 1 has failed", lambda: fleet.books.entries(events.AttemptsEnded, task_id=task_id))
    fleet.world.faults = replace(SLOW, lost_append=1)
    fleet.until("its halt is decided", lambda: fleet.under_way(events.TasksHalted, task_id=task_id))
    stale.pause()
    fleet.world.faults = SLOW
    fleet.until("the other one halts it", lambda: fleet.books.entries(events.TasksHalted, task_id=task_id))
    fleet.expect("the other one leads", other.engine.live is not None)
    fleet.wait(0, 5_000)
    fleet.append(control_events.ResumeRequested(task_id=task_id), events.REQUEST)
    fleet.until("wave 2 runs", lambda: len(fleet.runs(task_id)) == 2)
    stale.go_on()
    fleet.until("the fence refuses the first halt", lambda: stale.fenced)
    fleet.expect("that was it", entries_of(stale.fenced[-1], events.TasksHalted, task_id=task_id))
    fleet.until("the task has ended", lambda: fleet.books.entries(events.TasksEnded, task_id=task_id))
    fleet.expect("it was halted once", len(fleet.books.entries(events.TasksHalted, task_id=task_id)) == 1)


@directed(hosts=2)
def a_replaced_single_run_is_on_a_host_that_cannot_be_reached(fleet: Directed) -> None:
    """The new run waits for the host's word that the old one has ended, or until its deadline and every grace are over."""
    host = fleet.hosts[0]
    spec = TaskSpec(payload=WORK, target="h0", key="deploy", timeout_ms=20_000)
    old = fleet.submit(spec, Course(lasts_ms=HOUR_MS, stubborn=True))
    fleet.until("the old run is known to run", lambda: fleet.books.entries(events.AttemptsStarted, task_id=old))
    host.disconnect()
    newer = msgspec.structs.replace(spec, target="h1", single_run="replace")
    new = fleet.submit(newer, Course(lasts_ms=300))
    fleet.until("it is replaced", lambda: fleet.books.entries(events.TasksReplaced, task_id=old))
    comes_back = fleet.chance.random() < 0.5
    if comes_back:
        fleet.wait(0, 10_000)
        host.connect()
    fleet.expect("the old run still runs", fleet.running(old))
    fleet.until("the new run runs", lambda: fleet.runs(new))
    fleet.expect("the old run has ended by then", not fleet.running(old))
    first = fleet.books.entries(events.AttemptsEnded, task_id=old)[0]
    fleet.expect("it is lost if its host did not come back", (first["outcome"] == "lost") is not comes_back)


@directed(hosts=2, settings=DispatcherSettings(slots_per_host=4))
def a_queue_is_full_while_another_dispatcher_takes_over(fleet: Directed) -> None:
    """Whoever takes over counts what is in flight, and dispatches nothing more until that has ended."""
    fleet.append(policy_events.QueueLimited(queue="builds", in_flight_max=1), events.CATALOG)
    fleet.until("the queue is limited", lambda: fleet.books.entries(policy_events.QueueLimited))
    first = fleet.submit(TaskSpec(payload=WORK, target="h0", queue="builds"), Course(lasts_ms=60_000))
    fleet.until("the queue is full", lambda: fleet.running(first))
    second = fleet.submit(TaskSpec(payload=WORK, target="h1", queue="builds"), Course(lasts_ms=300))
    fleet.until("another task waits", lambda: fleet.books.entries(events.TasksPlanned, task_id=second))
    killed, other = fleet.leader, fleet.standby
    killed.kill()
    fleet.until("the other one leads", lambda: other.engine.live is not None)
    fleet.wait(2_000, 20_000)
    fleet.expect("the first one has the queue to itself", fleet.running(first) and not fleet.runs(second))
    killed.start()
    fleet.until("the second one runs", lambda: fleet.runs(second))
    fleet.expect("the first one has ended", not fleet.running(first))


@directed(settings=DispatcherSettings(slots_per_host=2))
def a_host_is_offline_for_an_hour(fleet: Directed) -> None:
    """What runs goes on and is told an hour later; what waited too long is unreached and never runs; the rest runs then."""
    host = fleet.hosts[0]
    spec = TaskSpec(payload=WORK, target="all", timeout_ms=2 * HOUR_MS)
    long = fleet.submit(spec, Course(lasts_ms=HOUR_MS // 2))
    fleet.until("it is known to run", lambda: fleet.books.entries(events.AttemptsStarted, task_id=long))
    host.disconnect()
    fleet.until("the host is offline", lambda: fleet.books.entries(host_events.HostsOffline))
    patient = fleet.submit(msgspec.structs.replace(spec, wait_offline_ms=2 * HOUR_MS), Course(lasts_ms=300))
    waits_ms = fleet.chance.randint(0, HOUR_MS // 2)
    impatient = fleet.submit(msgspec.structs.replace(spec, wait_offline_ms=waits_ms), Course(lasts_ms=300))
    fleet.wait(HOUR_MS - 60_000, HOUR_MS)
    given_up = fleet.books.entries(events.AttemptsEnded, task_id=impatient)
    fleet.expect("the impatient one is unreached", [one["outcome"] for one in given_up] == ["unreached"])
    fleet.expect("the long one has ended, and nobody knows", fleet.runs(long) and not fleet.running(long))
    fleet.expect("nothing was said of it", not fleet.books.entries(events.AttemptsEnded, task_id=long))
    host.connect()
    fleet.until("its end is told", lambda: fleet.books.entries(events.AttemptsEnded, task_id=long, outcome="success"))
    fleet.until("the patient one runs", lambda: fleet.runs(patient))
    fleet.wait(0, 120_000)
    fleet.expect("the impatient one never ran", not fleet.runs(impatient))


@directed()
def a_host_comes_and_goes_every_second(fleet: Directed) -> None:
    """A command reaches a host that stays for a moment only, each time, and runs once."""
    host = fleet.hosts[0]
    task_id = fleet.submit(TaskSpec(payload=WORK, target="all", wait_offline_ms=HOUR_MS), Course(lasts_ms=5_000))
    for _ in range(60):
        host.disconnect()
        fleet.wait(100, 1_000)
        host.connect()
        fleet.wait(500, 1_500)
    fleet.until("it has run", lambda: fleet.books.entries(events.AttemptsEnded, task_id=task_id, outcome="success"))
    fleet.expect("it ran once", len(fleet.runs(task_id)) == 1)


@directed(hosts=2)
def a_definition_is_changed_and_removed_while_runs_of_it_are_open(fleet: Directed) -> None:
    """Runs of one definition are single by its id, and what becomes of the definition stops and narrows none of them."""
    definition_id = fleet.world.new_id()

    def told(version: int) -> None:
        what = Definition("report", TaskSpec(payload=WORK, target="all", single_run="queue", priority=version))
        fleet.append(definition_events.DefinitionSet(definition_id, version, what), events.CATALOG)

    def run(version: int, target: str) -> TaskSpec:
        return TaskSpec(
            payload=WORK, target=target, name="report", key=definition_id, single_run="queue",
            definition=Origin(definition_id, version, "report", {"path": "/"}),
        )

    told(1)
    first = fleet.submit(run(1, "h0"), Course(lasts_ms=60_000))
    fleet.until("the first one runs", lambda: fleet.running(first))
    told(2)
    told(2)  # void: somebody rests on a version that is gone
    second = fleet.submit(run(2, "h1"), Course(lasts_ms=300))
    fleet.until("the second one is planned", lambda: fleet.books.entries(events.TasksPlanned, task_id=second))
    killed, other = fleet.leader, fleet.standby
    killed.kill()
    fleet.until("the other one leads", lambda: other.engine.live is not None)
    fleet.append(definition_events.DefinitionRemoved(definition_id, "report"), events.CATALOG)
    fleet.wait(2_000, 20_000)
    fleet.expect("the first one runs alone", fleet.running(first) and not fleet.runs(second))
    killed.start()
    fleet.until("the second one runs", lambda: fleet.runs(second))
    fleet.expect("the first one has ended, and well", not fleet.running(first) and fleet.books.entries(
        events.AttemptsEnded, task_id=first, outcome="success"))


HISTORIES: tuple[History, ...] = (
    an_agent_returns_to_an_attempt_that_was_given_up, a_deposed_leader_goes_on_with_what_it_believed,
    a_freeze_overtakes_a_dispatch_under_way, a_pause_overtakes_a_dispatch_under_way, a_leader_is_killed_during_a_soak,
    a_halt_is_decided_by_one_leader_while_the_other_takes_over,
    a_replaced_single_run_is_on_a_host_that_cannot_be_reached, a_queue_is_full_while_another_dispatcher_takes_over,
    a_host_is_offline_for_an_hour, a_host_comes_and_goes_every_second,
    a_definition_is_changed_and_removed_while_runs_of_it_are_open,
)
