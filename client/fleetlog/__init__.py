"""The command line `fleetlog` and the Python client.

The names below are the public interface, with `fleetlog.aio` for event loops; each is loaded on first use, so that the
command line starts without it. `CliError` is what every refusal and every failure to reach the gateway is raised as.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetlog.client import Client as Client
    from fleetlog.client import new_task_id as new_task_id
    from fleetlog.completed import as_completed as as_completed
    from fleetlog.exits import CliError as CliError
    from fleetlog.exits import NotEnded as NotEnded
    from fleetlog.functions import Handle as Handle
    from fleetlog.functions import SubmittedInPart as SubmittedInPart
    from fleetlog.functions import TaskFailed as TaskFailed
    from fleetlog.tasks import WrongArguments as WrongArguments
    from fleetlog.tasks import report_progress as report_progress
    from fleetlog.tasks import task as task

__all__ = [
    "CliError", "Client", "Handle", "NotEnded", "SubmittedInPart", "TaskFailed", "WrongArguments", "as_completed", "new_task_id",
    "report_progress", "task",
]
_WHERE = {
    "Client": "client", "CliError": "exits", "Handle": "functions", "NotEnded": "exits", "SubmittedInPart": "functions",
    "TaskFailed": "functions", "WrongArguments": "tasks", "as_completed": "completed", "new_task_id": "client", "report_progress": "tasks", "task": "tasks",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"fleetlog.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'fleetlog' has no attribute {name!r}")
