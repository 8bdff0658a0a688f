"""The routes, by topic. Importing this package declares them all."""

from __future__ import annotations

from fleetlog_gateway.routes import (
    archive,
    control,
    definitions,
    files,
    hosts,
    live,
    policies,
    reads,
    reruns,
    runs,
    schedules,
    system,
    tasks,
    ticks,
)

__all__ = ["archive", "control", "definitions", "files", "hosts", "live", "policies", "reads", "reruns", "runs", "schedules", "system", "tasks", "ticks"]
