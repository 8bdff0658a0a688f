"""The directed histories; `directed.py` says how to tell one."""

from __future__ import annotations

from fleetlog_agent.journal_records import Key
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Retry, TaskSpec
from fleetlog_simulation.books import entries_of
from fleetlog_simulation.directed import Directed, History, directed
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


HISTORIES: tuple[History, ...] = (
    an_agent_returns_to_an_attempt_that_was_given_up, a_deposed_leader_goes_on_with_what_it_believed,
)
