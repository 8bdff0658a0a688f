"""The command line `fleetlog` and the Python client.

`from fleetlog import Client, task, report_progress, TaskFailed` is the public interface, with `fleetlog.aio` for event loops;
it is loaded on first use, so that the command line starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetlog.client import Client as Client
    from fleetlog.functions import TaskFailed as TaskFailed
    from fleetlog.tasks import report_progress as report_progress
    from fleetlog.tasks import task as task

__all__ = ["Client", "TaskFailed", "report_progress", "task"]
_WHERE = {"Client": "client", "TaskFailed": "functions", "report_progress": "tasks", "task": "tasks"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"fleetlog.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'fleetlog' has no attribute {name!r}")
