"""The stored events of people's control over tasks under way: cancel, pause, resume, approve, abort, skip.

Part of the format that `events.py` begins, by the same rules. Nothing here changes a task by itself: the lifecycle says
what each does to a task in the state in which it finds it.
"""

from __future__ import annotations

from fleetlog_schemas.events import REQUEST, Data, event


@event(
    "fleetlog.task.cancel-requested.v1", "evt.request evt.request", "gateway scheduler", "dispatcher", "reporter"
)
class CancelRequested(Data, frozen=True):
    """A person wants a task, or some of its commands, to end."""

    task_id: str
    host_ids: tuple[str, ...] = ()
    """Empty: the whole task."""
    reason: str = ""
    parts: tuple[str, ...] = ()
    """Of a workflow: only these."""


@event("fleetlog.task.all-cancel-requested.v1", REQUEST, "gateway", "dispatcher", "reporter")
class AllCancelRequested(Data, frozen=True):
    """A person wants every task that is open at this moment to end."""

    reason: str = ""


@event("fleetlog.task.pause-requested.v1", REQUEST, "gateway", "dispatcher", "reporter")
class PauseRequested(Data, frozen=True):
    """A person wants a task to start nothing more; what runs goes on."""

    task_id: str
    reason: str = ""


@event("fleetlog.task.resume-requested.v1", REQUEST, "gateway", "dispatcher", "reporter")
class ResumeRequested(Data, frozen=True):
    """A person lets a paused or halted task go on; the failures so far no longer count against its budget."""

    task_id: str
    reason: str = ""


@event("fleetlog.task.approved.v1", REQUEST, "gateway", "dispatcher", "reporter")
class TaskApproved(Data, frozen=True):
    """A person lets the waves of a task up to this one begin."""

    task_id: str
    wave: int
    """From 1."""
    reason: str = ""


@event("fleetlog.task.abort-requested.v1", REQUEST, "gateway", "dispatcher", "reporter")
class AbortRequested(Data, frozen=True):
    """A person wants a task to start nothing more for good: what waits is skipped, what runs goes on to its end."""

    task_id: str
    reason: str = ""


@event("fleetlog.task.skip-requested.v1", REQUEST, "gateway", "dispatcher", "reporter")
class SkipRequested(Data, frozen=True):
    """A person wants a task to pass over some hosts; only commands that still wait are skipped."""

    task_id: str
    host_ids: tuple[str, ...]
    reason: str = ""
