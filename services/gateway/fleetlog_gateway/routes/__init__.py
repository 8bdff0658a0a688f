"""The routes, by topic. Importing this package declares them all."""

from __future__ import annotations

from fleetlog_gateway.routes import (
    archive,
    artifacts,
    control,
    definitions,
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

__all__ = ["archive", "artifacts", "control", "definitions", "hosts", "live", "policies", "reads", "reruns", "runs", "schedules", "system", "tasks", "ticks"]
