"""The routes, by topic. Importing this package declares them all."""

from __future__ import annotations

from fleetlog_gateway.routes import (
    alerts,
    archive,
    artifacts,
    control,
    definitions,
    exports,
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
    webhooks,
)

__all__ = [
    "alerts", "archive", "artifacts", "control", "definitions", "exports", "files", "hosts", "live", "policies", "reads", "reruns", "runs", "schedules", "system",
    "tasks", "ticks", "webhooks",
]
